#!/bin/sh
# Print the Python that makes the environment: the first of $PYTHON, python3.11 to 3.13 and
# python3 that really runs, is 3.11 to 3.13, and can make environments.
set -u

test_program='
import sys
if not (3, 11) <= sys.version_info[:2] < (3, 14):
    sys.exit("it is %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError as error:
    sys.exit("it lacks %s; on Debian and Ubuntu: apt install python%d.%d-venv"
             % (error.name, *sys.version_info[:2]))
'

findings=""
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
  command -v "$candidate" >/dev/null 2>&1 || continue
  if reason=$("$candidate" -c "$test_program" 2>&1); then
    command -v "$candidate"
    exit 0
  fi
  findings="$findings
  $(command -v "$candidate"): $(printf '%s' "$reason" | tail -n 1)"
done

cat >&2 <<MESSAGE
lydite needs Python 3.11, 3.12 or 3.13 with venv, and none was found${findings:+:$findings}
Install one, or name it: make PYTHON=/path/to/python3.11 ...
MESSAGE
exit 1

#!/bin/sh
# Install this tree with some of its extras into an environment, making that first if need be.
#
#   scripts/install.sh .venv train      what `make demo` needs
#   scripts/install.sh .venv dev        that and the development tools
#
# Versions come from requirements.lock. A torch (2.10 or newer) that the machine's own Python can
# import is used as it is: the environment then sees the machine's packages, and torch is neither
# pinned nor installed. Everything pip says goes to install.log in the environment.
set -eu
cd "$(dirname "$0")/.."
venv=$1
extra=$2
python="$venv/bin/python"
log="$venv/install.log"

outside_torch='
import re, sys
import torch
numbers = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
sys.exit(not (numbers >= (2, 10) and not torch.__file__.startswith(sys.prefix)))
'
own_torch='import os, torch; print(torch.__version__, "in", os.path.dirname(torch.__file__))'

if ! "$python" -m pip --version >/dev/null 2>&1; then
  base=$(sh scripts/find_python.sh)
  echo "Making $venv with $base ($("$base" -V))"
  if "$base" -c 'import torch' >/dev/null 2>&1; then
    "$base" -m venv --clear --system-site-packages "$venv"
  else
    "$base" -m venv --clear "$venv"
  fi
fi

constraints="$venv/constraints.txt"
if "$python" -c "$outside_torch" >/dev/null 2>&1; then
  echo "Using the torch that is already there: $("$python" -c "$own_torch")"
  grep -v '^torch==' requirements.lock >"$constraints"
else
  cp requirements.lock "$constraints"
fi

echo "Installing lydite[$extra]; the first time takes minutes, torch is the large part"
status_file="$venv/install.status"
{
  status=0
  "$python" -m pip install --disable-pip-version-check --progress-bar off \
    --constraint "$constraints" --editable ".[$extra]" 2>&1 || status=$?
  echo "$status" >"$status_file"
} | tee "$log" | sed -n \
  -e 's/^ *Downloading \([^ ]*\/\)\{0,1\}\([^ /]*\) (\([0-9.]* [MG]B\)).*/  downloading \2 (\3)/p' \
  -e 's/^Installing collected packages:.*/  unpacking/p' \
  -e '/^ERROR/p'
status=$(cat "$status_file")
if [ "$status" -ne 0 ]; then
  echo "pip failed; the end of $log:" >&2
  tail -n 30 "$log" >&2
  exit "$status"
fi
echo "Installed: $("$python" -c 'import sys; print("Python", sys.version.split()[0])'), torch $("$python" -c "$own_torch")"

#!/usr/bin/env bash
# Resolve pyproject.toml anew and write requirements.lock: name==version lines for Python 3.11 to
# 3.13 on every platform. Run through `make lock`; arguments go to `uv pip compile` (--upgrade).
#
# torch is pinned by hand, because the version is a decision (what was tested), not a resolution.
# The CUDA libraries that its Linux wheel pulls in are left out: torch pins them itself, and a
# build without CUDA has none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${1:?usage: scripts/lock.sh PYTHON [option ...]}"
shift

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
echo "torch==2.13.0" >"$work/pins.txt"
grep -E '^[A-Za-z0-9._-]+==' requirements.lock >"$work/lock" 2>/dev/null || true
"$work/venv/bin/uv" pip compile pyproject.toml --extra train --extra dev \
  --universal --python-version 3.11 --constraint "$work/pins.txt" \
  --no-header --no-annotate --no-emit-index-url --quiet --output-file "$work/lock" "$@" >/dev/null
{
  echo "# Versions that lydite is tested with; written by 'make lock', used as pip constraints."
  grep -Ev '^(nvidia-|cuda-|triton)' "$work/lock"
} >"$work/new"
if grep -nE '://|@|--' "$work/new"; then
  echo "requirements.lock would hold an address or an option: not written." >&2
  exit 1
fi
mv "$work/new" requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"

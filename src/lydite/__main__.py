"""`python -m lydite` is the same as `lydite`."""

from __future__ import annotations

import sys

from lydite.cli import main

if __name__ == "__main__":
    sys.exit(main())

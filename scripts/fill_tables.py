"""Put the tables of committed results into README.md; `--check` only looks."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lydite.report.markdown import fill
from lydite.study.spec import read_study

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "README.md"
STUDIES = ("first",)


def recipes_of(study: Path) -> list[str]:
    """Return the recipes' names in the order of the study file."""
    import os

    os.environ.setdefault("LYDITE_FIELDPACK", "unused")
    return [entry.name for entry in read_study(str(study)).recipes]


def main() -> int:
    """Fill README.md, or check a copy of it."""
    check = "--check" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / PAGE.name if check else PAGE
        page.write_bytes(PAGE.read_bytes())
        changed = [
            fill(
                page, name, ROOT / "studies" / name / "results", recipes_of(ROOT / "studies" / name)
            )
            for name in STUDIES
        ]
    if check and any(changed):
        print("README.md does not show the committed results. Run: make tables")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Put the committed results of `studies/` into the pages that quote them; with --check only look.

A page says `<!-- table:NAME -->` ... `<!-- /table -->`; what stands between is made from
`studies/NAME/results`, recipes in the order of `studies/NAME/study.yaml`.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from lydite.report.markdown import fill

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"<!-- table:([a-z0-9-]+) -->")


def fill_page(page: Path) -> list[str]:
    """Fill the places of one page and return the names of the tables that changed."""
    changed = []
    for name in PLACE.findall(page.read_text("utf-8")):
        results = ROOT / "studies" / name / "results"
        if not results.is_dir():
            print(f"{page.name}: studies/{name} has no results yet")
            continue
        study = yaml.safe_load((ROOT / "studies" / name / "study.yaml").read_text("utf-8"))
        if fill(page, name, results, [recipe["name"] for recipe in study["recipes"]]):
            changed.append(f"{page.name}: table {name}")
    return changed


def main(check: bool) -> int:
    """Fill every place and return 1 when `check` finds one that is not as the results say."""
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            target = Path(shutil.copy(page, scratch)) if check else page
            stale += fill_page(target)
    print("\n".join(stale) or "every table is as the results say")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

"""Put the committed results of `studies/` into the pages that quote them; with --check only look.

What stands in README.md or docs/*.md between `<!-- table:NAME -->` and `<!-- /table -->` is made
from `studies/NAME/results`, recipes in the order of `studies/NAME/study.yaml`; between
`<!-- figure:NAME -->` and `<!-- /figure -->` stands the drawing that is written to docs/NAME.svg.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from lydite.report.figures import trade_off
from lydite.report.markdown import fill
from lydite.report.view import lines_of
from lydite.study.results import read_results

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"<!-- (table|figure):([a-z0-9-]+) -->\n")
BACKGROUND = '<rect width="100%" height="100%" rx="6" fill="#fffdf8"/>'
ALT = "AUC on generators the detectors never met, against the size of the file"


def results_of(name: str) -> Path | None:
    """Return the folder of a study's committed results, or None while there are none."""
    folder = ROOT / "studies" / name / "results"
    return folder if any(folder.glob("*.json")) else None


def drawing(results: Path, name: str) -> str:
    """Return the study's AUC on unseen generators against file size, as an SVG file."""
    lines = lines_of(read_results(results))
    svg = trade_off(lines, "auc", "unseen-mean", name, ALT, "mean AUC on unseen generators")
    svg = re.sub(r"var\(--\w+, (#[0-9a-f]{6})\)", r"\1", svg)
    head = svg.index("<title")
    return f"{svg[:head]}{BACKGROUND}{svg[head:]}\n"


def fill_table(page: Path, name: str, results: Path) -> bool:
    """Fill one table of a page and return whether it changed."""
    study = yaml.safe_load((ROOT / "studies" / name / "study.yaml").read_text("utf-8"))
    return fill(page, name, results, [recipe["name"] for recipe in study["recipes"]])


def fill_figure(page: Path, name: str) -> bool:
    """Show `docs/NAME.svg` at its place in a page and return whether the page changed."""
    folder = "docs/" if page.name == "README.md" else ""
    shown = f"![{ALT}]({folder}{name}.svg)\n"
    text = page.read_text("utf-8")
    pattern = re.compile(rf"(<!-- figure:{name} -->\n).*?(<!-- /figure -->)", re.DOTALL)
    filled = pattern.sub(lambda match: f"{match[1]}{shown}{match[2]}", text)
    page.write_text(filled, "utf-8")
    return filled != text


def fill_page(page: Path, check: bool) -> list[str]:
    """Fill the places of one page and return the names of those that changed."""
    changed = []
    for kind, name in PLACE.findall(page.read_text("utf-8")):
        results = results_of(name)
        if results is None:
            print(f"{page.name}: studies/{name} has no results yet")
        elif kind == "table":
            if fill_table(page, name, results):
                changed.append(f"{page.name}: table {name}")
        else:
            if not check:
                (ROOT / "docs" / f"{name}.svg").write_text(drawing(results, name), "utf-8")
            if fill_figure(page, name):
                changed.append(f"{page.name}: figure {name}")
    return changed


def main(check: bool) -> int:
    """Fill every place and return 1 when `check` finds one that is not as the results say."""
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            target = Path(shutil.copy(page, scratch)) if check else page
            stale += fill_page(target, check)
    print("\n".join(stale) or "the pages say what the results say")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

"""Put the committed results of `studies/` into the pages that quote them; with --check only look.

What stands in README.md or docs/*.md between `<!-- table:NAME -->` and `<!-- /table -->` is made
from `studies/NAME/results`, recipes in the order of `studies/NAME/study.yaml`; so are the tables
over folds, between `<!-- seen:NAME -->` and `<!-- /seen -->`, `source` and `unseen`, and those of a
`protocol`, which need `studies/NAME/results/protocol.json` besides. Drawings stand
between `<!-- KIND:NAME -->` and `<!-- /KIND -->`: a `figure` (AUC on unseen generators against
size, docs/NAME.svg), `rates` (accuracy against the share removed, docs/NAME-rates.svg), `curves`
(accuracy against how many images were learned from, a column a fold, docs/NAME-curves.svg), `depth`
(what an adapter is worth at every place, docs/NAME-depth.svg), `held` (AUC on what each fold of a
protocol holds out, docs/NAME-held.svg), `gains` (what recipes bring there, in `studies/NAME` and in
every `studies/NAME-*` that has results, docs/NAME-gains.svg) or the `sensitivity` of its reference
(from `studies/NAME/sensitivity.json`). Between
`<!-- placement:NAME -->` and `<!-- /placement -->` stands what predictors of an adapter's place are
worth, made from the placements in `studies/NAME/results`; between `<!-- degraded:NAME -->` and
`<!-- /degraded -->` what degraded images cost each recipe.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from lydite.compress.sensitivity_result import Sensitivity
from lydite.report.across import VIEWS, fill_across, read_folds
from lydite.report.degraded_table import degraded_table
from lydite.report.depth import depth_curves
from lydite.report.figures import trade_off
from lydite.report.gains import gain_column, gains_figure
from lydite.report.held import held_figure
from lydite.report.markdown import fill, fill_place
from lydite.report.placement_table import placement_table
from lydite.report.protocol import fill_protocol, folds_of, record_of
from lydite.report.rates import rate_curves
from lydite.report.sensitivity import sensitivity_map
from lydite.report.shots import shot_curves
from lydite.report.view import lines_of
from lydite.study.results import read_results
from lydite.transfer.placement_compare import compare_placements, read_placements

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(
    r"<!-- (table|figure|rates|curves|sensitivity|depth|held|gains|seen|source|unseen|placement|"
    r"degraded|protocol):([a-z0-9-]+) -->\n"
)
BACKGROUND = '<rect width="100%" height="100%" rx="6" fill="#fffdf8"/>'
ALT = {
    "figure": "AUC on generators the detectors never met, against the size of the file",
    "sensitivity": "What is lost when a share of one layer's channels goes",
    "depth": "What an adapter behind each stage brings, for several detectors and targets",
    "curves": "Accuracy on target and source against how many images were learned from",
    "gains": "What each recipe brings on domains that were left out, by the size of the network",
    "held": "AUC of every recipe on each domain that was left out, and the mean",
    "rates": "Accuracy on the known generator and AUC on unknown ones, against the share removed",
}


def results_of(name: str) -> Path | None:
    """Return the folder of a study's committed results, or None while there are none."""
    folder = ROOT / "studies" / name / "results"
    return folder if any(folder.rglob("*.json")) else None


def drawing(results: Path, kind: str, name: str) -> str:
    """Return one drawing of a study as an SVG file.

    Raises:
        SystemExit: the study has nothing to draw of this kind.
    """
    if kind == "depth":
        return framed(depth_curves(list(read_placements(results).values())), name)
    if kind == "held":
        return framed(held_drawing(results), name)
    if kind == "gains":
        return framed(gains_drawing(name), name)
    if kind == "curves":
        return framed(shot_curves(read_folds(results)), name)
    if kind == "sensitivity":
        value = json.loads((ROOT / "studies" / name / "sensitivity.json").read_text("utf-8"))
        return framed(sensitivity_map(Sensitivity.model_validate(value)), name)
    lines = lines_of(read_results(results))
    if not lines:
        sys.exit(f"studies/{name} has results of folds alone, which make no drawing '{kind}'")
    if kind == "rates":
        return framed(rate_curves(lines, lines[0].result.seen), name)
    axis = "mean AUC on unseen generators"
    return framed(trade_off(lines, "auc", "unseen-mean", name, ALT[kind], axis), name)


def held_drawing(results: Path) -> str | None:
    """Return the drawing of what a protocol's folds hold out, None where there is no record."""
    record = record_of(results, read_folds(results))
    return None if record is None else held_figure(record, folds_of(record, results))


def gains_drawing(name: str) -> str | None:
    """Return the drawing of what recipes bring in a study and in those named after it."""
    columns, order = [], []
    for folder in [ROOT / "studies" / name, *sorted((ROOT / "studies").glob(f"{name}-*"))]:
        results = results_of(folder.name)
        record = None if results is None else record_of(results, read_folds(results))
        if results is not None and record is not None:
            columns.append(gain_column(record, folds_of(record, results)))
            order += order_of(folder.name)
    return gains_figure([column for column in columns if column is not None], order)


def order_of(name: str) -> list[str]:
    """Return the recipes of a study as its file has them."""
    study = yaml.safe_load((ROOT / "studies" / name / "study.yaml").read_text("utf-8"))
    return [recipe["name"] for recipe in study["recipes"]]


def framed(svg: str | None, name: str) -> str:
    """Return a drawing as a file of its own, with colors and a background.

    Raises:
        SystemExit: there is none.
    """
    if svg is None:
        sys.exit(f"studies/{name} has too little to draw a curve of")
    svg = re.sub(r"var\(--\w+, (#[0-9a-f]{6})\)", r"\1", svg)
    head = svg.index("<title")
    return f"{svg[:head]}{BACKGROUND}{svg[head:]}\n"


def drawing_name(kind: str, name: str) -> str:
    """Return the file in docs/ that a drawing is kept in."""
    return f"{name}.svg" if kind == "figure" else f"{name}-{kind}.svg"


def fill_table(page: Path, kind: str, name: str, results: Path) -> bool:
    """Fill one table of a page and return whether it changed."""
    order = order_of(name)
    if kind == "protocol":
        return fill_protocol(page, name, results, order)
    if kind in VIEWS:
        return fill_across(page, name, kind, results, order)
    if kind == "degraded":
        found = sorted(read_results(results), key=lambda r: (_place(order, r.recipe), r.seed))
        return fill_place(page, kind, name, degraded_table(lines_of(found)))
    return fill(page, name, results, order)


def _place(order: list[str], recipe: str) -> int:
    """Return where a recipe stands; behind all others where it was taken out."""
    return order.index(recipe) if recipe in order else len(order)


def fill_drawing(page: Path, kind: str, name: str) -> bool:
    """Show a drawing of docs/ at its place in a page and return whether the page changed."""
    folder = "docs/" if page.name == "README.md" else ""
    shown = f"![{ALT[kind]}]({folder}{drawing_name(kind, name)})\n"
    text = page.read_text("utf-8")
    pattern = re.compile(rf"(<!-- {kind}:{name} -->\n).*?(<!-- /{kind} -->)", re.DOTALL)
    filled = pattern.sub(lambda match: f"{match[1]}{shown}{match[2]}", text)
    page.write_text(filled, "utf-8")
    return filled != text


def fill_placement(page: Path, name: str, results: Path) -> bool:
    """Fill one table of predictors and return whether the page changed."""
    shown = placement_table(compare_placements(read_placements(results)).effects)
    return fill_place(page, "placement", name, shown)


def fill_page(page: Path, check: bool) -> list[str]:
    """Fill the places of one page and return the names of those that changed."""
    changed = []
    for kind, name in PLACE.findall(page.read_text("utf-8")):
        results = results_of(name)
        if results is None:
            print(f"{page.name}: studies/{name} has no results yet")
        elif kind in ("table", "degraded", "protocol") or kind in VIEWS:
            if fill_table(page, kind, name, results):
                changed.append(f"{page.name}: {kind} {name}")
        elif kind == "placement":
            if fill_placement(page, name, results):
                changed.append(f"{page.name}: placement {name}")
        else:
            path = ROOT / "docs" / drawing_name(kind, name)
            drawn = drawing(results, kind, name)
            stale = not path.is_file() or path.read_text("utf-8") != drawn
            if stale and not check:
                path.write_text(drawn, "utf-8")
            if fill_drawing(page, kind, name) or stale:
                changed.append(f"{page.name}: {kind} {name}")
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

"""Results of several folds in one table: a row a recipe, a column a fold."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from lydite.errors import DataError
from lydite.evaluate.voices import WITH
from lydite.report.markdown import fill_place, over_seeds
from lydite.study.results import (
    STUDY_FILE,
    Result,
    StepCost,
    newest,
    read_results,
    results_of_plan,
)
from lydite.study.spec import SHARED

#: what tables over folds show, by name: metric, group of domains, heading
VIEWS = {
    "seen": ("accuracy", "seen", "Accuracy on what each fold learned"),
    "source": ("accuracy", "source", "Accuracy on what was known before"),
    "unseen": ("auc", "unseen-mean", "Mean AUC on all other domains"),
}


def read_folds(folder: Path) -> dict[str, list[Result]]:
    """Return the results of every fold in a folder, by the fold's name.

    Both layouts are read: `folder/FOLD/results/*.json` as a run leaves them, and
    `folder/FOLD/*.json` as they are committed. A fold that has not finished yet is left out.

    Raises:
        DataError: a file is not a result.
    """
    found = {}
    places = (path for path in folder.iterdir() if path.is_dir() and path.name not in SHARED)
    for fold in sorted(places):
        ran = (fold / STUDY_FILE).is_file()
        results = results_of_plan(fold) if ran else read_results(fold)
        if results:
            found[fold.name] = newest(results)
    return found


def grid(folds: Mapping[str, Sequence[Result]], view: str) -> list[list[str]]:
    """Return a view as rows of text, the header first.

    Of several seeds a cell is the mean and, behind a plus-minus, the standard deviation; of one it
    has the 95 % interval. What training took is the mean over folds and seeds.

    Args:
        folds: results by fold, those of one recipe one a seed.
        view: one of `VIEWS`.
    """
    metric, group, _ = VIEWS[view]
    recipes = list(dict.fromkeys(r.recipe for results in folds.values() for r in results))
    header = ["recipe", "parameters", "trained", "minutes", "peak MB", "pack kB", *folds]
    rows = []
    for recipe in recipes:
        mine = {name: [r for r in found if r.recipe == recipe] for name, found in folds.items()}
        every = [result for found in mine.values() for result in found]
        where = {"group": group, "split": "test"}
        cells = [cell_of(found, metric, where) for found in mine.values()]
        costs = _costs(every)
        rows.append([recipe, *costs, *cells])
        base = next((f.slice[WITH] for r in every for f in r.figures if WITH in f.slice), None)
        if base is not None:
            cells = [cell_of(found, metric, where | {WITH: base}) for found in mine.values()]
            rows.append([f"{recipe} with {base}", *[""] * len(costs), *cells])
    return [header, *rows]


def across_table(folds: Mapping[str, Sequence[Result]], view: str) -> str:
    """Return `grid` as a Markdown table."""
    header, *rows = grid(folds, view)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill_across(page: Path, name: str, view: str, folder: Path, order: Sequence[str]) -> bool:
    """Put a table between `<!-- VIEW:NAME -->` and `<!-- /VIEW -->` of a page.

    Args:
        page: a Markdown file.
        name: of the study.
        view: one of `VIEWS`.
        folder: its results, a folder a fold.
        order: recipes in the order of the rows.

    Returns:
        Whether the page changed.

    Raises:
        DataError: the page has no such place, or there are no results.
    """
    place = {recipe: number for number, recipe in enumerate(order)}
    folds = {
        fold: sorted(found, key=lambda r: (place.get(r.recipe, len(place)), r.seed))
        for fold, found in read_folds(folder).items()
    }
    if not folds:
        raise DataError(f"There are no results in {folder}.")
    return fill_place(page, view, name, across_table(folds, view))


def _costs(results: Sequence[Result]) -> list[str]:
    """Return parameters, and what all steps of the recipe took; what its start took is not known.

    What was trained is that of the last step, which is none where it trains nothing.
    """
    parameters = statistics.mean(result.cost.parameters for result in results)
    last = [result.steps[-1] for result in results if result.steps]
    trained = [step.trainable_parameters for step in last if step.trainable_parameters is not None]
    minutes = [_minutes(result.steps) for result in results]
    peaks = [
        max((step.peak_bytes for step in result.steps if step.peak_bytes), default=None)
        for result in results
    ]
    packs = [r.cost.pack_bytes for r in results if r.cost.pack_bytes is not None]
    known = [peak for peak in peaks if peak is not None]
    timed = [part for part in minutes if part is not None]
    return [
        f"{parameters:,.0f}",
        f"{statistics.mean(trained):,.0f}" if trained else "-",
        f"{statistics.mean(timed):.1f}" if any(timed) else "-",
        f"{statistics.mean(known) / 1e6:,.0f}" if known else "-",
        f"{statistics.mean(packs) / 1e3:.1f}" if packs else "-",
    ]


def _minutes(steps: Sequence[StepCost]) -> float | None:
    """Return what steps took together, None where that of one is not known."""
    seconds = [step.seconds for step in steps]
    known = [value for value in seconds if value is not None]
    return sum(known) / 60 if len(known) == len(seconds) else None


def cell_of(results: Sequence[Result], metric: str, where: dict[str, str]) -> str:
    """Return one recipe's figure in one fold."""
    figures = [result.figure(metric, **where) for result in results]
    values = [f.value for f in figures if f is not None and f.value is not None]
    if not values:
        return "-"
    text = f"{statistics.mean(values):.3f}"
    if len(results) > 1:
        return f"{text}{over_seeds(values, len(results))}"
    (figure,) = [f for f in figures if f is not None and f.value is not None]
    known = figure.low is not None and figure.high is not None
    return f"{text} [{figure.low:.3f}, {figure.high:.3f}]" if known else text

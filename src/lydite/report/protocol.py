"""A protocol's outcome as tables: what is held out, train by test, photographs by photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lydite.card import Figure
from lydite.errors import DataError
from lydite.evaluate.folds import HELD_OUT, gain_of, p_of
from lydite.evaluate.photographs import FALSE_ALARMS, GROUP, REAL_VS_REAL
from lydite.report.across import cell_of, read_folds
from lydite.report.markdown import fill_place
from lydite.report.view import SPLIT
from lydite.study.protocol import TURNS
from lydite.study.results import TOGETHER_FILE, Result
from lydite.study.spec import Fold
from lydite.study.together import RecipeTogether, Together, read_together

#: metrics that tables of what is held out are made of, and how they are called
METRICS = {"auc": "AUC", "accuracy": "Accuracy"}
_HELD = (
    "[95 % interval] over groups of test images, drawn once for all folds and recipes; of several "
    "seeds the mean. p is two-sided, paired by image; it knows nothing of other trainings"
)
Folds = Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        heading: above it.
        caption: how to read it.
        header: of its columns.
        rows: of text.
    """

    heading: str
    caption: str
    header: list[str]
    rows: list[list[str]]

    @property
    def markdown(self) -> str:
        """The table in Markdown, its heading before it."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.heading}**\n\n{body}"


def sections(record: Together, folds: Folds) -> list[Section]:
    """Return the tables of a protocol.

    Args:
        record: what its folds say together.
        folds: results by fold.
    """
    found = [held_out(record, metric) for metric in METRICS]
    kind = record.protocol.kind
    if kind == "pairwise":
        found += [train_by_test(record, folds, recipe.recipe) for recipe in record.recipes]
    if len(record.folds) == 1:
        apart = photographs(record, folds[record.folds[0].name])
        found = [*apart, *found] if kind == "real-against-real" else [*found, *apart]
    return found


def held_out(record: Together, metric: str) -> Section:
    """Return a row a recipe, a column a fold: a metric on what it holds out, then the mean.

    Gains over the reference follow, and where recipes were made of others those over these.
    """
    reference = record.reference
    several = len(record.folds) > 1
    compared = len(record.recipes) > 1
    # what comes after the reference has that gain already
    made = any(recipe.made_of not in (None, reference) for recipe in record.recipes)
    header = ["recipe", *(column_of(record, fold) for fold in record.folds)]
    header += ["mean"] * several + [f"minus {reference}", "p"] * compared
    header += ["minus what it comes after", "p"] * made
    rows = []
    for recipe in record.recipes:
        every: dict[str, str] = {"group": HELD_OUT, "split": SPLIT}
        cells = [_text(recipe.figure(metric, **every, fold=f.name)) for f in record.folds]
        cells += [_text(recipe.figure(metric, **every))] * several
        cells += _gained(recipe, metric, reference) * compared
        cells += _gained(recipe, metric, recipe.made_of) * made
        rows.append([recipe.recipe, *cells])
    heading = f"{METRICS[metric]} on what each fold holds out"
    return Section(heading, f"{METRICS[metric]}, {_HELD}", header, rows)


def _gained(recipe: RecipeTogether, metric: str, other: str | None) -> list[str]:
    """Return what a recipe gained over another in the mean over folds, and the p-value."""
    where = {"group": HELD_OUT, "split": SPLIT, "against": other or ""}
    gain, test = (recipe.figure(name, **where) for name in (gain_of(metric), p_of(metric)))
    p = "-" if test is None or test.value is None else f"{test.value:.3f}"
    return [_text(gain, signed=True), p]


def column_of(record: Together, fold: Fold) -> str:
    """Return what a fold's column is headed with."""
    if record.protocol.kind in TURNS:
        return f"without {fold.values['held']}"
    return f"learned {'+'.join(fold.seen)}"


def train_by_test(record: Together, folds: Folds, recipe: str) -> Section:
    """Return one recipe's AUC: a row for each domain it learned, a column for each it was asked."""
    tested = tested_on(folds)
    rows = []
    for fold in record.folds:
        mine = [r for r in folds[fold.name] if r.recipe == recipe]
        cells = [cell_of(mine, "auc", {"domain": domain, "split": SPLIT}) for domain in tested]
        rows.append(["+".join(fold.seen), *cells])
    caption = (
        "AUC by the domain that was learned (rows) and tested on (columns); the mean and standard "
        "deviation over seeds, or the 95 % interval of one"
    )
    return Section(f"{recipe}: train by test", caption, ["learned", *tested], rows)


def tested_on(folds: Folds) -> list[str]:
    """Return the domains that were measured, those that some fold learned first."""
    every = [result for results in folds.values() for result in results]
    learned = {domain for result in every for domain in result.seen}
    found = {f.slice["domain"] for result in every for f in result.figures if "domain" in f.slice}
    return sorted(found, key=lambda domain: (domain not in learned, domain))


def photographs(record: Together, results: Sequence[Result]) -> list[Section]:
    """Return what detectors make of photographs: how often they err, and which they tell apart."""
    recipes = [recipe.recipe for recipe in record.recipes]
    mine = {name: [r for r in results if r.recipe == name] for name in recipes}
    figures = [f for result in results for f in result.figures]
    alarms = sorted({f.slice["domain"] for f in figures if f.metric == FALSE_ALARMS})
    pairs = list(dict.fromkeys(f.slice["domains"] for f in figures if f.metric == REAL_VS_REAL))
    tables = (
        (
            "Photographs called fake",
            "Share of each domain's photographs that is called fake",
            FALSE_ALARMS,
            {domain: {"domain": domain, "split": SPLIT} for domain in alarms},
        ),
        (
            "Photographs against photographs",
            "Probability that a photograph of the second domain scores above one of the first: "
            "0.5 where the score does not tell where a photograph is from",
            REAL_VS_REAL,
            {pair: {"group": GROUP, "domains": pair, "split": SPLIT} for pair in pairs},
        ),
    )
    return [
        Section(
            heading,
            caption,
            ["photographs", *recipes],
            [[of, *(cell_of(mine[name], metric, where) for name in recipes)] for of, where in rows],
        )
        for heading, caption, metric, slices in tables
        if (rows := list(slices.items()))
    ]


def protocol_text(record: Together, folds: Folds) -> str:
    """Return all tables of a protocol in Markdown."""
    return "\n\n".join(section.markdown for section in sections(record, folds))


def ordered(record: Together, order: Sequence[str]) -> Together:
    """Return the record with its recipes in an order; those not named come last."""
    place = {name: number for number, name in enumerate(order)}

    def rank(recipe: RecipeTogether) -> int:
        return place.get(recipe.recipe, len(place))

    return record.model_copy(update={"recipes": tuple(sorted(record.recipes, key=rank))})


def record_of(folder: Path, folds: Folds) -> Together | None:
    """Return the record in a folder if it is of these folds, else None.

    A folder that was used again has folds of other names, or that learned something else.

    Args:
        folder: of all folds.
        folds: results by fold.

    Raises:
        DataError: the file is no such record, or a newer one.
    """
    record = read_together(folder)
    if record is None:
        return None
    for fold in record.folds:
        if any(result.seen != fold.seen for result in folds.get(fold.name, ())):
            return None
    return record if all(folds.get(fold.name) for fold in record.folds) else None


def folds_of(record: Together, folder: Path) -> dict[str, list[Result]]:
    """Return the results of a protocol's folds, in its order.

    Raises:
        DataError: one of them has none.
    """
    found = read_folds(folder)
    for fold in record.folds:
        if fold.name not in found:
            raise DataError(f"There are no results of the fold {fold.name} in {folder}.")
    return {fold.name: found[fold.name] for fold in record.folds}


def fill_protocol(page: Path, name: str, folder: Path, order: Sequence[str]) -> bool:
    """Put a protocol's tables between `<!-- protocol:NAME -->` and `<!-- /protocol -->` of a page.

    Args:
        page: a Markdown file.
        name: of the study.
        folder: its results, a folder a fold, and the record beside them.
        order: recipes in the order of the rows.

    Returns:
        Whether the page changed.

    Raises:
        DataError: the page has no such place, or there is no record or no results.
    """
    record = read_together(folder)
    if record is None:
        raise DataError(f"There is no {TOGETHER_FILE} in {folder}. Run the study to its end first.")
    text = protocol_text(ordered(record, order), folds_of(record, folder))
    return fill_place(page, "protocol", name, text)


def _text(figure: Figure | None, *, signed: bool = False) -> str:
    """Return a number with its interval, a difference with its sign."""
    if figure is None or figure.value is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{figure.value:{sign}.3f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"

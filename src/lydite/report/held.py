"""What every recipe makes of what was held out: a line a recipe, a mark a fold, the mean a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from lydite.card import Figure
from lydite.evaluate.folds import HELD_OUT
from lydite.report.svg import COLORS, draw, look
from lydite.report.view import SPLIT
from lydite.study.protocol import TURNS
from lydite.study.results import Result
from lydite.study.together import Together

CHANCE = 0.5
#: inches: width, height of a line, and what is around all lines
_WIDTH, _LINE, _AROUND = 7.2, 0.27, 0.9
#: names a row of the legend has room for
_NAMES = 4


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        recipe: its name.
        label: the name as drawn, with the number of parameters.
        mean: AUC over folds with its interval.
        folds: AUC by what is held out, None where it is undefined.
    """

    recipe: str
    label: str
    mean: Figure
    folds: dict[str, float | None]


def held_rows(record: Together, folds: Mapping[str, Sequence[Result]]) -> list[Row]:
    """Return what is drawn: recipes with a mean over folds, in the record's order.

    Args:
        record: what the folds say together.
        folds: results by fold, for the number of parameters.
    """
    sizes = {r.recipe: r.cost.parameters for results in folds.values() for r in results}
    rows = []
    for recipe in record.recipes:
        where: dict[str, str] = {"group": HELD_OUT, "split": SPLIT}
        mean = recipe.figure("auc", **where)
        if mean is None or mean.value is None:
            continue
        found = [(f, recipe.figure("auc", **where, fold=f.name)) for f in record.folds]
        rows.append(
            Row(
                recipe.recipe,
                f"{recipe.recipe}, {short_count(sizes[recipe.recipe])}",
                mean,
                {f.values["held"]: None if a is None else a.value for f, a in found},
            )
        )
    return rows


def held_figure(record: Together, folds: Mapping[str, Sequence[Result]]) -> str | None:
    """Return the figure, or None where the protocol does not hold out one thing after the other."""
    if record.protocol.kind not in TURNS or len(record.folds) < 2:
        return None
    rows = held_rows(record, folds)
    if not rows:
        return None
    held = list(rows[0].folds)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for number, row in enumerate(rows):
            _row(axes, number, row, held)
        axes.axvline(CHANCE, color=COLORS["ink"], lw=0.8)
        name_lines(axes, [row.label for row in rows])
        axes.set_xlabel("AUC on what was held out; 0.5 is chance")
        canvas.legend(handles=_legend(held), loc="outside upper left", ncols=_NAMES)

    words = "AUC on what each fold holds out. " + " ".join(
        f"{row.recipe}: mean {row.mean.value:.3f}; "
        + ", ".join(f"{name} {'-' if v is None else f'{v:.3f}'}" for name, v in row.folds.items())
        + "."
        for row in rows
    )
    legend = _LINE * math.ceil((len(held) + 1) / _NAMES)
    size = (_WIDTH, _AROUND + legend + _LINE * len(rows))
    return draw("held", "What was held out, by recipe", words, size, paint)


def name_lines(axes: Axes, names: Sequence[str]) -> None:
    """Make the vertical axis one of named lines, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", labelcolor=COLORS["ink"])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")


def _row(axes: Axes, number: int, row: Row, held: Sequence[str]) -> None:
    """Draw one recipe: the mean and its interval behind, a mark for each fold in front."""
    value, low, high = row.mean.value, row.mean.low, row.mean.high
    if low is not None and high is not None:
        axes.plot([low, high], [number] * 2, color=COLORS["gold"], lw=7, alpha=0.3)
    assert value is not None, "rows have a mean"
    axes.plot([value] * 2, [number - 0.3, number + 0.3], color=COLORS["gold"], lw=2.4)
    for place, name in enumerate(held):
        auc = row.folds[name]
        if auc is not None:
            color, marker = look(place)
            axes.plot(
                auc, number, marker=marker, ms=5, color=color, mec=COLORS["paper"], mew=0.6, ls=""
            )


def _legend(held: Sequence[str]) -> list[Line2D]:
    """Return what the legend names: what is held out, and the mean."""
    marks = [
        Line2D([], [], ls="", marker=look(place)[1], color=look(place)[0], ms=5, label=name)
        for place, name in enumerate(held)
    ]
    return [*marks, Line2D([], [], color=COLORS["gold"], lw=2.4, label="mean, 95 % interval")]


def short_count(parameters: int) -> str:
    """Return a number of parameters in three digits at most.

    >>> short_count(417_002), short_count(3_116_226), short_count(9_082)
    ('417 k', '3.1 M', '9.1 k')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            value = parameters / unit
            return f"{value:.0f} {name}" if value >= 10 else f"{value:.1f} {name}"
    return str(parameters)

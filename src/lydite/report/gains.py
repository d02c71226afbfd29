"""What recipes bring in studies that differ in the size of the network: a line a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from lydite.card import Figure
from lydite.evaluate.folds import HELD_OUT, gain_of
from lydite.report.held import name_lines, short_count
from lydite.report.svg import COLORS, draw, look
from lydite.report.view import SPLIT
from lydite.study.results import Result
from lydite.study.together import Together

#: inches: width, height of a line, and what is around all lines
_WIDTH, _LINE, _AROUND = 7.2, 0.34, 0.9
#: how much of a line its marks are spread over
_SPREAD = 0.56
#: names a row of the legend has room for
_NAMES = 4


@dataclass(frozen=True)
class Gain:
    """What one recipe has more than the reference of its study, in AUC on what was held out.

    Attributes:
        figure: the gain, with its interval.
        seeds: how many trainings it is the mean of.
    """

    figure: Figure
    seeds: int


@dataclass(frozen=True)
class Column:
    """One study.

    Attributes:
        reference: name of the recipe that the others are compared with.
        parameters: of the reference.
        mean: AUC of the reference on what was held out, over folds.
        gains: of the others, by recipe.
    """

    reference: str
    parameters: int
    mean: float
    gains: dict[str, Gain]

    @property
    def label(self) -> str:
        """What the legend says: the size, and what the gains are counted from."""
        return f"{short_count(self.parameters)}, {self.reference} {self.mean:.3f}"


def gain_column(record: Together, folds: Mapping[str, Sequence[Result]]) -> Column | None:
    """Return what a study has to show, None where it has no mean over folds to compare with.

    Args:
        record: what its folds say together.
        folds: results by fold, for the number of parameters.
    """
    name = record.reference
    where = {"group": HELD_OUT, "split": SPLIT}
    found = {recipe.recipe: recipe for recipe in record.recipes}
    mean = found[name].figure("auc", **where)
    if mean is None or mean.value is None:
        return None
    gains = {
        other: Gain(figure, len(recipe.seeds))
        for other, recipe in found.items()
        if (figure := recipe.figure(gain_of("auc"), **where, against=name)) is not None
        and figure.value is not None
    }
    sizes = [r.cost.parameters for rs in folds.values() for r in rs if r.recipe == name]
    return Column(name, max(sizes), mean.value, gains)


def gains_figure(columns: Sequence[Column], order: Sequence[str]) -> str | None:
    """Return the figure, or None where no study compares anything.

    Args:
        columns: of the studies; drawn with the smallest network on top.
        order: recipes in the order of the lines; those not named come last, and a name that
            stands twice has one line.
    """
    columns = sorted(columns, key=lambda column: column.parameters)
    every = dict.fromkeys(name for column in columns for name in column.gains)
    recipes = [name for name in dict.fromkeys([*order, *every]) if name in every]
    if not recipes:
        return None

    zero = " or ".join(dict.fromkeys(column.reference for column in columns))

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.axvline(0, color=COLORS["ink"], lw=0.8)
        for number, column in enumerate(columns):
            for line, name in enumerate(recipes):
                if name in column.gains:
                    place = (number + 0.5) / len(columns) - 0.5
                    _mark(axes, line + _SPREAD * place, column.gains[name], number)
        name_lines(axes, recipes)
        axes.set_xlabel(f"AUC on what was held out, minus that of {zero}; hollow: one seed")
        canvas.legend(handles=_legend(columns), loc="outside upper left", ncols=_NAMES)

    words = "What recipes bring, by the size of the network. " + " ".join(
        f"{column.label}: "
        + ", ".join(f"{name} {gain.figure.value:+.3f}" for name, gain in column.gains.items())
        + "."
        for column in columns
    )
    legend = _LINE * math.ceil(len(columns) / _NAMES)
    size = (_WIDTH, _AROUND + legend + _LINE * len(recipes))
    return draw("gains", "What recipes bring networks of several sizes", words, size, paint)


def _mark(axes: Axes, line: float, gain: Gain, number: int) -> None:
    """Draw the gain of one recipe in one study, with its interval."""
    color, marker = look(number)
    value, low, high = gain.figure.value, gain.figure.low, gain.figure.high
    assert value is not None, "gains have a value"
    if low is not None and high is not None:
        axes.plot([low, high], [line] * 2, color=color, lw=1.4, alpha=0.5)
    fill = color if gain.seeds > 1 else COLORS["paper"]
    axes.plot([value], [line], marker=marker, ms=5, color=color, mfc=fill, mew=1.0, ls="")


def _legend(columns: Sequence[Column]) -> list[Line2D]:
    """Return what the legend names: the studies."""
    return [
        Line2D([], [], ls="", marker=look(n)[1], color=look(n)[0], ms=5, label=column.label)
        for n, column in enumerate(columns)
    ]

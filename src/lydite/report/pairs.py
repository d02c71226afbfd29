"""The matrix of train by test as a drawing: one panel a recipe."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.report.figures import colored_cell
from lydite.report.protocol import Folds, tested_on
from lydite.report.svg import COLORS, draw
from lydite.report.view import SPLIT
from lydite.study.results import Result
from lydite.study.together import Together

_ACROSS = 3


def pairs_map(record: Together, folds: Folds) -> str:
    """Return AUC by the domain that was learned (down) and tested on (across), for each recipe.

    Cells on a golden frame are domains that were learned. Of several seeds a cell is the mean.

    Args:
        record: of a pairwise protocol.
        folds: results by fold.
    """
    names = [recipe.recipe for recipe in record.recipes]
    tested = tested_on(folds)
    across = min(_ACROSS, len(names))
    down = math.ceil(len(names) / across)

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(down, across, squeeze=False).flat
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(panels, names, strict=False):
            _panel(panel, name, record, folds, tested)

    panel = (0.52 * len(tested) + 1.2, 0.3 * len(record.folds) + 1.4)
    words = (
        f"AUC of {', '.join(names)} by learned and tested domain; the same numbers stand in the "
        "tables."
    )
    size = (across * panel[0], down * panel[1])
    return draw("pairs", "Train by test", words, size, paint)


def _panel(axes: Axes, recipe: str, record: Together, folds: Folds, tested: Sequence[str]) -> None:
    """Draw one recipe's matrix."""
    axes.grid(visible=False)
    axes.set(xlim=(0, len(tested)), ylim=(len(record.folds), 0))
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, fold in enumerate(record.folds):
        mine = [r for r in folds[fold.name] if r.recipe == recipe]
        for column, domain in enumerate(tested):
            colored_cell(axes, column, row, _mean(mine, domain))
            if domain in fold.seen:
                frame = Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, fill=False, lw=1.2)
                frame.set_edgecolor(COLORS["gold"])
                axes.add_patch(frame)
    axes.set_yticks(
        [i + 0.5 for i in range(len(record.folds))], ["+".join(f.seen) for f in record.folds]
    )
    axes.set_xticks([i + 0.5 for i in range(len(tested))], tested, rotation=50, ha="right")
    axes.tick_params(colors=COLORS["ink"])
    axes.set_title(recipe, loc="left")


def _mean(results: Sequence[Result], domain: str) -> float | None:
    """Return the mean AUC over seeds on a domain."""
    figures = [result.figure("auc", domain=domain, split=SPLIT) for result in results]
    values = [f.value for f in figures if f is not None and f.value is not None]
    return statistics.mean(values) if values else None

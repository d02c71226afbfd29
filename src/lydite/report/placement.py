"""The figure of a placement: which places each predictor would take, along the depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.report.svg import COLORS, draw

if TYPE_CHECKING:
    from lydite.transfer.placement_result import Placement, Prediction


def placement_map(result: Placement) -> str:
    """Return predictors by places as a table of cells: the stronger the color, the better the rank.

    Args:
        result: of `measure_placement`.
    """
    places, predictors = result.places, result.predictors
    order = ", ".join(row.stage for row in places)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(visible=False)
        axes.set(xlim=(0, len(places)), ylim=(len(predictors), 0))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for x, place in enumerate(places):
            for y, name in enumerate(predictors):
                _cell(axes, x, y, place.predictions[name], len(places))
        axes.set_yticks([y + 0.5 for y in range(len(predictors))], list(predictors))
        axes.set_xticks(
            [x + 0.5 for x in range(len(places))],
            [f"{place.stage} ({place.channels})" for place in places],
        )
        axes.xaxis.tick_top()
        axes.tick_params(colors=COLORS["ink"])
        axes.set_title("rank of each place, input side left; 1 promises most", loc="left")

    size = (1.9 + 1.05 * len(places), 1.0 + 0.34 * len(predictors))
    words = (
        f"Where predictors put an adapter into {result.detector}, of {order}, on {result.crops} "
        "crops. " + _choices(result)
    )
    return draw("placement", "Where an adapter belongs", words, size, paint)


def _choices(result: Placement) -> str:
    """Say every predictor's first choice, for readers who do not see the figure."""
    said = []
    for name in result.predictors:
        defined = any(row.predictions[name].rank is not None for row in result.places)
        said.append(f"{name}: {result.choice(name) if defined else 'not defined'}")
    return "First choices are " + "; ".join(said) + "."


def _cell(axes: Axes, x: int, y: int, found: Prediction, places: int) -> None:
    """Draw one cell: its rank, and the value in small letters."""
    if found.rank is None or found.value is None:
        axes.text(x + 0.5, y + 0.53, "–", ha="center", va="center", fontsize=8)
        return
    strength = 1.0 if places == 1 else 1 - (found.rank - 1) / (places - 1)
    axes.add_patch(
        Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, lw=0, color=COLORS["good"], alpha=strength)
    )
    axes.text(x + 0.3, y + 0.53, f"{found.rank:g}", ha="center", va="center", fontsize=9)
    axes.text(x + 0.64, y + 0.53, f"{found.value:.3g}", ha="center", va="center", fontsize=7)

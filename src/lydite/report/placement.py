"""The figure of a placement: which places each predictor would take, along the depth.

Where adapters were trained there, what they turned out to be worth stands above the predictions.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.report.svg import COLORS, draw

if TYPE_CHECKING:
    from lydite.transfer.placement_result import Placement, Prediction
    from lydite.transfer.placement_sweep import Role, Sweep

#: height in inches of what was measured
_MEASURED = 2.6


def placement_map(result: Placement) -> str:
    """Return predictors by places as a table of cells: the stronger the color, the better the rank.

    Args:
        result: of `measure_placement`, or of `lydite.study.sweep` with what was measured.
    """
    places, predictors, sweep = result.places, result.predictors, result.sweep
    order = ", ".join(row.stage for row in places)
    ranks = 1.0 + 0.34 * len(predictors)

    def paint(canvas: Canvas) -> None:
        if sweep is None:
            _ranks(canvas.subplots(), result)
            return
        above, below = canvas.subplots(2, height_ratios=[_MEASURED, ranks])
        _measured(above, sweep, [row.stage for row in places])
        _ranks(below, result)

    size = (1.9 + 1.05 * len(places), ranks + (0.0 if sweep is None else _MEASURED))
    words = (
        f"Where predictors put an adapter into {result.detector}, of {order}, on {result.crops} "
        "crops. " + _choices(result) + ("" if sweep is None else " " + _said(sweep, result))
    )
    return draw("placement", "Where an adapter belongs", words, size, paint)


def _ranks(axes: Axes, result: Placement) -> None:
    """Draw predictors by places."""
    places, predictors = result.places, result.predictors
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


def _measured(axes: Axes, sweep: Sweep, places: list[str]) -> None:
    """Draw the gain in AUC along the depth: a line through the means, and a dot for each seed."""
    axes.set_title("gain in AUC over the detector as it is", loc="left")
    axes.axhline(0, color=COLORS["ink"], lw=1, ls=(0, (4, 3)))
    known = f"known: {', '.join(sweep.source)}" if sweep.source else "other domains"
    _curve(axes, sweep, places, "target", COLORS["s4"], f"learned: {', '.join(sweep.target)}")
    _curve(axes, sweep, places, sweep.rest, COLORS["s1"], known)
    axes.set(xlim=(0, len(places)), xticks=[])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)


def _curve(axes: Axes, sweep: Sweep, places: list[str], role: Role, color: str, label: str) -> None:
    """Draw the gains on the images of one role, if they were measured."""
    found = [(x + 0.5, sweep.gains(place, "auc", role)) for x, place in enumerate(places)]
    found = [(x, gains) for x, gains in found if gains]
    if not found:
        return
    for x, gains in found:
        axes.plot([x] * len(gains), gains, ls="none", marker="o", ms=4, color=color, alpha=0.45)
    means = [statistics.mean(gains) for _, gains in found]
    axes.plot([x for x, _ in found], means, color=color, marker="D", ms=5, label=label)


def _said(sweep: Sweep, result: Placement) -> str:
    """Say what was measured, for readers who do not see the figure."""
    means = {row.stage: sweep.gains(row.stage, "auc") for row in result.places}
    said = [f"{place} {statistics.mean(gains):+.3f}" for place, gains in means.items() if gains]
    return f"Measured gains in AUC on {', '.join(sweep.target)} are " + ", ".join(said) + "."


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

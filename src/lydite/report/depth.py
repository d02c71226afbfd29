"""What adapters at every depth were worth: a panel a detector, a curve a target."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from lydite.report.svg import COLORS, draw, look

if TYPE_CHECKING:
    from lydite.transfer.placement_result import Placement

Point = tuple[float, tuple[float, ...]]
#: a panel in inches
_WIDTH, _HEIGHT = 2.7, 2.6


def depth_curve(placement: Placement) -> list[Point]:
    """Return the gain in AUC on the target at every place, one value a seed.

    Depth runs from 0, behind the first stage, to 1, behind the last.

    Args:
        placement: with a sweep.
    """
    sweep, stages = placement.sweep, [row.stage for row in placement.places]
    assert sweep is not None, "only swept placements are drawn"
    last = max(1, len(stages) - 1)
    return [
        (number / last, tuple(sweep.gains(stage, "auc"))) for number, stage in enumerate(stages)
    ]


def depth_curves(placements: Sequence[Placement]) -> str | None:
    """Return the figure, or None where no adapters were trained.

    Marks are means over seeds, bars reach from the lowest to the highest.
    """
    swept = [placement for placement in placements if placement.sweep is not None]
    if not swept:
        return None
    detectors = list(dict.fromkeys(placement.detector for placement in swept))
    targets = list(dict.fromkeys(_target(placement) for placement in swept))

    def paint(canvas: Canvas) -> None:
        first: Axes | None = None
        for number, detector in enumerate(detectors):
            axes = canvas.add_subplot(1, len(detectors), number + 1, sharey=first)
            first = first or axes
            mine = [placement for placement in swept if placement.detector == detector]
            axes.set_title(f"{detector}, {len(mine[0].places)} places", loc="left")
            for placement in mine:
                _curve(axes, depth_curve(placement), targets.index(_target(placement)))
            axes.axhline(0, color=COLORS["ink"], lw=0.8)
            axes.set_xticks([0, 1], ["first", "last"])
            axes.set_xlim(-0.08, 1.08)
            axes.set_xlabel("where the adapter is")
            if number == 0:
                axes.set_ylabel("gain in AUC on the target")
        handles = [
            Line2D([], [], marker=look(number)[1], color=look(number)[0], ms=5, label=target)
            for number, target in enumerate(targets)
        ]
        canvas.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 8))

    words = "Gain in AUC on the target by the place of an adapter, first to last. " + " ".join(
        f"{placement.detector}, {_target(placement)}: "
        + ", ".join(f"{statistics.mean(values):+.3f}" for _, values in depth_curve(placement))
        + "."
        for placement in swept
    )
    size = (_WIDTH * len(detectors) + 0.5, _HEIGHT + 0.5)
    return draw("depth", "What adapters at every depth are worth", words, size, paint)


def _curve(axes: Axes, points: Sequence[Point], number: int) -> None:
    """Draw the curve of one target."""
    color, marker = look(number)
    for x, values in points:
        axes.plot([x, x], [min(values), max(values)], color=color, lw=1.2, alpha=0.45)
    means = [statistics.mean(values) for _, values in points]
    axes.plot(
        [x for x, _ in points],
        means,
        color=color,
        marker=marker,
        ms=5,
        mec=COLORS["paper"],
        mew=0.6,
    )


def _target(placement: Placement) -> str:
    """Return what a placement's adapters learned."""
    assert placement.sweep is not None, "only swept placements are drawn"
    return ", ".join(placement.sweep.target)

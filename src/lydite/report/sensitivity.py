"""The figure of a sensitivity analysis: what each group loses when it is pruned alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.report.svg import COLORS, draw

if TYPE_CHECKING:
    from lydite.compress.sensitivity_result import Sensitivity

#: a drop of this much and more has the full color
_FULL = 0.25


def sensitivity_map(result: Sensitivity, metric: Literal["auc", "accuracy"] = "auc") -> str:
    """Return groups by shares as a table of colored cells: the stronger, the more is lost.

    Args:
        result: of `measure_sensitivity`.
        metric: whose drop is shown.
    """
    groups = list(dict.fromkeys((point.group, point.size) for point in result.points))
    shares = list(dict.fromkeys(point.share for point in result.points))
    drops = {(point.group, point.share): result.drop(point, metric) for point in result.points}
    word = {"auc": "AUC"}.get(metric, metric)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(visible=False)
        axes.set(xlim=(0, len(shares)), ylim=(len(groups), 0))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, (group, _) in enumerate(groups):
            for column, share in enumerate(shares):
                _cell(axes, column, row, drops.get((group, share)))
        axes.set_yticks(
            [row + 0.5 for row in range(len(groups))], [f"{name} ({n})" for name, n in groups]
        )
        axes.set_xticks(
            [column + 0.5 for column in range(len(shares))], [f"{share:.0%}" for share in shares]
        )
        axes.xaxis.tick_top()
        axes.tick_params(colors=COLORS["ink"])
        axes.set_title(f"drop of {word} when this share of a group goes", loc="left")

    size = (2.6 + 0.62 * len(shares), 1.0 + 0.27 * len(groups))
    words = (
        f"Drop of {word} of {result.detector} on {result.n} images, one group pruned at a time by "
        f"{result.score}, without fine-tuning. " + _worst(drops)
    )
    return draw("sensitivity", "What each channel group is worth", words, size, paint)


def _worst(drops: dict[tuple[str, float], float | None]) -> str:
    """Name the largest drop, for readers who do not see the figure."""
    known = {key: drop for key, drop in drops.items() if drop is not None}
    if not known:
        return "No drop is defined."
    group, share = max(known, key=lambda key: known[key])
    return f"The largest is {known[group, share]:.3f}: {group} without {share:.0%}."


def _cell(axes: Axes, x: int, y: int, drop: float | None) -> None:
    """Draw one cell: orange where something is lost, blue where something is won."""
    color = COLORS["bad" if (drop or 0.0) >= 0 else "good"]
    strength = 0.0 if drop is None else min(1.0, abs(drop) / _FULL)
    axes.add_patch(Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, lw=0, color=color, alpha=strength))
    # a drop that rounds to nothing has no sign
    text = "–" if drop is None else f"{round(drop, 3) + 0.0:.3f}"
    axes.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=8)

"""Detectors on degraded images: the heat map and the rows of the report's section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.card import Figure
from lydite.evaluate.auc_gain import AUC_GAIN
from lydite.evaluate.compare import FLIPPED, GAIN
from lydite.evaluate.degraded import CLEAN, DEGRADATION, degradations_of
from lydite.evaluate.summary import UNREADABLE
from lydite.report.svg import COLORS, draw
from lydite.report.view import Line

#: what is drawn, if it was measured: metric, its gain, the group, and what is written above
PANELS = (
    ("accuracy", GAIN, "seen", "accuracy on seen domains, %"),
    ("accuracy", GAIN, "source", "accuracy on what was learned before, %"),
    ("auc", AUC_GAIN, "unseen-mean", "mean AUC over unseen domains, %"),
)
#: a change of this much has the strongest color
_STRONGEST = 0.25


@dataclass(frozen=True)
class Cell:
    """A metric of a detector after one degradation, and what was gained against clean images."""

    figure: Figure | None
    gain: Figure | None


@dataclass(frozen=True)
class Row:
    """One row of the report's table: a detector after one degradation, cells as in `PANELS`."""

    line: Line
    degradation: str
    cells: tuple[Cell, ...]
    flipped: Figure | None
    unreadable: int


def degradations_in(lines: Sequence[Line]) -> list[str]:
    """Return the degradations that any detector was measured under, in their order."""
    return degradations_of(figure for line in lines for figure in line.result.figures)


def panels_of(lines: Sequence[Line]) -> list[tuple[str, str, str, str]]:
    """Return the panels for which a detector was measured on degraded images."""
    names = degradations_in(lines)
    return [
        panel
        for panel in PANELS
        if any(_cell(line, panel, name).figure is not None for line in lines for name in names)
    ]


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Return every detector after every degradation that it was measured under."""
    panels = panels_of(lines)
    rows = []
    for line in lines:
        for name in degradations_of(line.result.figures):
            cells = tuple(_cell(line, panel, name) for panel in panels)
            where = {"group": "seen", DEGRADATION: name}
            unread = (
                line.value(UNREADABLE, group=group, **{DEGRADATION: name}) or 0
                for group in ("seen", "source", "unseen-mean")
            )
            flipped = line.figure(FLIPPED, **where, against=CLEAN)
            rows.append(Row(line, name, cells, flipped, int(sum(unread))))
    return rows


def degraded_map(lines: Sequence[Line]) -> str | None:
    """Return detectors by degradations as colored cells, a panel a metric; None without figures.

    The first column is that of clean images; the redder a cell, the more was lost against it, on
    the same images.
    """
    names, panels = degradations_in(lines), panels_of(lines)
    shown = [line for line in lines if degradations_of(line.result.figures)]
    if not panels:
        return None

    def paint(canvas: Canvas) -> None:
        for number, panel in enumerate(panels):
            axes = canvas.add_subplot(len(panels), 1, number + 1)
            _paint(axes, shown, names, panel, head=number == 0)

    size = (1.9 + 0.5 * (1 + len(names)), 1.0 + len(panels) * (0.45 + 0.27 * len(shown)))
    words = (
        f"{len(shown)} detectors on clean images and after {', '.join(names)}; the same numbers "
        "stand in the table beneath."
    )
    return draw("degraded", "What degradations cost", words, size, paint)


def _paint(
    axes: Axes,
    lines: Sequence[Line],
    names: Sequence[str],
    panel: tuple[str, str, str, str],
    *,
    head: bool,
) -> None:
    """Draw one panel; the first one names the columns."""
    metric, _, group, title = panel
    axes.grid(visible=False)
    axes.set(xlim=(0, 1 + len(names)), ylim=(len(lines), 0))
    axes.set_title(title, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(lines):
        _draw_cell(axes, 0, row, line.value(metric, group=group), 0.0)
        for column, name in enumerate(names, start=1):
            cell = _cell(line, panel, name)
            gain = None if cell.gain is None else cell.gain.value
            value = None if cell.figure is None else cell.figure.value
            _draw_cell(axes, column, row, value, gain)
    axes.plot([1, 1], [0, len(lines)], color=COLORS["gold"], lw=1.6, clip_on=False)
    axes.set_yticks([i + 0.5 for i in range(len(lines))], [line.name for line in lines])
    labels = [CLEAN, *names] if head else []
    ticks = [i + 0.5 for i in range(len(labels))]
    axes.set_xticks(ticks, labels, rotation=50, ha="left", va="bottom", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(colors=COLORS["ink"])


def _draw_cell(axes: Axes, x: int, y: int, value: float | None, gain: float | None) -> None:
    """Draw one cell: red for a loss, blue for a gain, the stronger the more."""
    color = COLORS["bad" if (gain or 0) < 0 else "good"]
    strength = min(1.0, abs(gain or 0) / _STRONGEST)
    axes.add_patch(Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, lw=0, color=color, alpha=strength))
    text = "–" if value is None else f"{100 * value:.1f}"
    axes.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=8)


def _cell(line: Line, panel: tuple[str, str, str, str], name: str) -> Cell:
    """Return what a panel says of a detector after a degradation."""
    metric, gain, group, _ = panel
    where = {"group": group, DEGRADATION: name}
    return Cell(line.figure(metric, **where), line.figure(gain, **where, against=CLEAN))

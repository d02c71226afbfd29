"""Detectors on degraded images: the heat map and the rows of the report's section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.card import Figure
from lydite.evaluate.auc_gain import AUC_GAIN
from lydite.evaluate.compare import FLIPPED, GAIN
from lydite.evaluate.degraded import CLEAN, DEGRADATION, degradations_of
from lydite.evaluate.degraded_pairs import FALSE_ALARM_GAIN
from lydite.evaluate.photographs import FALSE_ALARMS
from lydite.evaluate.summary import UNREADABLE
from lydite.report.svg import COLORS, draw
from lydite.report.view import SPLIT, Line


class Panel(NamedTuple):
    """What is drawn or told of degraded images, if it was measured.

    Attributes:
        metric: of the images after a degradation.
        gain: the metric of what changed.
        group: whose images.
        title: what is written above.
        better: the sign of a change for the better.
        split: whose images.
    """

    metric: str
    gain: str
    group: str
    title: str
    better: int = 1
    split: str = SPLIT

    def figure(self, line: Line, metric: str, **where: str) -> Figure | None:
        """Return the figure of a metric on the panel's images."""
        return line.result.figure(metric, group=self.group, split=self.split, **where)


PANELS = (
    Panel("accuracy", GAIN, "seen", "accuracy on seen domains, %"),
    Panel(
        FALSE_ALARMS,
        FALSE_ALARM_GAIN,
        "seen",
        "photographs called fake, seen domains, %",
        better=-1,
    ),
    Panel("accuracy", GAIN, "source", "accuracy on what was learned before, %"),
    Panel("auc", AUC_GAIN, "unseen-mean", "mean AUC over unseen domains, %"),
    Panel("auc", AUC_GAIN, "seen", "AUC on validation images, %", split="val"),
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


def panels_of(lines: Sequence[Line]) -> list[Panel]:
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
    panel: Panel,
    *,
    head: bool,
) -> None:
    """Draw one panel; the first one names the columns."""
    axes.grid(visible=False)
    axes.set(xlim=(0, 1 + len(names)), ylim=(len(lines), 0))
    axes.set_title(panel.title, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(lines):
        _draw_cell(axes, 0, row, clean_value(line, panel, names), 0.0)
        for column, name in enumerate(names, start=1):
            cell = _cell(line, panel, name)
            gain = None if cell.gain is None else cell.gain.value
            value = None if cell.figure is None else cell.figure.value
            _draw_cell(axes, column, row, value, panel.better * (gain or 0.0))
    axes.plot([1, 1], [0, len(lines)], color=COLORS["gold"], lw=1.6, clip_on=False)
    axes.set_yticks([i + 0.5 for i in range(len(lines))], [line.name for line in lines])
    labels = [CLEAN, *names] if head else []
    ticks = [i + 0.5 for i in range(len(labels))]
    axes.set_xticks(ticks, labels, rotation=50, ha="left", va="bottom", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(colors=COLORS["ink"])


def _draw_cell(axes: Axes, x: int, y: int, value: float | None, gain: float) -> None:
    """Draw one cell: red for a loss, blue for a gain, the stronger the more."""
    color = COLORS["bad" if gain < 0 else "good"]
    strength = min(1.0, abs(gain) / _STRONGEST)
    axes.add_patch(Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, lw=0, color=color, alpha=strength))
    text = "–" if value is None else f"{100 * value:.1f}"
    axes.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=8)


def clean_value(line: Line, panel: Panel, names: Sequence[str]) -> float | None:
    """Return a panel's metric on clean images.

    Of metrics that no figure tells of clean images, it follows from what changed: the two differ
    by the gain exactly, on the images that can be read both ways.
    """
    figure = panel.figure(line, panel.metric)
    if figure is not None:
        return figure.value
    for cell in (_cell(line, panel, name) for name in names):
        if cell.figure is not None and cell.gain is not None:
            worn, gain = cell.figure.value, cell.gain.value
            return None if worn is None or gain is None else worn - gain
    return None


def _cell(line: Line, panel: Panel, name: str) -> Cell:
    """Return what a panel says of a detector after a degradation."""
    where = {DEGRADATION: name}
    gain = panel.figure(line, panel.gain, **where, against=CLEAN)
    return Cell(panel.figure(line, panel.metric, **where), gain)

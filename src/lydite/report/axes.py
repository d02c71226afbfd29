"""What the scatter figures share: points with intervals, names beside them, axes of sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lydite.report.labels import Box, place_labels
from lydite.report.svg import COLORS, look_of
from lydite.report.view import Line, kilobytes

LABEL_PT = 8.5
#: a name farther from its point than this is tied to it by a thin line
_FAR_PT = 12


@dataclass(frozen=True)
class Dot:
    """One recipe in a scatter figure, with the ends of its interval if it has one."""

    line: Line
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def draw_dot(axes: Axes, dot: Dot) -> None:
    """Draw a recipe's mark and interval."""
    color, marker = look_of(dot.line.color)
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.x, dot.x], [dot.low, dot.high], color=color, lw=1.2, alpha=0.45)
    axes.plot(
        dot.x,
        dot.y,
        marker=marker,
        ms=7,
        color=color,
        ls="none",
        mec=COLORS["paper"],
        mew=0.8,
    )


def limits_(axes: Axes, dots: Sequence[Dot], *further: float | None) -> None:
    """Fit the vertical axis around points, intervals and further values, in place."""
    values = [v for dot in dots for v in (dot.y, dot.low, dot.high) if v is not None]
    values += [value for value in further if value is not None]
    if values:
        room = max(max(values) - min(values), 0.05) * 0.12
        axes.set_ylim(min(values) - room, max(values) + room)
    # a share above one does not exist, so none is marked
    marks = [float(mark) for mark in axes.get_yticks() if mark <= 1 + 1e-9]
    bottom, top = axes.get_ylim()
    axes.set_yticks([mark for mark in marks if bottom <= mark <= top])


def legend(canvas: Canvas, lines: Sequence[Line]) -> None:
    """Name the approaches above the drawing."""
    first = {line.approach: look_of(line.color) for line in reversed(lines)}
    approaches = list(dict.fromkeys(line.approach for line in lines))
    handles = [
        Line2D([], [], ls="none", marker=first[a][1], color=first[a][0], label=a)
        for a in approaches
    ]
    if handles:
        canvas.legend(
            handles=handles,
            loc="outside upper left",
            ncols=min(len(handles), 8),
            handletextpad=0.1,
            columnspacing=1.0,
            borderpad=0.1,
        )


def name_dots(canvas: Canvas, axes: Axes, dots: Sequence[Dot]) -> None:
    """Write each recipe's name beside its point, clear of other points, names and intervals."""
    canvas.draw_without_rendering()

    def at(x: float, y: float) -> tuple[float, float]:
        left, bottom = axes.transData.transform((x, y)) * (72 / canvas.dpi)
        return float(left), float(bottom)

    box = axes.get_window_extent()
    frame = tuple(side * 72 / canvas.dpi for side in (box.x0, box.y0, box.x1, box.y1))
    bars: list[Box] = []
    for dot in dots:
        if dot.low is not None and dot.high is not None:
            (x, low), (_, high) = at(dot.x, dot.low), at(dot.x, dot.high)
            bars.append((x - 1, low, x + 1, high))
    places = place_labels(
        [at(dot.x, dot.y) for dot in dots],
        [dot.line.name for dot in dots],
        (frame[0], frame[1], frame[2], frame[3]),
        LABEL_PT,
        obstacles=bars,
    )
    for dot, (dx, dy, horizontal, vertical) in zip(dots, places, strict=True):
        tie = {"arrowstyle": "-", "color": COLORS["soft"], "lw": 0.5}
        axes.annotate(
            dot.line.name,
            (dot.x, dot.y),
            (dx, dy),
            textcoords="offset points",
            ha=horizontal,
            va=vertical,
            fontsize=LABEL_PT,
            arrowprops=tie if max(abs(dx), abs(dy)) > _FAR_PT else None,
        )


def size_axis(axes: Axes, size_bytes: Sequence[float]) -> None:
    """Make the horizontal axis a logarithmic one of file sizes."""
    _logarithmic(axes, size_bytes, lambda value: kilobytes(round(value)))


def count_axis(axes: Axes, counts: Sequence[float]) -> None:
    """Make the horizontal axis a logarithmic one of parameter counts."""
    _logarithmic(axes, counts, lambda n: f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:g} k")


def _logarithmic(axes: Axes, values: Sequence[float], words: Callable[[float], str]) -> None:
    """Mark 1, 2 and 5 of each decade, with room at both ends."""
    axes.set_xscale("log")
    if not values:
        return
    low, high = min(values) / 1.6, max(values) * 1.9
    marks = [m * 10.0**e for e in range(12) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))

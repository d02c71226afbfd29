"""The report's figures: results in, SVG out; equal results give equal text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lydite.report.axes import Dot, count_axis, draw_dot, legend, limits_, name_dots, size_axis
from lydite.report.svg import COLORS, draw, look_of
from lydite.report.view import Column, Line, columns_of, kilobytes


def trade_off(
    lines: Sequence[Line], metric: str, group: str, name: str, title: str, axis: str
) -> str:
    """Return a metric against the size of the exported file, one point a recipe.

    Args:
        lines: the study's results.
        metric: "accuracy", "auc", ...
        group: "seen", "source" or "unseen-mean".
        name: id of the drawing.
        title: for readers who do not see it.
        axis: what the vertical axis says.
    """
    dots = [
        Dot(line, line.size_bytes, figure.value, figure.low, figure.high)
        for line in lines
        if (figure := line.figure(metric, group=group)) and figure.value is not None
    ]
    said = "; ".join(f"{dot.line.name} {kilobytes(int(dot.x))} {dot.y:.3f}" for dot in dots)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        size_axis(axes, [dot.x for dot in dots])
        for dot in dots:
            draw_dot(axes, dot)
        limits_(axes, dots)
        axes.set_xlabel("exported file")
        axes.set_title(axis, loc="left")
        legend(canvas, [dot.line for dot in dots])
        name_dots(canvas, axes, dots)

    return draw(name, title, f"{axis} against file size. {said}.", (6.0, 4.3), paint)


def matrix(lines: Sequence[Line], metric: str = "auc") -> str:
    """Return recipe by domain and generator as a table of colored cells."""
    columns = columns_of(lines)
    cells = [[line.value(metric, **column.slice) for column in columns] for line in lines]

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(visible=False)
        axes.set(xlim=(0, len(columns)), ylim=(len(lines), 0))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, values in enumerate(cells):
            for number, value in enumerate(values):
                colored_cell(axes, number, row, value)
        axes.set_yticks([i + 0.5 for i in range(len(lines))], [line.name for line in lines])
        ticks = [i + 0.5 for i in range(len(columns))]
        axes.set_xticks(
            ticks,
            [c.label for c in columns],
            rotation=50,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
        )
        axes.xaxis.tick_top()
        axes.tick_params(colors=COLORS["ink"])
        _domains(axes, columns, len(lines))

    size = (1.7 + 0.46 * len(columns), 1.9 + 0.27 * len(lines))
    words = (
        f"{metric.upper()} of {len(lines)} recipes on {len(columns)} pairs of domain and "
        "generator; the same numbers stand in the table of figures."
    )
    return draw("matrix", "Every recipe on every generator", words, size, paint)


def step_paths(lines: Sequence[Line], metric: str = "auc") -> str:
    """Return how each step moved a detector: parameters against a validation metric."""
    paths = [(line, stops) for line in lines if (stops := line.stops(metric))]
    ends = [Dot(line, stops[-1][0], stops[-1][1]) for line, stops in paths]

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        count_axis(axes, [x for _, stops in paths for x, _ in stops])
        for line, stops in paths:
            _path(axes, line, stops)
        for dot in ends:
            draw_dot(axes, dot)
        limits_(axes, [Dot(line, x, y) for line, stops in paths for x, y in stops])
        axes.set_xlabel("parameters")
        axes.set_title(f"{metric.upper()} on the validation split", loc="left")
        legend(canvas, [line for line, _ in paths])
        name_dots(canvas, axes, ends)

    words = "Each arrow is one step of a recipe; the table beneath lists the same steps."
    return draw("steps", "What each step changed", words, (8.6, 4.6), paint)


def _path(axes: Axes, line: Line, stops: Sequence[tuple[int, float]]) -> None:
    """Draw a recipe's steps as arrows from stop to stop."""
    color, _ = look_of(line.color)
    arrow = {"arrowstyle": "->", "color": color, "lw": 1.1, "shrinkA": 3, "shrinkB": 4}
    for before, after in zip(stops, stops[1:], strict=False):
        axes.annotate("", after, before, zorder=2, arrowprops={**arrow, "alpha": 0.7})
    for x, y in stops[:-1]:
        axes.plot(x, y, marker="o", ms=3, color=color, alpha=0.7, ls="none")


def colored_cell(axes: Axes, x: int, y: int, value: float | None) -> None:
    """Draw one cell: blue above chance, red under it, the paler the nearer to chance."""
    color = COLORS["good" if (value or 0.5) >= 0.5 else "bad"]
    strength = 0.0 if value is None else min(1.0, 2 * abs(value - 0.5))
    axes.add_patch(Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, lw=0, color=color, alpha=strength))
    text = "–" if value is None else f"{value:.2f}".removeprefix("0")
    axes.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=8)


def _domains(axes: Axes, columns: Sequence[Column], rows: int) -> None:
    """Part the domains by thin lines, those that were learned from the unseen by a golden one."""
    for number, (before, after) in enumerate(zip(columns, columns[1:], strict=False), start=1):
        if (before.kind == "unseen") != (after.kind == "unseen"):
            axes.plot([number] * 2, [0, rows], color=COLORS["gold"], lw=1.6, clip_on=False)
        elif before.domain != after.domain:
            axes.plot([number] * 2, [0, rows], color=COLORS["rule"], lw=0.8, clip_on=False)

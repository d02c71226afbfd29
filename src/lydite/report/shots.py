"""What few images are worth: accuracy against how many were learned from, a column a fold."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from lydite.evaluate.voices import WITH
from lydite.report.svg import COLORS, draw, look
from lydite.study.results import Result

#: fewer numbers of images than this are no curve
FEWEST_COUNTS = 2
Folds = Mapping[str, Sequence[Result]]
Reading = Callable[[Result], float | None]


@dataclass(frozen=True)
class Point:
    """Every seed of one recipe in one fold.

    Attributes:
        shots: images of each class.
        values: one a seed.
    """

    shots: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.mean(self.values)


def curves_of(results: Sequence[Result], reading: Reading) -> dict[str, list[Point]]:
    """Return one curve an approach, over the numbers of images, from few to many.

    Args:
        results: of one fold; those that learned from all images are no part of a curve.
        reading: what to show of a result; None where it has not got it.
    """
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        shots, value = result.spec.get("shots"), reading(result)
        if shots is not None and value is not None:
            found[result.approach][int(shots)].append(value)
    return {
        approach: [Point(shots, tuple(values)) for shots, values in sorted(counts.items())]
        for approach, counts in found.items()
    }


def shot_curves(folds: Folds) -> str | None:
    """Return the figure, or None where no approach was tried with several numbers of images.

    Rows are accuracy on what was learned, the share of its photographs that are called real, and
    accuracy on what was known before. A pack counts as it is asked: together with its detector.
    Marks are means over seeds, bars reach from the lowest to the highest; broken lines are recipes
    that learned from all images, the dotted one is the detector as it was.
    """
    rows: list[tuple[str, Reading]] = [
        ("accuracy on the target", lambda r: _value(r, "accuracy", "seen")),
        ("its photographs called real", passed),
    ]
    if any(_value(r, "accuracy", "source") is not None for found in folds.values() for r in found):
        rows.append(("accuracy on the source", lambda r: _value(r, "accuracy", "source")))
    first = {name: curves_of(found, rows[0][1]) for name, found in folds.items()}
    if not any(len(points) >= FEWEST_COUNTS for c in first.values() for points in c.values()):
        return None
    approaches = list(dict.fromkeys(name for curves in first.values() for name in curves))

    def paint(canvas: Canvas) -> None:
        for row, (label, reading) in enumerate(rows):
            for column, (fold, results) in enumerate(folds.items()):
                axes = canvas.add_subplot(len(rows), len(folds), row * len(folds) + column + 1)
                _panel(axes, results, reading, approaches)
                if row == 0:
                    axes.set_title(fold, loc="left")
                if column == 0:
                    axes.set_ylabel(label)
                if row + 1 == len(rows):
                    axes.set_xlabel("images of each class")
        _legend(canvas, approaches)

    words = "Accuracy on the target by images of each class. " + " ".join(
        f"{fold}: {_said(curves)}." for fold, curves in first.items()
    )
    size = (2.9 * len(folds) + 0.6, 2.1 * len(rows) + 0.5)
    return draw("shots", "What few images are worth", words, size, paint)


def _panel(
    axes: Axes, results: Sequence[Result], reading: Reading, approaches: Sequence[str]
) -> None:
    """Draw one reading of one fold."""
    axes.set_xscale("log", base=2)
    curves = curves_of(results, reading)
    for approach, points in curves.items():
        number = approaches.index(approach)
        color, marker = look(number)
        aside = 1 + 0.05 * (number - (len(approaches) - 1) / 2)
        places = [point.shots * aside for point in points]
        for x, point in zip(places, points, strict=True):
            ends = [min(point.values), max(point.values)]
            axes.plot([x, x], ends, color=color, lw=1.2, alpha=0.45)
        means = [point.mean for point in points]
        axes.plot(places, means, color=color, marker=marker, ms=5, mec=COLORS["paper"], mew=0.6)
    for whole, style in ((False, (0, (1, 2))), (True, (0, (4, 3)))):
        level = _level(results, reading, learned=whole)
        if level is not None:
            axes.axhline(level, color=COLORS["ink"], lw=1, ls=style)
    counts = sorted({point.shots for points in curves.values() for point in points})
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [str(count) for count in counts])


def _legend(canvas: Canvas, approaches: Sequence[str]) -> None:
    """Name the approaches and the two lines above the drawing."""
    handles = [
        Line2D([], [], marker=look(number)[1], color=look(number)[0], ms=5, label=name)
        for number, name in enumerate(approaches)
    ]
    ink = COLORS["ink"]
    handles.append(Line2D([], [], color=ink, lw=1, ls=(0, (4, 3)), label="all images"))
    handles.append(Line2D([], [], color=ink, lw=1, ls=(0, (1, 2)), label="before"))
    canvas.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 8))


def _level(results: Sequence[Result], reading: Reading, *, learned: bool) -> float | None:
    """Return the mean of what learned from all images, or of what learned nothing here."""
    mine = [r for r in results if r.spec.get("shots") is None and bool(r.steps) == learned]
    values = [value for value in map(reading, mine) if value is not None]
    return statistics.mean(values) if values else None


def _value(result: Result, metric: str, group: str) -> float | None:
    """Return a figure of the test images; of a pack, together with its detector."""
    where = {"group": group, "split": "test"}
    base = next((f.slice[WITH] for f in result.figures if WITH in f.slice), None)
    found = result.figure(metric, **where, **({} if base is None else {WITH: base}))
    return None if found is None else found.value


def passed(result: Result) -> float | None:
    """Return the share of the target's photographs called real, out of the two that imply it."""
    balanced, recall = (_value(result, m, "seen") for m in ("balanced_accuracy", "recall"))
    return None if balanced is None or recall is None else 2 * balanced - recall


def _said(curves: Mapping[str, Sequence[Point]]) -> str:
    """Return the curves of a fold in words."""
    return "; ".join(
        f"{name} " + ", ".join(f"{p.shots} images {p.mean:.3f}" for p in points)
        for name, points in curves.items()
    )

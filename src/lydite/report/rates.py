"""The figure of a compression study: how accuracy falls as more of the parameters are removed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, NullLocator

from lydite.report.axes import Dot, legend, limits_
from lydite.report.svg import COLORS, draw, look_of
from lydite.report.view import Line

#: an approach that was tried at fewer rates is no curve
FEWEST_RATES = 2
#: steps that end in fewer bits; how many parameters there are does not tell their size
_QUANTIZERS = frozenset({"quantize", "qat"})
#: approaches are moved apart by this share of their place, so that whiskers do not cover each other
_APART = 0.035

#: shares kept that are written at the axis, far enough apart to be read
_MARKS = (0.8, 0.6, 0.4, 0.25, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


def stops_of(lines: Sequence[Line], metric: str, group: str) -> dict[str, list[Dot]]:
    """Return the curve of every approach with enough rates: its stops, from large to small.

    A stop lies at the share of the reference's parameters that is kept. Results of one recipe and
    several seeds make one: the mean, and the ends of all their intervals. Quantized detectors are
    left out: the same parameters in fewer bits.
    """
    found: dict[str, dict[str, list[Dot]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        figure, rate = line.figure(metric, group=group), line.result.cost.compression_rate
        quantized = any(_QUANTIZERS & step.step.keys() for step in line.result.steps)
        if quantized or rate is None or figure is None or figure.value is None:
            continue
        dot = Dot(line, 1 - rate, figure.value, figure.low, figure.high)
        found[line.approach][line.result.recipe].append(dot)
    curves = {
        approach: sorted(map(_merged, recipes.values()), key=lambda stop: -stop.x)
        for approach, recipes in found.items()
    }
    return {approach: stops for approach, stops in curves.items() if len(stops) >= FEWEST_RATES}


def _colored(curves: dict[str, list[Dot]], approaches: Sequence[str]) -> dict[str, list[Dot]]:
    """Give every approach a look of its own; the reference keeps its own."""
    return {
        approach: [
            replace(stop, line=replace(stop.line, color=1 + approaches.index(approach)))
            for stop in stops
        ]
        for approach, stops in curves.items()
    }


def _merged(dots: Sequence[Dot]) -> Dot:
    """Return one stop for the seeds of a recipe."""
    ends = [value for dot in dots for value in (dot.low, dot.high, dot.y) if value is not None]
    x, y = (statistics.mean(values) for values in zip(*((d.x, d.y) for d in dots), strict=True))
    return Dot(dots[0].line, x, y, min(ends), max(ends))


def rate_curves(lines: Sequence[Line], seen: Sequence[str]) -> str | None:
    """Return accuracy on seen and AUC on unseen domains against the share removed.

    One curve an approach, whiskers at its 95 % intervals (with several seeds, from the lowest to
    the highest end), and the reference as a broken line. None where no approach was tried at
    `FEWEST_RATES` rates.
    """
    panels = [
        ("accuracy", "seen", f"accuracy on {', '.join(seen)}"),
        ("auc", "unseen-mean", "mean AUC over unseen domains"),
    ]
    plain = [stops_of(lines, metric, group) for metric, group, _ in panels]
    approaches = list(dict.fromkeys(approach for curves in plain for approach in curves))
    curves = [_colored(found, approaches) for found in plain]
    if not curves[0]:
        return None
    base = next((line for line in lines if line.result.reference), None)

    def paint(canvas: Canvas) -> None:
        for number, (metric, group, title) in enumerate(panels):
            axes = canvas.add_subplot(1, 2, number + 1)
            axes.set_title(title, loc="left")
            _panel(axes, curves[number], None if base is None else base.value(metric, group=group))
        either = curves[1] | curves[0]
        legend(canvas, [either[approach][0].line for approach in approaches])

    said = "; ".join(
        f"{name} " + ", ".join(f"{1 - stop.x:.0%}: {stop.y:.3f}" for stop in stops)
        for name, stops in curves[0].items()
    )
    words = f"Accuracy on seen domains by share of the parameters removed. {said}."
    return draw("rates", "What each rate costs", words, (8.6, 3.7), paint)


def _panel(axes: Axes, curves: dict[str, list[Dot]], reference: float | None) -> None:
    """Draw the curves of one metric."""
    axes.set_xscale("log")
    every = [stop for stops in curves.values() for stop in stops]
    middle = (len(curves) - 1) / 2
    for number, stops in enumerate(curves.values()):
        color, marker = look_of(stops[0].line.color)
        aside = (1 + _APART) ** (number - middle)
        places = [stop.x * aside for stop in stops]
        for x, stop in zip(places, stops, strict=True):
            if stop.low is not None and stop.high is not None:
                axes.plot([x, x], [stop.low, stop.high], color=color, lw=1.2, alpha=0.45)
        values = [stop.y for stop in stops]
        axes.plot(places, values, color=color, marker=marker, ms=6, mec=COLORS["paper"], mew=0.8)
    if reference is not None:
        axes.axhline(reference, color=COLORS["ink"], lw=1, ls=(0, (4, 3)))
    limits_(axes, every, reference)
    marks = [mark for mark in _MARKS if _near(mark, [stop.x for stop in every])]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(marks, [f"{1 - mark:.0%}" for mark in marks])
    axes.invert_xaxis()
    axes.set_xlabel("parameters removed")


def _near(mark: float, shares: Sequence[float]) -> bool:
    """Tell whether a mark lies within what is drawn, or just outside."""
    return bool(shares) and min(shares) / 1.3 <= mark <= max(shares) * 1.3

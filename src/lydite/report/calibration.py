"""Calibration in the report: what was promised against what was measured, domain by domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from lydite.card import Figure
from lydite.report.svg import COLORS, draw
from lydite.report.view import SPLIT, Kind, Line

#: metrics that the table shows of each group, in its order; all but the first two are shares
METRICS = ("ece", "log_loss", "decided", "decided_error", "miscoverage_real", "miscoverage_fake")
_GROUPS = ("seen", "source", "unseen-mean")
_SIDES = (("real", "miscoverage_real", "o", -0.14), ("fake", "miscoverage_fake", "s", 0.14))


@dataclass(frozen=True)
class Row:
    """One detector on one group of images.

    Attributes:
        line: the detector.
        group: "seen", "source" or "unseen-mean".
        alpha: what its card promises of each class; None without a promise.
        figures: in the order of `METRICS`; None where it was not measured.
    """

    line: Line
    group: str
    alpha: float | None
    figures: tuple[Figure | None, ...]


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Return the table's rows; none for results of before calibration was measured."""
    found = []
    for line in lines:
        for group in _GROUPS:
            figures = tuple(line.figure(metric, group=group) for metric in METRICS)
            if any(figure is not None for figure in figures):
                found.append(Row(line, group, line.value("alpha"), figures))
    return found


def promises(lines: Sequence[Line]) -> str | None:
    """Return how many of each class were called wrong on every domain, beside what was promised.

    The strip is where the rate of a band fitted on so many images lies in 95 of 100 cases, the
    images being of the same kind as the validation's.

    Args:
        lines: detectors to show, one panel each; those without a promise are left out.
    """
    lines = [line for line in lines if line.value("alpha") is not None]
    domains = _domains(lines)
    if not lines or not domains:
        return None

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(1, len(lines), squeeze=False, sharex=True, sharey=True)[0]
        for axes, line in zip(panels, lines, strict=True):
            _panel(axes, line, domains)
        canvas.supxlabel("share called wrong", fontsize=9, color=COLORS["soft"])
        handles = [
            Line2D([], [], ls="none", marker=marker, color=COLORS[label], label=words)
            for (label, _, marker, _), words in zip(
                _SIDES, ("reals called fake", "fakes called real"), strict=True
            )
        ]
        handles.append(Line2D([], [], color=COLORS["gold"], lw=1.4, label="promised"))
        canvas.legend(handles=handles, loc="outside upper left", ncols=3)

    said = "; ".join(_words(line, domains) for line in lines)
    size = (1.6 + 2.3 * len(lines), 0.32 * len(domains) + 1.3)
    title = "Promised and measured shares of images called wrong"
    return draw("promises", title, f"{title}, by domain. {said}.", size, paint)


def _domains(lines: Sequence[Line]) -> list[tuple[str, Kind]]:
    """Return the measured domains and what they are: seen first, then source, then the others."""
    kinds: dict[str, Kind] = {}
    for line in lines:
        kinds |= {name: "source" for name in line.result.source}
        kinds |= {name: "seen" for name in line.result.seen}
    names = {
        figure.slice["domain"]
        for line in lines
        for figure in line.result.figures
        if figure.metric == _SIDES[0][1] and figure.slice.keys() == {"domain", "split"}
    }
    order: tuple[Kind, ...] = ("seen", "source", "unseen")
    found = [(name, kinds.get(name, "unseen")) for name in sorted(names)]
    return sorted(found, key=lambda item: order.index(item[1]))


def _panel(axes: Axes, line: Line, domains: Sequence[tuple[str, Kind]]) -> None:
    """Draw one detector: a row a domain, both classes, and the promise."""
    promise = line.result.figure("alpha", split=SPLIT)
    assert promise is not None and promise.value is not None, "lines without one are left out"
    alpha = promise.value
    # the rate given the calibration images is a Beta variable of this variance (Vovk 2012)
    chance = 1.96 * float(np.sqrt(alpha * (1 - alpha) / (promise.n + 2)))
    axes.axvspan(max(0.0, alpha - chance), alpha + chance, color=COLORS["gold"], alpha=0.15, lw=0)
    axes.axvline(alpha, color=COLORS["gold"], lw=1.4)
    for place, (domain, _) in enumerate(domains):
        for label, metric, marker, aside in _SIDES:
            figure = line.figure(metric, domain=domain)
            if figure is None or figure.value is None:
                continue
            y, color = place + aside, COLORS[label]
            if figure.low is not None and figure.high is not None:
                axes.plot([figure.low, figure.high], [y, y], color=color, lw=1.2, alpha=0.45)
            axes.plot(figure.value, y, marker=marker, ms=5, color=color, ls="none")
    known = sum(kind != "unseen" for _, kind in domains)
    if 0 < known < len(domains):
        axes.axhline(known - 0.5, color=COLORS["rule"], lw=0.8)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(domains)), [f"{name} ({kind})" for name, kind in domains])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(domains) - 0.5, -0.5))
    axes.set_title(line.name, loc="left")


def _words(line: Line, domains: Sequence[tuple[str, Kind]]) -> str:
    """Return a panel in words."""
    parts = []
    for domain, _ in domains:
        values = [line.value(metric, domain=domain) for _, metric, _, _ in _SIDES]
        shown = [
            f"{v:.3f} of the {s[0]}s" for s, v in zip(_SIDES, values, strict=True) if v is not None
        ]
        parts.append(f"{domain} {' and '.join(shown) or 'nothing'}")
    return f"{line.name} (promised {line.value('alpha'):g}): {', '.join(parts)}"

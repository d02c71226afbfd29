"""What degradations cost the detectors of a study, as Markdown for pages that quote it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lydite.evaluate.degraded import CLEAN, DEGRADATION
from lydite.report.degraded import Panel, clean_value, degradations_in, panels_of
from lydite.report.markdown import over_seeds
from lydite.report.view import Line


def degraded_table(lines: Sequence[Line]) -> str:
    """Return a table for each metric: what it is on clean images, and what degradations change.

    Changes are in points of a hundred, on the same images, with their 95 % interval; over several
    seeds, the mean and the standard deviation. What is more, recipes or degradations, makes the
    rows.

    Args:
        lines: of one study; those of one recipe are its seeds.
    """
    if not panels_of(lines):
        return "No detector was measured on degraded images."
    return "\n\n".join(_table(lines, panel) for panel in panels_of(lines))


def _table(lines: Sequence[Line], panel: Panel) -> str:
    """Return the table of one metric under its name."""
    names = degradations_in(lines)
    recipes: dict[str, list[Line]] = {}
    for line in lines:
        recipes.setdefault(line.result.recipe, []).append(line)
    rows = [["", CLEAN, *names]]
    for recipe, seeds in recipes.items():
        cells = [_change(seeds, panel, name) for name in names]
        if any(cell != "-" for cell in cells):
            rows.append([recipe, _clean(seeds, panel, names), *cells])
    if len(names) >= len(rows):
        rows = [list(column) for column in zip(*rows, strict=True)]
    title = panel.title[0].upper() + panel.title[1:]
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    marked = ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
    return "\n".join([f"{title}, and the change in points:", "", *marked])


def _clean(seeds: Sequence[Line], panel: Panel, names: Sequence[str]) -> str:
    """Return the metric on clean images."""
    values = [clean_value(line, panel, names) for line in seeds]
    known = [100 * value for value in values if value is not None]
    return f"{statistics.mean(known):.1f}" if known else "-"


def _change(seeds: Sequence[Line], panel: Panel, name: str) -> str:
    """Return what a degradation changes, with its interval or its spread over seeds."""
    where = {DEGRADATION: name, "against": CLEAN}
    figures = [panel.figure(line, panel.gain, **where) for line in seeds]
    known = [f for f in figures if f is not None and f.value is not None]
    values = [100 * f.value for f in known if f.value is not None]
    if not values:
        return "-"
    text = _signed(statistics.mean(values))
    if len(seeds) > 1:
        return f"{text}{over_seeds(values, len(seeds), 1)}"
    low, high = known[0].low, known[0].high
    if low is None or high is None:
        return text
    return f"{text} [{_signed(100 * low)}, {_signed(100 * high)}]"


def _signed(points: float) -> str:
    """Return points with their sign; nothing is never below nothing."""
    return f"{round(points, 1) + 0.0:+.1f}"

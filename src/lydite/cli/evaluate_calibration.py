"""The second table of `lydite evaluate`: whether probabilities and verdicts can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lydite.cli.output import table

if TYPE_CHECKING:
    from lydite.card import Figure

#: columns by the metric that they show
COLUMNS = {
    "ece": "ECE",
    "brier": "Brier",
    "log_loss": "log loss",
    "decided": "decided",
    "decided_error": "wrong of these",
    "miscoverage_real": "reals called fake",
    "miscoverage_fake": "fakes called real",
}
ALPHA = "alpha"


def calibration_text(figures: Sequence[Figure]) -> str:
    """Return the table, and under it what the card promises."""
    found: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        if figure.metric in COLUMNS:
            where = ": ".join(v for k, v in figure.slice.items() if k != "split")
            found.setdefault(where, {})[figure.metric] = figure
    rows = [
        [name, *(cell(metrics.get(metric)) for metric in COLUMNS)]
        for name, metrics in found.items()
    ]
    lines = [table(["images", *COLUMNS.values()], rows)]
    promise = next((figure for figure in figures if figure.metric == ALPHA), None)
    if promise is not None:
        lines.append(
            f"Promised on images like those of the validation: at most {promise.value} of each "
            f"class called wrong. Fitted on {promise.n} groups a class or more, so the rate itself "
            "is not exact; on other images nothing is promised."
        )
    return "\n".join(lines)


def cell(figure: Figure | None) -> str | None:
    """Return a number and its interval."""
    if figure is None or figure.value is None:
        return None
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"

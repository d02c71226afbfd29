"""What `lydite evaluate --degrade` prints of degraded images."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lydite.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from lydite.card import Figure

_GROUPS = ("seen", "source", "unseen-mean")


def degraded_text(figures: Sequence[Figure]) -> str:
    """Return a table of what each degradation does to the decisions and AUC, group by group.

    Of the photographs and of the fakes that are called fake it has no interval: it would not fit.

    Args:
        figures: those of `summarize_degraded`.
    """
    from lydite.evaluate.auc_gain import AUC_GAIN
    from lydite.evaluate.compare import FLIPPED, GAIN
    from lydite.evaluate.degraded import CLEAN, DEGRADATION, degradations_of
    from lydite.evaluate.degraded_pairs import FALSE_ALARM_GAIN, RECALL_GAIN
    from lydite.evaluate.photographs import FALSE_ALARMS

    found = {
        (f.metric, f.slice["group"], f.slice[DEGRADATION], f.slice.get("against")): f
        for f in figures
        if "group" in f.slice
    }
    groups = [group for group in _GROUPS if any(key[1] == group for key in found)]
    rows: list[list[object]] = []
    for group in groups:
        for name in degradations_of(figures):
            plain = [found[metric, group, name, None] for metric in ("accuracy", "auc")]
            gains = [found[metric, group, name, CLEAN] for metric in (GAIN, AUC_GAIN, FLIPPED)]
            cells = [_cell(plain[0]), _cell(gains[0], "+"), _cell(plain[1]), _cell(gains[1], "+")]
            classes = [
                _changed(found[metric, group, name, None], found[gain, group, name, CLEAN])
                for metric, gain in ((FALSE_ALARMS, FALSE_ALARM_GAIN), ("recall", RECALL_GAIN))
            ]
            rows.append([name, group, plain[0].n, *cells, *classes, _cell(gains[2])])
    metrics = (
        *("accuracy", "minus clean", "auc", "minus clean"),
        *("false alarms", "fakes found", "flipped"),
    )
    headers = ["degraded", "images", "n", *metrics]
    return table(headers, rows)


def degraded_failures(scores: pa.Table) -> dict[str, dict[str, int]]:
    """Return how many degraded images could not be scored, by degradation and reason code."""
    from lydite.evaluate.degrade import NONE

    found: dict[str, Counter[str]] = {}
    columns = (scores[name].to_pylist() for name in ("degradation", "error"))
    for name, code in zip(*columns, strict=True):
        if name != NONE and code is not None:
            found.setdefault(name, Counter())[code] += 1
    return {name: dict(sorted(codes.items())) for name, codes in found.items()}


def _changed(figure: Figure, gain: Figure) -> str | None:
    """Return a number, and in brackets what of it is new."""
    if figure.value is None or gain.value is None:
        return None
    return f"{figure.value:.3f} ({gain.value:+.3f})"


def _cell(figure: Figure, sign: str = "") -> str | None:
    """Return a number and its interval, both with a sign if wanted."""
    if figure.value is None:
        return None
    text = f"{figure.value:{sign}.3f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"

"""What `lydite place` prints for people: ranks, and what a sweep measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from lydite.cli.output import table

if TYPE_CHECKING:
    from lydite.transfer.placement_result import Placement
    from lydite.transfer.placement_sweep import Measure, Role


def ranks_text(result: Placement) -> str:
    """Return what predictors say as people read it: a row a place, a column a predictor."""
    from lydite.transfer.predictors import PREDICTORS

    rows: list[list[object]] = []
    for row in result.places:
        cells: list[object] = [row.stage, row.channels]
        for found in row.predictions.values():
            known = found.value is not None and found.rank is not None
            cells.append(f"{found.value:.3g} ({found.rank:g})" if known else None)
        rows.append(cells)
    notes = [
        f"Places of {result.detector}, input side first, on {result.crops} crops: value, and rank "
        "in brackets; (1) promises most.",
        *(
            f"{name}: {PREDICTORS.get(name).meaning} ({PREDICTORS.get(name).better} is better)"
            for name in result.predictors
        ),
    ]
    return "\n".join([table(["place", "channels", *result.predictors], rows), "", *notes])


def sweep_text(made: Placement) -> str:
    """Return what was measured as people read it: a row a place, means over seeds."""
    sweep = made.sweep
    assert sweep is not None, "just measured"
    target, rest = ", ".join(sweep.target), ", ".join(sweep.source) or "others"
    columns: list[tuple[Measure, Role]] = [
        (measure, role) for role in ("target", sweep.rest) for measure in ("auc", "accuracy")
    ]
    rows: list[list[object]] = []
    for place in made.places:
        cells: list[object] = [place.stage, sweep.at(place.stage)[0].trainable_parameters]
        for measure, role in columns:
            gains = sweep.gains(place.stage, measure, role)
            cells.append(f"{statistics.mean(gains):+.3f}" if gains else None)
        rows.append(cells)
    headers = ["place", "parameters", f"AUC {target}", "accuracy", f"AUC {rest}", "accuracy"]
    seeds = f"{len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed"
    note = f"What an adapter at each place changed on the test split, mean over {seeds}."
    return "\n".join([table(headers, rows), "", note])

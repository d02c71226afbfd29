"""Placements whose sweeps were measured, compared: what each predictor is worth over all of them.

The result names every case by its digest, so that it stands beside the files it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lydite.config import Frozen, Sha256
from lydite.errors import DataError
from lydite.evaluate.intervals import N_BOOT
from lydite.files import digest, read_json
from lydite.transfer.placement_cases import N_PERMUTATIONS, swept_case
from lydite.transfer.placement_effects import PlacementEffects, Unit, compare_predictors
from lydite.transfer.placement_result import Placement, is_placement, read_placement
from lydite.transfer.placement_sweep import Measure

#: every case is drawn for itself
EACH: tuple[Unit, ...] = ("source", "target", "network")


class ComparedCase(Frozen):
    """One sweep that predictors were held against.

    Attributes:
        source: what the detector knows.
        target: what adapters learned.
        network: the detector's.
        detector: its name.
        card_digest: of its card.
        placement: digest of the placement and its sweep.
        places: how many.
        seeds: of the adapters.
        shots: images of each class and domain that they learned from; None: all there are.
        step: the entry of `adapt`, without its place.
    """

    source: str
    target: str
    network: str
    detector: str
    card_digest: Sha256
    placement: Sha256
    places: int
    seeds: tuple[int, ...]
    shots: int | None
    step: dict[str, Any]


class Comparison(Frozen):
    """What predictors and fixed rules are worth on several sweeps.

    Attributes:
        format: always "lydite-placement-effects".
        version: of this format.
        measure: gain that the sweeps were compared by.
        together: what is drawn together for intervals, see `compare_predictors`.
        cases: the sweeps.
        effects: of predictors and rules; rho, p and regret.
    """

    format: Literal["lydite-placement-effects"] = "lydite-placement-effects"
    version: Annotated[int, Field(ge=1, le=1)] = 1
    measure: Measure
    together: tuple[Unit, ...]
    cases: tuple[ComparedCase, ...]
    effects: PlacementEffects


def compare_placements(
    placements: Mapping[str, Placement],
    *,
    measure: Measure = "auc",
    together: Sequence[Unit] = EACH,
    n_boot: int = N_BOOT,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Hold the predictors of several placements against what their sweeps measured.

    Args:
        placements: by a name for messages, each with its sweep.
        measure: "auc" or "accuracy": mean over seeds of its gain on the target.
        together: see `compare_predictors`.
        n_boot: see there.
        n_permutations: see there.
        seed: see there.

    Raises:
        DataError: there are none, one has no sweep or none that is measured everywhere, two hold
            the same one, or they were asked different predictors.
    """
    _require_comparable(placements)
    cases, named = [], []
    for name, placement in placements.items():
        try:
            case = swept_case(placement, measure)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        cases.append(case)
        named.append(_named(placement, case.source, case.target))
    effects = compare_predictors(
        cases, together=together, n_boot=n_boot, n_permutations=n_permutations, seed=seed
    )
    return Comparison(
        measure=measure, together=tuple(together), cases=tuple(named), effects=effects
    )


def read_placements(folder: Path) -> dict[str, Placement]:
    """Return the placements among the JSON files of a folder, by file name, sorted.

    Raises:
        FileError: a file cannot be read.
        DataError: a placement is damaged or newer.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if is_placement(read_json(path))]
    return {path.name: read_placement(path) for path in paths}


def _require_comparable(placements: Mapping[str, Placement]) -> None:
    """Refuse what would be counted twice or compared in part.

    Raises:
        DataError: two hold the same sweep, or they were asked different predictors.
    """
    seen: dict[str, str] = {}
    asked: tuple[str, set[str]] | None = None
    for name, placement in placements.items():
        if placement.sweep is not None:
            content = digest(placement.sweep.model_dump(mode="json"))
            if content in seen:
                raise DataError(f"{seen[content]} and {name} hold the same sweep. Leave one out.")
            seen[content] = name
        first, predictors = asked = asked or (name, set(placement.predictors))
        if odd := sorted(predictors ^ set(placement.predictors)):
            raise DataError(
                f"{first} and {name} were not asked the same predictors: only one of them has "
                f"{', '.join(odd)}. Rank both places with --source, or both without."
            )


def _named(placement: Placement, source: str, target: str) -> ComparedCase:
    """Return what a comparison says of one of its cases."""
    sweep = placement.sweep
    assert sweep is not None, "made into a case before"
    return ComparedCase(
        source=source,
        target=target,
        network=sweep.network,
        detector=placement.detector,
        card_digest=placement.card_digest,
        placement=digest(placement.model_dump(mode="json")),
        places=len(placement.places),
        seeds=sweep.seeds,
        shots=sweep.shots,
        step=sweep.step,
    )

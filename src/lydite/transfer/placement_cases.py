"""Cases that a predictor of places is held against, and what it is worth in one of them.

A case is one detector adapted to one target with an adapter at every place, each measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from lydite.config import Frozen
from lydite.errors import DataError
from lydite.transfer.placement import ranks_of
from lydite.transfer.placement_result import Placement
from lydite.transfer.placement_sweep import Measure

Float64 = NDArray[np.float64]
#: what a predictor has to beat; "random" is the mean over all places
FIXED = ("random", "first", "second", "middle", "last")
#: permutations that chance is estimated by
N_PERMUTATIONS = 9999


class Case(Frozen):
    """A detector and a target, with an adapter measured at every place.

    Attributes:
        source: what the detector knows.
        target: what it was adapted to.
        network: its network.
        places: input side first.
        ranks: by predictor, of every place: 1 promises most; None where not defined.
        measured: accuracy or AUC with the adapter there; more is better.
    """

    source: str
    target: str
    network: str
    places: Annotated[tuple[str, ...], Field(min_length=2)]
    ranks: dict[str, tuple[float | None, ...]]
    measured: tuple[float, ...]

    @model_validator(mode="after")
    def _one_each(self) -> Case:
        for values in (self.measured, *self.ranks.values()):
            if len(values) != len(self.places):
                raise ValueError(f"{len(values)} values are given for {len(self.places)} places")
        return self


def case_of(
    placement: Placement, measured: Mapping[str, float], *, source: str, target: str, network: str
) -> Case:
    """Return the case of a placement and the sweep that was measured.

    Args:
        placement: of the detector before it was adapted.
        measured: accuracy or AUC by place.
        source: what the detector knows.
        target: what it was adapted to.
        network: its network.

    Raises:
        DataError: the two are not of the same places, or of fewer than two.
    """
    places = tuple(row.stage for row in placement.places)
    if set(places) != set(measured) or len(places) < 2:
        raise DataError(
            "A placement is compared with a sweep over the same places, two or more. "
            f"Got {', '.join(places)} and {', '.join(measured) or 'none'}."
        )
    return Case(
        source=source,
        target=target,
        network=network,
        places=places,
        ranks={
            name: tuple(row.predictions[name].rank for row in placement.places)
            for name in placement.predictors
        },
        measured=tuple(measured[place] for place in places),
    )


def swept_case(placement: Placement, measure: Measure = "auc") -> Case:
    """Return the case of a placement that holds its sweep, measured as the mean over seeds.

    What counts is the gain in AUC on the target unless you say otherwise: accuracy depends on a
    threshold too, which is fitted on few images where there are few shots, and then places are
    ranked by the luck of that fit.

    Args:
        placement: with a sweep.
        measure: "auc" or "accuracy".

    Raises:
        DataError: there is no sweep, it has fewer than two places, or the measure is not defined
            everywhere.
    """
    sweep = placement.sweep
    if sweep is None:
        raise DataError(
            f"The placement of {placement.detector} holds no sweep, so there is nothing to compare "
            "its predictors with. Make one with: lydite place --sweep"
        )
    return case_of(
        placement,
        sweep.mean_gains(measure),
        source=", ".join(sweep.source) or placement.detector,
        target=", ".join(sweep.target),
        network=sweep.network,
    )


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return Spearman's rank correlation, ties having mean ranks: Pearson's of the ranks.

    Args:
        first: (N,) values.
        second: (N,) values.

    Returns:
        -1 to 1; None where either is constant.
    """
    one, other = (
        _standard_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)
    )
    return None if one is None or other is None else float(one @ other)


def regret(case: Case, rule: str) -> float | None:
    """Return what a rule's place loses against the best place, in units of what was measured.

    Args:
        case: with every place measured.
        rule: a predictor of the case, or one of `FIXED`.

    Returns:
        0 or more; None where the predictor is not defined.
    """
    best, last = max(case.measured), len(case.places) - 1
    if rule == "random":
        return best - sum(case.measured) / len(case.measured)
    if rule in FIXED:
        places = {"first": 0, "second": 1, "middle": last // 2, "last": last}
        return best - case.measured[places[rule]]
    ranked = [(rank, i) for i, rank in enumerate(case.ranks[rule]) if rank is not None]
    return best - case.measured[min(ranked)[1]] if ranked else None


def permutation_p(
    cases: Sequence[Case],
    predictor: str,
    *,
    units: Sequence[str] | None = None,
    n: int = N_PERMUTATIONS,
    seed: int = 0,
) -> float | None:
    """Return how often chance does as well as a predictor: a one-sided permutation test.

    In every case the measured values are dealt out anew to the places; what counts is the mean of
    rho over cases. The observed deal is counted with the drawn ones (Phipson and Smyth 2010), so p
    is never zero.

    Args:
        cases: with this predictor.
        predictor: its name.
        units: of every case, what it belongs to: cases of one unit, and of as many places, are
            dealt out alike, as they are not independent; None is every case for itself.
        n: number of deals.
        seed: equal seeds deal equally.

    Returns:
        In (0, 1]; None where rho is defined in no case.
    """
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(n)
    defined = 0
    deals: dict[tuple[str | int, int], NDArray[np.intp]] = {}
    for number, case in enumerate(cases):
        promised, measured = (
            _standard_ranks(values) for values in promised_and_measured(case, predictor)
        )
        if promised is None or measured is None:
            continue
        defined += 1
        observed += float(promised @ measured)
        unit = (units[number] if units is not None else number, measured.size)
        if unit not in deals:
            deals = {} if units is None else deals
            deals[unit] = rng.permuted(np.tile(np.arange(measured.size), (n, 1)), axis=1)
        drawn += measured[deals[unit]] @ promised
    if not defined:
        return None
    # equal sums may differ in their last digits
    return float((1 + (drawn >= observed - 1e-9).sum()) / (n + 1))


def promised_and_measured(case: Case, predictor: str) -> tuple[Float64, Float64]:
    """Return what was promised (more is better) and measured, where it is defined."""
    rows = [
        (-rank, measured)
        for rank, measured in zip(case.ranks[predictor], case.measured, strict=True)
        if rank is not None
    ]
    both = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _standard_ranks(values: Float64) -> Float64 | None:
    """Return ranks with a mean of zero and a length of one; None where all are equal."""
    ranks = np.array(ranks_of(values.tolist(), "lower"), dtype=np.float64)
    ranks -= ranks.mean() if ranks.size else 0.0
    length = float(np.linalg.norm(ranks))
    return ranks / length if length > 0 else None

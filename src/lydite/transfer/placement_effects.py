"""How well predictors foresee a measured sweep: rank correlation, and what trusting them costs.

Numbers are computed within cases and then averaged over them, so that an easy target does not pass
for a good place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from lydite.config import Frozen
from lydite.errors import DataError
from lydite.evaluate.intervals import N_BOOT, intervals
from lydite.transfer.placement_cases import (
    FIXED,
    N_PERMUTATIONS,
    Case,
    Float64,
    permutation_p,
    promised_and_measured,
    regret,
    spearman,
)

#: what cases that are drawn together have in common
Unit = Literal["source", "target", "network"]
#: what is computed of every case ("rho", "regret", or a rule that is saved against), and of whom
Key = tuple[str, str]


class Estimate(Frozen):
    """A mean over cases and its 95 % interval; None where not defined.

    Attributes:
        value: the mean.
        low: lower end.
        high: upper end.
    """

    value: float | None
    low: float | None
    high: float | None


class Effect(Frozen):
    """What one predictor is worth.

    Attributes:
        predictor: its name.
        cases: in how many it is defined.
        rho: Spearman's correlation of what it promises and what was measured.
        p: share of permutations of the places that do as well; small is more than chance.
        regret: what its first choice loses against the best place.
        saved: by fixed rule, how much less that is than what the rule loses.
    """

    predictor: str
    cases: int
    rho: Estimate
    p: float | None
    regret: Estimate
    saved: dict[str, Estimate]


class PlacementEffects(Frozen):
    """What predictors and fixed rules are worth on the same cases.

    Attributes:
        cases: how many.
        fixed: regret of "random", "first", "second", "middle" and "last".
        predictors: one each.
    """

    cases: int
    fixed: dict[str, Estimate]
    predictors: tuple[Effect, ...]


def compare_predictors(
    cases: Sequence[Case],
    *,
    together: Sequence[Unit] = ("source", "target", "network"),
    n_boot: int = N_BOOT,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> PlacementEffects:
    """Return what every predictor and fixed rule is worth, with bootstrap intervals over cases.

    Args:
        cases: one or more, with the same predictors.
        together: what is drawn, and dealt out by the test against chance: cases that agree in
            these go together. All three: every case for itself; ("source", "network"): all targets
            of one detector at once, which is honest where a detector has several.
        n_boot: number of replicates.
        n_permutations: of the test against chance.
        seed: equal seeds draw equal cases.

    Raises:
        DataError: there are no cases, or they have different predictors.
    """
    if not cases or any(case.ranks.keys() != cases[0].ranks.keys() for case in cases):
        raise DataError("Predictors are compared on one or more cases that all have the same ones.")
    names = list(cases[0].ranks)
    units = [" / ".join(getattr(case, unit) for unit in together) for case in cases]
    columns = _columns(cases, names)
    found = _estimates(columns, units, n_boot, seed)
    effects = [
        Effect(
            predictor=name,
            cases=sum(value is not None for value in columns["rho", name]),
            rho=found["rho", name],
            p=permutation_p(cases, name, units=units, n=n_permutations, seed=seed),
            regret=found["regret", name],
            saved={rule: found[rule, name] for rule in FIXED},
        )
        for name in names
    ]
    fixed = {rule: found["regret", rule] for rule in FIXED}
    return PlacementEffects(cases=len(cases), fixed=fixed, predictors=tuple(effects))


def _columns(cases: Sequence[Case], names: Sequence[str]) -> dict[Key, list[float | None]]:
    """Return one value a case: rho and regret of predictors, and what they save against rules."""
    columns: dict[Key, list[float | None]] = {}
    for rule in (*FIXED, *names):
        columns["regret", rule] = [regret(case, rule) for case in cases]
    for name in names:
        columns["rho", name] = [spearman(*promised_and_measured(case, name)) for case in cases]
        for rule in FIXED:
            pairs = zip(columns["regret", rule], columns["regret", name], strict=True)
            columns[rule, name] = [None if a is None or b is None else a - b for a, b in pairs]
    return columns


def _estimates(
    columns: Mapping[Key, Sequence[float | None]], units: Sequence[str], n_boot: int, seed: int
) -> dict[Key, Estimate]:
    """Return the mean of every column with its interval, all on the same draws of units."""
    averages = [_average(np.array(column, dtype=np.float64)) for column in columns.values()]

    def means(weights: Float64) -> dict[str, Float64]:
        return {str(number): average(weights) for number, average in enumerate(averages)}

    found = intervals(means, [""] * len(units), units, n_boot=n_boot, seed=seed)
    return {
        key: Estimate(value=i.value, low=i.low, high=i.high)
        for key, i in zip(columns, found.values(), strict=True)
    }


def _average(column: Float64) -> Callable[[Float64], Float64]:
    """Return a function from weights (B, N) to weighted means (B,) of the defined values."""
    defined = ~np.isnan(column)
    filled = np.where(defined, column, 0.0)

    def average(weights: Float64) -> Float64:
        total = weights @ defined.astype(np.float64)
        mean: Float64 = np.divide(
            weights @ filled, total, out=np.full(len(weights), np.nan), where=total > 0
        )
        return mean

    return average

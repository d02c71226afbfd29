"""Predictors against a sweep: rho against scipy, regret by hand, chance by counting."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import spearmanr

from lydite.errors import DataError
from lydite.transfer.placement_cases import (
    FIXED,
    Case,
    case_of,
    permutation_p,
    regret,
    spearman,
)
from lydite.transfer.placement_effects import compare_predictors
from lydite.transfer.placement_result import Placement, PlaceRow, Prediction

MEASURED = (0.6, 0.9, 0.7, 0.8)


def case(measured: tuple[float, ...] = MEASURED, target: str = "t", **ranks: Any) -> Case:
    places = tuple(f"body.{number}" for number in range(len(measured)))
    return Case(
        source="s", target=target, network="n", places=places, ranks=ranks, measured=measured
    )


def test_rho_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        one, other = rng.integers(5, size=(2, 9))
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1.0], [2.0]) is None


def test_regret_by_hand() -> None:
    some = case(good=(4, 1, 3, 2), bad=(1, 4, 2, 3), tied=(1.5, 1.5, 3, 4), part=(None, 3, 1, 2))
    losses = {rule: regret(some, rule) for rule in (*FIXED, *some.ranks)}
    assert losses == pytest.approx(
        {
            "random": 0.15,
            "first": 0.3,
            "second": 0.0,
            "middle": 0.0,
            "last": 0.1,
            "good": 0.0,
            "bad": 0.3,
            "tied": 0.3,  # the place nearest to the input, as `auto` takes it
            "part": 0.2,
        }
    )
    assert regret(case(none=(None,) * 4), "none") is None
    # the second of seven is not the one in the middle
    assert regret(case((0.1, 0.5, 0.2, 0.9, 0.3, 0.0, 0.4)), "second") == pytest.approx(0.4)


def test_chance_is_counted() -> None:
    some = case((0.1, 0.2, 0.3, 0.35), fair=(4, 3, 1, 2), perfect=(4, 3, 2, 1))
    for name in ("fair", "perfect"):
        promised = [-rank for rank in some.ranks[name]]  # type: ignore[operator]
        observed = spearmanr(promised, some.measured).statistic
        all_rho = [spearmanr(promised, p).statistic for p in permutations(some.measured)]
        exact = np.mean([rho >= observed - 1e-9 for rho in all_rho])
        assert permutation_p([some], name, n=20_000) == pytest.approx(exact, abs=0.01)
    # two cases together are less likely by chance
    assert permutation_p([some, some], "perfect", n=20_000) == pytest.approx(1 / 24**2, abs=1e-3)
    assert permutation_p([some], "perfect", n=99, seed=1) >= 1 / 100  # type: ignore[operator]
    assert permutation_p([case(flat=(1.5, 1.5, 1.5, 1.5))], "flat") is None


def test_predictors_are_compared_on_the_same_cases() -> None:
    cases = [
        case((0.6, 0.9, 0.7), "a", good=(3, 1, 2), poor=(1, 3, 2), rare=(None, None, None)),
        case((0.5, 0.6, 0.9), "b", good=(3, 2, 1), poor=(1, 2, 3), rare=(1, 2, 3)),
        case((0.9, 0.5, 0.4), "c", good=(2, 1, 3), poor=(2, 3, 1), rare=(3, 2, 1)),
    ]
    found = compare_predictors(cases, n_boot=200, n_permutations=200)
    good, poor, rare = found.predictors
    assert [effect.predictor for effect in found.predictors] == ["good", "poor", "rare"]
    assert good.rho.value == pytest.approx((1 + 1 + 0.5) / 3)
    assert poor.rho.value == pytest.approx((-1 - 1 - 0.5) / 3)
    assert (rare.cases, good.cases) == (2, 3)
    assert rare.rho.value == pytest.approx(-1)
    assert good.regret.value == pytest.approx(0.4 / 3)
    assert found.fixed["first"].value == pytest.approx(0.7 / 3)
    assert found.fixed["middle"].value == pytest.approx(0.7 / 3)
    assert found.fixed["last"].value == pytest.approx(0.7 / 3)
    assert good.saved["first"].value == pytest.approx(0.3 / 3)
    assert good.rho.low is not None
    assert good.rho.high is not None
    assert 0.5 <= good.rho.low + 1e-9 < good.rho.value < good.rho.high < 1 + 1e-9  # type: ignore[operator]
    assert good.p < 0.1 < poor.p  # type: ignore[operator]
    again = compare_predictors(cases, n_boot=200, n_permutations=200)
    assert again == found
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_cases_of_one_detector_can_be_drawn_together() -> None:
    cases = [case((0.6, 0.9), t, good=ranks) for t, ranks in (("a", (2, 1)), ("b", (1, 2)))]
    each = compare_predictors(cases, n_boot=100, n_permutations=9).predictors[0]
    assert (each.rho.low, each.rho.high) == pytest.approx((-1, 1))
    # a single detector: nothing can vary
    one = compare_predictors(cases, together=("source", "network"), n_boot=100, n_permutations=9)
    assert (one.predictors[0].rho.value, one.predictors[0].rho.low) == (0, None)


def placement(ranks: list[float | None]) -> Placement:
    rows = [
        PlaceRow(
            stage=f"body.{n}", channels=3, predictions={"gradient": Prediction(value=r, rank=r)}
        )
        for n, r in enumerate(ranks)
    ]
    digest = "0" * 64
    return Placement(
        detector="d",
        card_digest=digest,
        images=digest,
        known=None,
        crops=2,
        seed=0,
        created="",
        versions={},
        places=tuple(rows),
    )


def test_a_case_is_a_placement_and_its_sweep() -> None:
    sweep = {"body.1": 0.9, "body.0": 0.6}
    made = case_of(placement([2.0, None]), sweep, source="s", target="t", network="n")
    assert made == case((0.6, 0.9), gradient=(2.0, None))
    for wrong in ({"body.0": 0.6}, sweep | {"body.2": 0.1}):
        with pytest.raises(DataError, match="over the same places"):
            case_of(placement([2.0, 1.0]), wrong, source="s", target="t", network="n")


def test_cases_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="3 values are given for 4 places"):
        case(good=(1, 2, 3))
    with pytest.raises(DataError, match="one or more cases"):
        compare_predictors([])
    with pytest.raises(DataError, match="the same ones"):
        compare_predictors([case(good=(1, 2, 3, 4)), case(other=(1, 2, 3, 4))])


def test_cases_of_one_detector_are_no_independent_evidence() -> None:
    """A predictor that is right about the first of two alike is right about the second as well."""
    cases = [case((0.1, 0.2, 0.3, 0.4), target, good=(4, 3, 2, 1)) for target in "abc"]
    alone, alike = (
        permutation_p(cases, "good", units=units, n=20_000) for units in (None, ["d"] * 3)
    )
    assert alone == pytest.approx(1 / 24**3, abs=2e-4)
    assert alike == pytest.approx(1 / 24, abs=5e-3)
    assert permutation_p(cases, "good", units=list("abc"), n=500) == permutation_p(
        cases, "good", n=500
    )

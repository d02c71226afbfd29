"""The conformal promise on simulated images, against brute force, and how it breaks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import beta, binom

from lydite.card import ConformalBand, ScoreMeaning
from lydite.data.preprocess import probability, verdict
from lydite.errors import ConfigError, DataError
from lydite.evaluate.conformal import (
    fit_band,
    moved,
    prediction_sets,
    unsure_between,
    upper_end,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]


def alone(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def drawn(
    rng: np.random.Generator, n: int = 60, apart: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    targets = np.repeat([0, 1], n)
    return rng.normal(targets * apart, 1.0), targets


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("n", [1, 4, 5, 9, 18, 19, 20, 59, 100])
def test_the_end_has_the_rank_of_the_textbook(n: int, alpha: float) -> None:
    scores = np.random.default_rng(n).permutation(n) + 1.0  # 1 to n: a score is its own rank
    # ceil((n + 1)(1 - alpha)), in whole numbers
    rank = -(-(n + 1) * round(100 - 100 * alpha) // 100)
    assert upper_end(scores, alone(n), alpha) == (rank if rank <= n else math.inf)


def test_ties_count_each() -> None:
    assert upper_end([1.0] * 18 + [2.0], alone(19), 0.05) == 2.0
    assert upper_end([1.0] * 19 + [2.0], alone(20), 0.1) == 1.0
    assert upper_end([3.0] * 19, alone(19), 0.05) == 3.0


def test_groups_share_their_weight_as_if_each_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = rng.integers(1, 5, 25)
        groups = np.repeat([f"g{k}" for k in range(25)], sizes)
        scores = np.round(rng.normal(size=sizes.sum()), 1)
        end = upper_end(scores, groups, 0.1)
        # brute force: the smallest score at or under which (K + 1)(1 - alpha) groups' weight lies

        def weight(q: float, scores: np.ndarray = scores, groups: np.ndarray = groups) -> float:
            return sum(float(np.mean(scores[groups == g] <= q)) for g in np.unique(groups))

        enough = [q for q in np.unique(scores) if weight(q) >= 26 * 0.9 - 1e-9]
        assert end == (min(enough) if enough else math.inf)


def test_copies_of_an_image_change_nothing() -> None:
    scores = np.random.default_rng(1).normal(size=40)
    copies = np.r_[scores, np.repeat(scores[:7], 3)]
    names = [*alone(40), *np.repeat(alone(7), 3)]
    assert upper_end(copies, names, 0.1) == upper_end(scores, alone(40), 0.1)
    assert upper_end(copies, alone(61), 0.1) != upper_end(scores, alone(40), 0.1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: rng.standard_t(1.0, size=n),
        lambda rng, n: rng.integers(0, 12, n).astype(float),  # nothing but ties
    ],
)
@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (50, 0.1), (33, 0.2)])
def test_at_most_alpha_of_new_images_lies_beyond(draw: Draw, n: int, alpha: float) -> None:
    rng = np.random.default_rng([n, 5])
    runs = 4000
    beyond = 0
    for _ in range(runs):
        known = draw(rng, n)
        beyond += int(draw(rng, 1)[0] > upper_end(known, alone(n), alpha))
    assert beyond <= binom.ppf(0.999, runs, alpha)
    if np.unique(known).size == n:  # without ties it is not far under alpha either
        assert beyond >= binom.ppf(0.001, runs, math.floor((n + 1) * alpha) / (n + 1))


def test_for_one_choice_of_images_the_rate_is_the_beta_variable_that_the_report_draws() -> None:
    rng = np.random.default_rng(2)
    n, alpha = 199, 0.05
    rates = rng.random((2000, n))  # uniform scores: the rate beyond an end is 1 - end
    rates = 1 - np.array([upper_end(known, alone(n), alpha) for known in rates])
    law = beta(10, 190)  # floor((n + 1) alpha) and the rest
    assert np.mean(rates) == pytest.approx(law.mean(), rel=0.05)
    assert np.std(rates) == pytest.approx(np.sqrt(alpha * (1 - alpha) / (n + 2)), rel=0.1)


def test_images_of_few_groups_promise_too_much_unless_groups_are_counted() -> None:
    rng = np.random.default_rng(3)
    runs, alpha = 2500, 0.06
    beyond = {"images": 0, "groups": 0}
    names = np.repeat(alone(20), 10)
    for _ in range(runs):
        scores = rng.normal(size=20).repeat(10) + 0.05 * rng.normal(size=200)
        new = rng.normal() + 0.05 * rng.normal()
        beyond["images"] += int(new > upper_end(scores, alone(200), alpha))
        beyond["groups"] += int(new > upper_end(scores, names, alpha))
    assert beyond["groups"] <= binom.ppf(0.999, runs, alpha)
    assert beyond["images"] > binom.ppf(0.999, runs, alpha)


@pytest.mark.parametrize("apart", [0.5, 2.0, 6.0])
def test_verdicts_keep_the_promise_for_each_class(apart: float) -> None:
    rng = np.random.default_rng(4)
    runs, alpha = 600, 0.1
    wrong = np.zeros(2)
    for _ in range(runs):
        z, targets = drawn(rng, apart=apart)
        band = fit_band(z, targets, alpha=alpha)
        assert band is not None
        # a threshold far from the middle: the promise is the band's alone
        meaning = ScoreMeaning(threshold=float(rng.normal(apart / 2, 0.5)), temperature=0.7)
        meaning = meaning.model_copy(update={"band": unsure_between(band, meaning)})
        for target, bad in ((0, "fake"), (1, "real")):
            p = float(probability(rng.normal(target * apart), meaning))
            wrong[target] += verdict(p, meaning) == bad
    assert wrong.max() <= binom.ppf(0.999, runs, alpha)


def test_the_promise_is_each_classs_own_however_rare_it_is() -> None:
    rng = np.random.default_rng(5)
    targets = np.r_[np.zeros(500), np.ones(25)].astype(int)
    z = rng.normal(targets * 1.0, np.where(targets == 1, 3.0, 1.0))
    band = fit_band(z, targets, alpha=0.1)
    assert band is not None
    assert (band.n_real, band.n_fake) == (500, 25)
    assert np.mean(z[targets == 1] < band.low) <= 0.1
    assert np.mean(z[targets == 0] > band.high) <= 0.1


def test_a_shift_breaks_it() -> None:
    rng = np.random.default_rng(6)
    z, targets = drawn(rng, 500, apart=4.0)
    band = fit_band(z, targets)
    assert band is not None
    same, other = rng.normal(4.0, 1.0, 2000), rng.normal(0.5, 1.0, 2000)
    assert np.mean(same < band.low) < 0.1
    assert np.mean(other < band.low) > 0.8


def test_sets_are_what_the_ends_say_and_verdicts_follow_them() -> None:
    weak = ConformalBand(alpha=0.1, low=-1.0, high=2.0, n_real=9, n_fake=9)
    z = np.array([-2.0, -1.0, 0.0, 2.0, 3.0])
    sets = [[True, False], [True, True], [True, True], [True, True], [False, True]]
    assert prediction_sets(z, weak).tolist() == sets
    meaning = ScoreMeaning(threshold=0.5)
    meaning = meaning.model_copy(update={"band": unsure_between(weak, meaning)})
    said = [verdict(float(p), meaning) for p in probability(z, meaning)]
    assert said == ["real", "unsure", "unsure", "unsure", "fake"]


def test_an_empty_set_is_decided_by_the_threshold() -> None:
    strong = ConformalBand(alpha=0.1, low=1.0, high=-1.0, n_real=9, n_fake=9)
    z = np.array([-2.0, -0.5, 0.5, 2.0])
    assert prediction_sets(z, strong).any(axis=1).tolist() == [True, False, False, True]
    meaning = ScoreMeaning(threshold=0.1)
    assert unsure_between(strong, meaning) == (0.5, 0.5)
    said = [verdict(float(p), meaning) for p in probability(z, meaning)]
    assert said == ["real", "real", "fake", "fake"]


def test_a_threshold_beyond_an_end_takes_it_along() -> None:
    band = ConformalBand(alpha=0.1, low=-1.0, high=2.0, n_real=9, n_fake=9)
    low, high = unsure_between(band, ScoreMeaning(threshold=3.0))
    assert high == 0.5
    assert low < 0.5


def test_a_moved_band_says_the_same_of_moved_scores() -> None:
    z, targets = drawn(np.random.default_rng(7))
    band = fit_band(z, targets, alpha=0.1)
    assert band is not None
    by = 3.25
    np.testing.assert_array_equal(
        prediction_sets(z + by, moved(band, by)), prediction_sets(z, band)
    )
    again = fit_band(z + by, targets, alpha=0.1)
    assert again is not None
    assert moved(band, by).low == pytest.approx(again.low)
    assert (moved(band, by).alpha, moved(band, by).n_real) == (band.alpha, band.n_real)


@pytest.mark.parametrize(("reals", "fakes"), [(18, 60), (60, 18), (0, 60), (0, 0), (18, 18)])
def test_too_few_of_a_class_promise_nothing(reals: int, fakes: int) -> None:
    targets = np.r_[np.zeros(reals), np.ones(fakes)].astype(int)
    z = np.random.default_rng(8).normal(size=reals + fakes)
    assert fit_band(z, targets) is None
    if reals and fakes:
        more = np.r_[targets, 0, 1]
        assert fit_band(np.r_[z, 0.0, 0.0], more) is not None or min(reals, fakes) < 18
    assert fit_band(np.zeros(60), np.repeat([0, 1], 30), ["g"] * 60) is None


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -0.1, float("nan")])
def test_alphas_that_mean_nothing_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="`alpha`"):
        fit_band([0.0, 1.0], [0, 1], alpha=alpha)


def test_every_image_needs_a_group() -> None:
    with pytest.raises(DataError, match="2 images have scores, but 1 have groups"):
        fit_band([0.0, 1.0], [0, 1], ["a"])

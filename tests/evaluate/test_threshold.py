"""Threshold, temperature and band against brute force and a general optimizer."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from lydite.card import ConformalBand
from lydite.data.preprocess import probability, verdict
from lydite.errors import DataError
from lydite.evaluate import metrics
from lydite.evaluate.threshold import (
    BAND_ERROR,
    BAND_LIMIT,
    best_temperature,
    best_threshold,
    fit_meaning,
    smooth_threshold,
    sparing_threshold,
)

DIGEST = "a" * 64


def drawn(seed: int, n: int = 300, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random(n) < 0.3).astype(int)
    return np.round(rng.normal(targets * apart + 5, 1.0), 2), targets


def balanced(z: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    return ((z[targets == 1] > threshold).mean() + (z[targets == 0] <= threshold).mean()) / 2


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_is_better(seed: int) -> None:
    z, targets = drawn(seed)
    reached = balanced(z, targets, best_threshold(z, targets))
    tried = [balanced(z, targets, t) for t in np.r_[z - 0.005, z, z + 0.005]]
    assert reached == pytest.approx(max(tried), abs=1e-12)
    meaning = fit_meaning(z, targets, DIGEST)
    assert meaning.threshold == best_threshold(z, targets)
    assert f"highest balanced accuracy on validation ({reached:.3f})" in meaning.rule


@pytest.mark.parametrize("seed", range(5))
def test_a_few_images_threshold_is_where_a_logistic_curve_says_one_half(seed: int) -> None:
    z, targets = drawn(seed, n=50)
    fakes, reals = (targets == 1).sum(), (targets == 0).sum()
    wanted = np.where(targets == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weight = np.where(targets == 1, 0.5 / fakes, 0.5 / reals)

    def loss(beta: np.ndarray) -> float:
        x = beta[0] * (z - 5) + beta[1]
        return float(np.sum(weight * (np.logaddexp(0, x) - wanted * x)))

    slope, offset = minimize(loss, [1.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    threshold = smooth_threshold(z, targets)
    assert threshold == pytest.approx(5 - offset / slope, abs=1e-4)
    meaning = fit_meaning(z, targets, DIGEST)
    assert meaning.threshold == threshold
    assert "logistic curve" in meaning.rule


@pytest.mark.parametrize("apart", [1.0, 2.0])
def test_with_few_images_the_curve_decides_better_than_the_best_split(apart: float) -> None:
    rng = np.random.default_rng(7)
    targets = np.repeat([0, 1], 16)
    ideal = apart / 2  # both classes are drawn with a deviation of one
    far = {"split": 0.0, "curve": 0.0}
    for _ in range(200):
        z = rng.normal(targets * apart, 1.0)
        far["split"] += (best_threshold(z, targets) - ideal) ** 2
        far["curve"] += (smooth_threshold(z, targets) - ideal) ** 2
    assert far["curve"] < 0.5 * far["split"]


def test_a_curve_that_falls_or_splits_cleanly_gives_a_threshold_too() -> None:
    targets = np.repeat([0, 1], 8)
    falling = -np.arange(16.0)
    assert smooth_threshold(falling, targets) == best_threshold(falling, targets)
    apart = np.r_[np.linspace(-9, -8, 8), np.linspace(8, 9, 8)]
    assert smooth_threshold(apart, targets) == pytest.approx(0.0, abs=1e-6)
    assert smooth_threshold(np.full(16, 3.0), targets) == 3.0


def test_threshold_lies_midway_between_separated_classes() -> None:
    assert best_threshold(np.array([1.0, 2.0, 6.0, 9.0]), np.array([0, 0, 1, 1])) == 4.0


def test_equally_good_thresholds_resolve_to_the_middle() -> None:
    # thresholds 0.5, 2.5 and 4.5 all reach 2/3
    z = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    targets = np.array([0, 1, 0, 1, 0, 1])
    assert best_threshold(z, targets) == 2.5
    order = np.random.default_rng(0).permutation(6)
    assert best_threshold(z[order], targets[order]) == 2.5


def test_equal_scores_give_that_score_and_chance() -> None:
    meaning = fit_meaning([3.0, 3.0, 3.0], [0, 1, 1], DIGEST)
    assert (meaning.threshold, meaning.temperature) == (3.0, 1.0)
    assert probability(3.0, meaning) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_temperature_minimizes_the_balanced_smoothed_loss(seed: int) -> None:
    z, targets = drawn(seed)
    x = z - 6.0
    fakes, reals = (targets == 1).sum(), (targets == 0).sum()
    wanted = np.where(targets == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weight = np.where(targets == 1, 0.5 / fakes, 0.5 / reals)

    def loss(log_t: float) -> float:
        logit = x / np.exp(log_t)
        return float(np.sum(weight * (np.logaddexp(0, logit) - wanted * logit)))

    found = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    assert best_temperature(x, targets) == pytest.approx(np.exp(found.x), rel=1e-4)


def test_temperature_scales_with_the_scores_and_stays_finite_when_split() -> None:
    targets = np.repeat([0, 1], 50)
    x = np.r_[-1 - np.arange(50) / 50, 1 + np.arange(50) / 50]
    cold = best_temperature(x, targets)
    assert 0.05 < cold < 1
    assert best_temperature(1000 * x, targets) == pytest.approx(1000 * cold, rel=1e-9)


@pytest.mark.parametrize("apart", [1.5, 2.5, 3.5])
def test_verdicts_outside_the_band_err_as_little_as_promised(apart: float) -> None:
    z, targets = drawn(1, n=400, apart=apart)
    meaning = fit_meaning(z, targets, DIGEST, alpha=None)
    said = np.array([verdict(float(p), meaning) for p in probability(z, meaning)])
    sure = said != "unsure"
    errors = [
        float(np.sum(sure & (targets == c) & (said == wrong)) / np.sum(targets == c))
        for c, wrong in ((0, "fake"), (1, "real"))
    ]
    kept = [float(np.mean(sure[targets == c])) for c in (0, 1)]
    low, high = meaning.band
    assert low + high == pytest.approx(1.0)
    assert 0.5 - low <= BAND_LIMIT
    if 0.5 - low < BAND_LIMIT:
        assert sum(errors) / sum(kept) <= BAND_ERROR
    else:
        assert "instead of 5%" in meaning.rule or sum(errors) / sum(kept) <= BAND_ERROR


def test_a_good_detector_needs_no_band() -> None:
    z = np.r_[np.linspace(-5, -3, 50), np.linspace(3, 5, 50)]
    meaning = fit_meaning(z, np.repeat([0, 1], 50), DIGEST)
    assert meaning.band == (0.5, 0.5)
    assert meaning.fitted_on == DIGEST
    assert meaning.n == 100
    assert "none is needed" in meaning.rule
    plain = fit_meaning(z, np.repeat([0, 1], 50), DIGEST, alpha=None)
    assert plain.band == (0.5, 0.5)
    assert "no unsure band" in plain.rule


def test_a_band_is_the_smallest_that_does() -> None:
    # 20 clear images each side, one error just off the threshold on each side
    z = np.r_[np.linspace(-9, -5, 20), 0.5, -0.4, np.linspace(5, 9, 20)]
    targets = np.r_[np.zeros(20), 0, 1, np.ones(20)].astype(int)
    meaning = fit_meaning(z, targets, DIGEST, alpha=None)
    p = probability(z, meaning)
    accuracy = metrics.accuracy(p, targets)
    assert accuracy is not None
    assert 1 - accuracy < BAND_ERROR
    assert meaning.band == (0.5, 0.5)


def test_hopeless_scores_are_capped_and_say_so() -> None:
    rng = np.random.default_rng(2)
    targets = np.repeat([0, 1], 200)
    z = rng.standard_t(1.0, 400) + 0.3 * targets
    meaning = fit_meaning(z, targets, DIGEST, alpha=None)
    assert meaning.band[0] >= 0.5 - BAND_LIMIT - 1e-12
    assert "unsure band" in meaning.rule


def test_swapped_labels_are_noticed() -> None:
    z, targets = drawn(0)
    with pytest.warns(UserWarning, match="labels may be swapped"):
        fit_meaning(z, 1 - targets, DIGEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_meaning(z, targets, DIGEST)


@pytest.mark.parametrize(
    ("z", "targets", "words"),
    [
        ([1.0, 2.0], [1, 1], "both classes. Got 0 real and 2 fake"),
        ([], [], "both classes"),
        ([1.0, float("nan")], [0, 1], "NaN"),
        ([1.0, float("inf")], [0, 1], "infinite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(z: list[float], targets: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit_meaning(z, targets, DIGEST)


def test_a_threshold_is_raised_to_leave_photographs_alone_and_never_lowered() -> None:
    z, targets = drawn(3)
    plain = fit_meaning(z, targets, "0" * 64)
    raised = fit_meaning(z, targets, "0" * 64, least=plain.threshold + 0.5)
    assert raised.threshold == plain.threshold + 0.5
    assert "raised until few photographs" in raised.rule
    assert fit_meaning(z, targets, "0" * 64, least=plain.threshold - 0.5) == plain


def test_of_spared_photographs_one_in_fifty_may_lie_above() -> None:
    for n in (1, 49, 50, 64, 99, 100, 1000):
        z = np.random.default_rng(n).normal(size=n)
        least = sparing_threshold(z)
        assert least is not None
        assert (z > least).sum() == n // 50
        # no lower score would do
        lower = z[z < least]
        assert not lower.size or (z > lower.max()).sum() > n // 50
    assert sparing_threshold([np.nan]) is None


def test_a_given_threshold_is_kept_and_the_rest_is_fitted_around_it() -> None:
    z, targets = drawn(3)
    free = fit_meaning(z, targets, DIGEST)
    kept = fit_meaning(z, targets, DIGEST, threshold=free.threshold + 0.7)
    assert kept.threshold == free.threshold + 0.7
    assert kept.temperature == best_temperature(z - kept.threshold, targets)
    above = z > kept.threshold
    reached = (above[targets == 1].mean() + (~above)[targets == 0].mean()) / 2
    assert "the parent's" in kept.rule
    assert f"({reached:.3f})" in kept.rule


@pytest.mark.parametrize("apart", [0.5, 2.0, 3.0])
def test_the_band_keeps_its_promise_on_the_images_that_it_was_fitted_on(apart: float) -> None:
    z, targets = drawn(4, n=400, apart=apart)
    meaning = fit_meaning(z, targets, DIGEST)
    promise = meaning.conformal
    assert promise is not None
    assert (promise.alpha, promise.n_fake) == (0.05, int(targets.sum()))
    said = np.array([verdict(float(p), meaning) for p in probability(z, meaning)])
    assert np.mean(said[targets == 0] == "fake") <= 0.05
    assert np.mean(said[targets == 1] == "real") <= 0.05
    # the threshold is what it was without a promise, and so is every forced decision
    plain = fit_meaning(z, targets, DIGEST, alpha=None)
    assert (plain.threshold, plain.temperature) == (meaning.threshold, meaning.temperature)
    assert "at most 0.05 of the real ones are called fake" in meaning.rule


def test_too_few_images_get_the_band_without_a_promise() -> None:
    z, targets = drawn(0, n=60)
    few = np.flatnonzero(targets == 1)[:18]
    keep = np.r_[np.flatnonzero(targets == 0), few]
    meaning = fit_meaning(z[keep], targets[keep], DIGEST)
    assert meaning == fit_meaning(z[keep], targets[keep], DIGEST, alpha=None)
    assert meaning.conformal is None
    loose = fit_meaning(z[keep], targets[keep], DIGEST, alpha=0.1)
    assert loose.conformal is not None
    # copies of one photograph are one of them
    groups = [str(n // 4) for n in range(keep.size)]
    assert fit_meaning(z[keep], targets[keep], DIGEST, groups=groups, alpha=0.1).conformal is None


def test_a_given_promise_is_kept() -> None:
    z, targets = drawn(3)
    given = ConformalBand(alpha=0.2, low=4.0, high=7.0, n_real=33, n_fake=44)
    meaning = fit_meaning(z, targets, DIGEST, threshold=6.0, conformal=given)
    assert meaning.conformal == given
    ends = [float(probability(end, meaning)) for end in (4.0, 7.0)]
    assert meaning.band == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    assert "the parent's, moved likewise" in meaning.rule

"""Metrics against scikit-learn and brute force, with ties and degenerate inputs (N1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as reference

from lydite.errors import DataError
from lydite.evaluate import kernels, metrics

DECIDED: dict[str, Callable[..., float]] = {
    "accuracy": reference.accuracy_score,
    "balanced_accuracy": reference.balanced_accuracy_score,
    "f1": reference.f1_score,
    "precision": reference.precision_score,
    "recall": reference.recall_score,
}
RANKED: dict[str, tuple[Callable[..., float | None], Callable[..., float]]] = {
    "auc": (metrics.auc, reference.roc_auc_score),
    "ap": (metrics.average_precision, reference.average_precision_score),
}


def drawn(seed: int, n: int = 200, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with many ties, and targets of both classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, n)
    targets[:2] = 0, 1
    return np.round(rng.normal(targets, 1.0), digits), targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", DECIDED)
def test_decided_metrics_equal_scikit_learn(name: str, seed: int) -> None:
    scores, targets = drawn(seed)
    p_fake = 1 / (1 + np.exp(-scores))
    ours = getattr(metrics, name)(p_fake, targets)
    assert ours == pytest.approx(DECIDED[name](targets, p_fake > 0.5), abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 9])
@pytest.mark.parametrize("name", RANKED)
def test_ranked_metrics_equal_scikit_learn_with_ties(name: str, digits: int) -> None:
    ours, theirs = RANKED[name]
    for seed in range(5):
        scores, targets = drawn(seed, digits=digits)
        assert ours(scores, targets) == pytest.approx(theirs(targets, scores), abs=1e-12)


def test_auc_equals_counting_all_pairs() -> None:
    scores, targets = drawn(7, n=60, digits=0)
    pairs = list(itertools.product(scores[targets == 1], scores[targets == 0]))
    wins = sum(1.0 if fake > real else 0.5 if fake == real else 0.0 for fake, real in pairs)
    assert metrics.auc(scores, targets) == pytest.approx(wins / len(pairs), abs=1e-15)


def test_auc_knows_only_the_order() -> None:
    scores, targets = drawn(3)
    assert metrics.auc(np.exp(3 * scores), targets) == metrics.auc(scores, targets)
    assert metrics.auc(-scores, targets) == pytest.approx(1 - metrics.auc(scores, targets))


def test_all_scores_equal_is_chance() -> None:
    targets = np.array([0, 1, 1, 0, 1])
    assert metrics.auc(np.ones(5), targets) == 0.5
    assert metrics.average_precision(np.ones(5), targets) == pytest.approx(0.6)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_weights_equal_repeating_images(name: str) -> None:
    scores, targets = drawn(11, n=50, digits=0)
    times = np.random.default_rng(0).integers(0, 4, (6, 50))
    weighted = kernels.KERNELS[name](scores, targets, times.astype(float))
    for row, value in zip(times, weighted, strict=True):
        again = metrics.measure(
            kernels.KERNELS[name], np.repeat(scores, row), np.repeat(targets, row)
        )
        assert value == pytest.approx(again, abs=1e-12)


def test_confusion_adds_up_over_parts() -> None:
    scores, targets = drawn(5)
    p_fake = 1 / (1 + np.exp(-scores))
    parts = [
        metrics.confusion(p, t)
        for p, t in zip(np.array_split(p_fake, 7), np.array_split(targets, 7), strict=True)
    ]
    assert sum(parts, metrics.Confusion()) == metrics.confusion(p_fake, targets)
    tn, fp, fn, tp = reference.confusion_matrix(targets, p_fake > 0.5).ravel()
    assert metrics.confusion(p_fake, targets) == metrics.Confusion(tp, fp, tn, fn)


def test_exactly_one_half_reads_real() -> None:
    assert metrics.confusion([0.5], [1]) == metrics.Confusion(fn=1)


def probabilities(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that are too sure, without ties, and twice as many reals as fakes."""
    rng = np.random.default_rng(seed)
    targets = np.repeat([0, 0, 1], n // 3)
    return 1 / (1 + np.exp(-4 * rng.normal(targets - 0.5, 1.0))), targets


@pytest.mark.parametrize("seed", range(5))
def test_losses_of_probabilities_equal_scikit_learn_with_balanced_weights(seed: int) -> None:
    p_fake, targets = probabilities(seed)
    p_fake[:2] = 1.0, 0.0
    weight = np.where(targets == 1, 2.0, 1.0)
    brier = reference.brier_score_loss(targets, p_fake, sample_weight=weight)
    assert metrics.brier(p_fake, targets) == pytest.approx(brier, abs=1e-12)
    loss = reference.log_loss(targets, p_fake, sample_weight=weight)
    assert metrics.log_loss(p_fake, targets) == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_ece_equals_a_naive_loop(seed: int) -> None:
    p_fake, targets = probabilities(seed)
    p_fake = np.round(p_fake, 2) if seed % 2 else p_fake
    mass = np.where(targets == 1, 0.5 / targets.sum(), 0.5 / (1 - targets).sum())
    bins: dict[int, list[int]] = {}
    for value in np.unique(p_fake):
        below, here = mass[p_fake < value].sum(), mass[p_fake == value].sum()
        number = min(int((below + here / 2) * kernels.ECE_BINS + 1e-9), kernels.ECE_BINS - 1)
        bins.setdefault(number, []).extend(np.flatnonzero(p_fake == value))
    wanted = 0.0
    for members in bins.values():
        total = mass[members].sum()
        mean_p = (mass[members] * p_fake[members]).sum() / total
        share = mass[members][targets[members] == 1].sum() / total
        wanted += total * abs(mean_p - share)
    assert metrics.ece(p_fake, targets) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ece_is_the_mean_gap_of_scikit_learns_quantile_curve(seed: int) -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.repeat([0, 1], 150))  # equal classes: the same masses
    p_fake = rng.permutation((np.arange(300) + 0.5) / 300)
    share, mean_p = calibration_curve(targets, p_fake, n_bins=kernels.ECE_BINS, strategy="quantile")
    assert metrics.ece(p_fake, targets) == pytest.approx(np.abs(share - mean_p).mean(), abs=1e-12)


def test_ece_of_answers_that_mean_what_they_say_and_of_such_that_do_not() -> None:
    targets = np.repeat([0, 1], 50)
    assert metrics.ece(targets.astype(float), targets) == 0.0
    assert metrics.ece(1.0 - targets, targets) == 1.0
    assert metrics.ece(np.full(100, 0.5), targets) == pytest.approx(0.0, abs=1e-12)
    # nine reals for each fake are no miscalibration of a detector that knows nothing
    assert metrics.ece(np.full(100, 0.5), np.repeat([0, 1], [90, 10])) == pytest.approx(
        0, abs=1e-12
    )
    # errors of both classes do not cancel: half of each is surely wrong
    assert metrics.ece(np.tile([0.0, 1.0], 50), targets) == pytest.approx(0.5)


NAMES = [*DECIDED, "auc", "average_precision", "ece", "brier", "log_loss"]


@pytest.mark.parametrize("name", NAMES)
def test_no_image_is_undefined(name: str) -> None:
    assert getattr(metrics, name)([], []) is None


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize(
    "name", ["balanced_accuracy", "auc", "average_precision", "ece", "brier", "log_loss"]
)
def test_one_class_is_undefined(name: str, target: int) -> None:
    assert getattr(metrics, name)([0.1, 0.9], [target, target]) is None


def test_one_class_where_a_share_is_still_defined() -> None:
    assert metrics.accuracy([0.1, 0.9], [0, 0]) == 0.5
    assert metrics.recall([0.1, 0.9], [0, 0]) is None
    assert metrics.precision([0.1, 0.2], [0, 1]) is None
    assert metrics.f1([0.1, 0.2], [0, 0]) is None
    assert metrics.f1([0.1, 0.2], [0, 1]) == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scores", "targets", "words"),
    [
        ([0.1, float("nan")], [0, 1], "NaN"),
        ([0.1, 0.2], [0, 2], "0 .real. or 1"),
        ([0.1, 0.2], [0.5, 1], "0 .real. or 1"),
        ([0.1], [0, 1], "equal length"),
        ([[0.1, 0.2]], [[0, 1]], "equal length"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, scores: list[float], targets: list[int], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        getattr(metrics, name)(scores, targets)

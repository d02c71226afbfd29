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


NAMES = [*DECIDED, "auc", "average_precision"]


@pytest.mark.parametrize("name", NAMES)
def test_no_image_is_undefined(name: str) -> None:
    assert getattr(metrics, name)([], []) is None


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("name", ["balanced_accuracy", "auc", "average_precision"])
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

"""Metrics of many reweightings of one set of images at once, in plain numpy.

A bootstrap replicate is the same images with other weights: how often each was drawn. So every
metric is written once, for weights `(B, N)`, and the plain metric is the case of one row of ones.
Undefined values (no image of a class, no image called fake) are NaN here; `lydite.evaluate.metrics`
turns them into None. Inputs are trusted: call `metrics.check` first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
#: (scores (N,), targets (N,), weights (B, N)) -> (B,)
Kernel = Callable[[Float64, Int64, Float64], Float64]

#: a probability above this reads "fake" when a decision is forced
DECISION = 0.5
#: bins of the expected calibration error, as many as Guo et al. (2017) have
ECE_BINS = 15


def counts(p_fake: Float64, targets: Int64, weights: Float64) -> tuple[Float64, ...]:
    """Return weighted (tp, fp, tn, fn), each (B,), of the forced decision `p_fake > 0.5`."""
    called = p_fake > DECISION
    fake = targets == 1
    cells = (called & fake, called & ~fake, ~called & ~fake, ~called & fake)
    return tuple(weights @ cell.astype(np.float64) for cell in cells)


def ratio(part: Float64, whole: Float64) -> Float64:
    """Return part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def accuracy(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of right decisions."""
    tp, fp, tn, fn = counts(p_fake, targets, weights)
    return ratio(tp + tn, tp + fp + tn + fn)


def balanced_accuracy(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Mean of the shares of right decisions among fakes and among reals."""
    tp, fp, tn, fn = counts(p_fake, targets, weights)
    return (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2


def precision(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of fakes among the images called fake."""
    tp, fp, _, _ = counts(p_fake, targets, weights)
    return ratio(tp, tp + fp)


def recall(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of the fakes that are called fake."""
    tp, _, _, fn = counts(p_fake, targets, weights)
    return ratio(tp, tp + fn)


def false_alarm_rate(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of the reals that are called fake."""
    _, fp, tn, _ = counts(p_fake, targets, weights)
    return ratio(fp, fp + tn)


def f1(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Harmonic mean of precision and recall."""
    tp, fp, _, fn = counts(p_fake, targets, weights)
    return ratio(2 * tp, 2 * tp + fp + fn)


def auc(scores: Float64, targets: Int64, weights: Float64) -> Float64:
    """Probability that a fake scores above a real one, a tie counting one half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982).
    """
    fakes, reals = _tie_blocks(scores, targets, weights)
    below = np.cumsum(reals, axis=1) - reals
    wins = (fakes * (below + reals / 2)).sum(axis=1)
    return ratio(wins, fakes.sum(axis=1) * reals.sum(axis=1))


def average_precision(scores: Float64, targets: Int64, weights: Float64) -> Float64:
    """Precision at every recall step, weighted by the step; tied scores enter together.

    The step-wise sum of (R_k - R_{k-1}) P_k, without interpolation (Manning et al. 2008, ch. 8).
    """
    fakes, reals = _tie_blocks(scores, targets, weights)
    fakes, reals = fakes[:, ::-1], reals[:, ::-1]
    tp, fp = np.cumsum(fakes, axis=1), np.cumsum(reals, axis=1)
    called = tp + fp
    at = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
    value = ratio((fakes * at).sum(axis=1), tp[:, -1])
    return np.where(fp[:, -1] > 0, value, np.nan)


def brier(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Mean squared difference of p(fake) and target (Brier 1950), each class weighing one half."""
    return _class_mean((p_fake - targets) ** 2, targets, weights)


def log_loss(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Mean negative log likelihood in nats, each class weighing one half.

    As in scikit-learn a probability of 0 or 1 counts as the machine's epsilon away from it, so
    that one sure mistake costs 36 nats and not everything.
    """
    smallest = np.finfo(np.float64).eps
    p_true = np.where(targets == 1, p_fake, 1 - p_fake)
    return _class_mean(-np.log(np.clip(p_true, smallest, 1 - smallest)), targets, weights)


def ece(p_fake: Float64, targets: Int64, weights: Float64) -> Float64:
    """Expected calibration error: how far p(fake) is from the share of fakes, on average.

    The sum over bins of (mass of the bin) * |mean p(fake) - share of fakes|, as by Guo et al.
    (2017, eq. 3), in the form for two classes: p(fake) is held against the share of fakes over all
    of 0..1, where the confidence max(p, 1 - p) would let errors of the two classes cancel. Both
    classes weigh one half, as where the temperature is fitted, so that the mix of a test set does
    not count as miscalibration. Bins are of equal mass (Nixon et al. 2019), and equal
    probabilities share a bin: the one that the middle of their mass lies in.

    With a finite number of images it is too large on average (Kumar et al. 2019): a calibrated
    detector has more than 0, and about the less the more images there are. Compare it on equally
    many images.
    """
    fakes, reals = _tie_blocks(p_fake, targets, weights)
    fakes = ratio(fakes, np.broadcast_to(2 * fakes.sum(axis=1, keepdims=True), fakes.shape))
    reals = ratio(reals, np.broadcast_to(2 * reals.sum(axis=1, keepdims=True), reals.shape))
    mass = fakes + reals
    middle = np.nan_to_num(np.cumsum(mass, axis=1) - mass / 2)
    # equal masses are to give equal bins, however their sums are rounded
    at = np.minimum((middle * ECE_BINS + 1e-9).astype(np.int64), ECE_BINS - 1)
    place = (at + np.arange(len(at))[:, None] * ECE_BINS).ravel()
    gap = (mass * np.unique(p_fake) - fakes).ravel()
    gaps = np.bincount(place, gap, len(at) * ECE_BINS).reshape(-1, ECE_BINS)
    return np.asarray(np.abs(gaps).sum(axis=1))


def _class_mean(values: Float64, targets: Int64, weights: Float64) -> Float64:
    """Return the mean over the two classes of the mean of each one's values, (B,)."""
    fake = (targets == 1).astype(np.float64)
    means = [ratio(weights @ (values * one), weights @ one) for one in (fake, 1 - fake)]
    return (means[0] + means[1]) / 2


def _tie_blocks(scores: Float64, targets: Int64, weights: Float64) -> tuple[Float64, Float64]:
    """Return the weight of fakes and of reals at each distinct score, ascending: (B, K) each."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    moved = weights[:, order]
    fake = (targets[order] == 1).astype(np.float64)
    fakes = np.add.reduceat(moved * fake, starts, axis=1)
    reals = np.add.reduceat(moved * (1 - fake), starts, axis=1)
    return fakes, reals


#: metrics of the decision; they read p(fake)
DECIDED: dict[str, Kernel] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "precision": precision,
    "recall": recall,
}
#: metrics of the ranking; they read the score z, which never saturates as p does
RANKED: dict[str, Kernel] = {"auc": auc, "ap": average_precision}
#: metrics of the probability itself; they read p(fake)
CALIBRATED: dict[str, Kernel] = {"ece": ece, "brier": brier, "log_loss": log_loss}
KERNELS: dict[str, Kernel] = DECIDED | RANKED | CALIBRATED

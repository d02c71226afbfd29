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
KERNELS: dict[str, Kernel] = DECIDED | RANKED

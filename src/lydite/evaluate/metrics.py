"""Metrics as pure functions of two arrays: scores and targets.

Every one has the same anatomy: check the input, bring it into one form, count or rank it, compute,
and say None where the answer is not defined. An undefined answer is None (an empty input, a class
that is missing, a precision with nothing called fake); an input that cannot be meant is a
`DataError` (lengths that differ, a target besides 0 and 1, NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lydite.errors import DataError
from lydite.evaluate import kernels
from lydite.evaluate.kernels import Float64, Int64, Kernel


@dataclass(frozen=True)
class Confusion:
    """Counts of the forced decision, fakes being the positives; counts of parts add up.

    Attributes:
        tp: fakes called fake.
        fp: reals called fake.
        tn: reals called real.
        fn: fakes called real.
    """

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn
        )


def check(scores: ArrayLike, targets: ArrayLike) -> tuple[Float64, Int64]:
    """Return scores and targets as (N,) float64 and (N,) int64.

    Raises:
        DataError: shapes differ or have more than one dimension, a score is NaN, or a target is
            neither 0 (real) nor 1 (fake).
    """
    values = np.asarray(scores, dtype=np.float64)
    classes = np.asarray(targets)
    if values.ndim != 1 or values.shape != classes.shape:
        raise DataError(
            "Scores and targets must be two lists of equal length. "
            f"Got shapes {values.shape} and {classes.shape}."
        )
    if np.isnan(values).any():
        raise DataError(
            f"{int(np.isnan(values).sum())} of {values.size} scores are NaN. "
            "Leave failed images out before measuring."
        )
    strange = ~np.isin(classes, (0, 1))
    if strange.any():
        raise DataError(f"Targets must be 0 (real) or 1 (fake). Got {classes[strange][0]!r}.")
    return values, classes.astype(np.int64)


def measure(kernel: Kernel, scores: ArrayLike, targets: ArrayLike) -> float | None:
    """Return one metric of all images with equal weights, None where it is not defined.

    Args:
        kernel: a function of `lydite.evaluate.kernels`.
        scores: (N,) p(fake) for metrics of the decision, any monotone score for the others.
        targets: (N,) 0 for real, 1 for fake.

    Raises:
        DataError: see `check`.
    """
    values, classes = check(scores, targets)
    if not values.size:
        return None
    result = float(kernel(values, classes, np.ones((1, values.size)))[0])
    return None if math.isnan(result) else result


def confusion(p_fake: ArrayLike, targets: ArrayLike) -> Confusion:
    """Return the counts of the forced decision `p_fake > 0.5`.

    Raises:
        DataError: see `check`.

    >>> confusion([0.9, 0.2, 0.7], [1, 0, 0])
    Confusion(tp=1, fp=1, tn=1, fn=0)
    """
    values, classes = check(p_fake, targets)
    cells = kernels.counts(values, classes, np.ones((1, values.size)))
    return Confusion(*(int(cell[0]) for cell in cells))


def accuracy(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the share of right decisions; None without images.

    >>> accuracy([0.9, 0.2, 0.7], [1, 0, 0])
    0.6666666666666666
    """
    return measure(kernels.accuracy, p_fake, targets)


def balanced_accuracy(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the mean share of right decisions over the two classes; None if one is missing."""
    return measure(kernels.balanced_accuracy, p_fake, targets)


def f1(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the F1 score of the fakes; None if nothing is fake and nothing is called fake."""
    return measure(kernels.f1, p_fake, targets)


def precision(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the share of fakes among images called fake; None if none is."""
    return measure(kernels.precision, p_fake, targets)


def recall(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the share of fakes that are called fake; None without fakes."""
    return measure(kernels.recall, p_fake, targets)


def auc(scores: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counting one half; None if a class is missing.

    >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    return measure(kernels.auc, scores, targets)


def average_precision(scores: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the average precision of the fakes; None if a class is missing."""
    return measure(kernels.average_precision, scores, targets)


def ece(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the expected calibration error, see `kernels.ece`; None if a class is missing.

    >>> ece([0.0, 0.0, 0.5, 1.0], [0, 0, 1, 1])
    0.125
    """
    return measure(kernels.ece, p_fake, targets)


def brier(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the class-balanced Brier score; None if a class is missing."""
    return measure(kernels.brier, p_fake, targets)


def log_loss(p_fake: ArrayLike, targets: ArrayLike) -> float | None:
    """Return the class-balanced log loss in nats; None if a class is missing."""
    return measure(kernels.log_loss, p_fake, targets)

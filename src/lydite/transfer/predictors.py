"""Predictors of where an adapter belongs: pure functions of what images say at one place.

None of them trains anything. Whether one predicts what a sweep over the places measures is for
`lydite.transfer.placement_effects` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lydite.registry import Registry
from lydite.transfer.observe import Observed

Floats = NDArray[np.floating[Any]]
#: parts that a probe is trained and tried on by turns
FOLDS = 5
#: penalty of a probe's squared weights, for each image and feature of variance one
RIDGE = 0.1


@dataclass(frozen=True)
class Predictor:
    """A named number of one place.

    Attributes:
        better: which values promise a good place.
        known: whether it needs images that the detector knows.
        meaning: one sentence.
        reference: where it comes from.
        of: from what was observed to its value; None where it is not defined.
    """

    better: Literal["higher", "lower"]
    known: bool
    meaning: str
    reference: str
    of: Callable[[Observed], float | None]


def first_step(gradients: Floats) -> float:
    """Return how far the mean loss falls, to first order, when the map changes by a share.

    With G the mean gradient by the adapter's weight W, a step D lowers the mean loss by -<G, D>.
    If no vector of the map is to change by more than a share e of its length, D has a spectral
    norm of e at most, and the largest fall is e times the nuclear norm of G, its dual (Boyd and
    Vandenberghe 2004, A.1.6). Neither the scale of a map nor its number of channels or positions
    enters, so depths compare; a Frobenius norm would favor wide maps.

    Args:
        gradients: (N, C, C) of each image's loss by W.
    """
    mean = gradients.mean(axis=0, dtype=np.float64)
    return float(np.linalg.svd(mean, compute_uv=False).sum())


def effective_rank(rows: Floats) -> float | None:
    """Return exp of the entropy of the singular values, normalized to a sum of one.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality": 1 for a
    matrix of rank one, and k where k singular values are equal and the rest zero. With a row an
    image it cannot exceed their number, so few images tell wide places apart badly.

    Args:
        rows: (N, D) matrix.

    Returns:
        1 to min(N, D); None for zeros.
    """
    matrix = np.asarray(rows, dtype=np.float64)
    # the smaller of the two Gram matrices has the same singular values, squared
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    total = values.sum()
    if not total > 0:
        return None
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def fisher_trace(gradients: Floats) -> float:
    """Return the trace of the empirical Fisher information per parameter of the adapter.

    The mean over images and parameters of the squared gradient, taken at the labels; the diagonal
    is what Kirkpatrick et al. 2017 (arXiv 1612.00796) weight parameters with.

    Args:
        gradients: (N, ...) of each image's loss.
    """
    return float(np.square(gradients, dtype=np.float64).mean())


def noise_to_signal(gradients: Floats) -> float | None:
    """Return the variance of the gradient over images, over the square of its mean.

    McCandlish et al. 2018 (arXiv 1812.06162), equation 2.9, the "simple noise scale": both are
    summed over parameters before they are divided, and the variance is unbiased. The square of the
    mean holds the variance of that mean; taking it off would change no order of places, but leave
    many without a value.

    Args:
        gradients: (N, ...) of each image's loss.

    Returns:
        None for fewer than two images, or where the mean is zero.
    """
    flat = np.asarray(gradients, dtype=np.float64).reshape(len(gradients), -1)
    signal = float(np.square(flat.mean(axis=0)).sum())
    if len(flat) < 2 or signal == 0:
        return None
    return float(flat.var(axis=0, ddof=1).sum()) / signal


def squared_mmd(first: Floats, second: Floats) -> float | None:
    """Return the unbiased squared maximum mean discrepancy of two samples.

    Gretton et al. 2012, "A kernel two-sample test", equation 3, with the kernel exp(-d^2 / 2 s^2)
    and s the median distance between different points of both samples. It may be a little below
    zero where the distributions are equal.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.

    Returns:
        None for fewer points, or where most of them are one.
    """
    n, m = len(first), len(second)
    if n < 2 or m < 2:
        return None
    points = np.concatenate([first, second]).astype(np.float64)
    squares = np.square(points).sum(axis=1)
    distances = (squares[:, None] + squares - 2 * points @ points.T).clip(min=0)
    width = float(np.median(distances[np.triu_indices(n + m, 1)]))
    if width == 0:
        return None
    kernel = np.exp(-distances / (2 * width))
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel[:n, n:].mean())


def label_cka(features: Floats, targets: NDArray[np.int64]) -> float | None:
    """Return the linear CKA between features and labels: how plainly the labels can be read.

    Kornblith et al. 2019 (arXiv 1905.00414), with linear kernels, the labels being one
    number an image. 1: the labels are all that varies.

    Args:
        features: (N, D).
        targets: (N,) of two classes.

    Returns:
        0 to 1; None where either does not vary.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    y = targets - targets.mean()
    spread = float(np.linalg.norm(x.T @ x)) * float(y @ y)
    return float(np.square(y @ x).sum()) / spread if spread > 0 else None


def probe_accuracy(
    features: Floats,
    targets: NDArray[np.int64],
    groups: NDArray[np.str_],
    folds: int = FOLDS,
) -> float | None:
    """Return how many labels a ridge classifier gets right on groups that it was not fitted to.

    Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes"
    (arXiv 1610.01644). Features are standardized, and the means taken off, on the groups that it
    is fitted to.

    Args:
        features: (N, D).
        targets: (N,) 0 or 1.
        groups: (N,) images of one group are never on both sides.
        folds: how many parts the groups are dealt into.

    Returns:
        0 to 1; None for a single group.
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    part = np.random.default_rng(0).permutation(len(names))[member] % min(folds, len(names))
    right = 0
    for number in range(part.max() + 1):
        fit, held = part != number, part == number
        scores = _ridge(features[fit], targets[fit], features[held])
        right += int(((scores > 0) == (targets[held] == 1)).sum())
    return right / len(targets)


def _ridge(features: Floats, targets: NDArray[np.int64], others: Floats) -> NDArray[np.float64]:
    """Return the scores of other features, positive for fake, by ridge regression on +1 and -1."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    x, y = (features - mean) / spread, 2.0 * targets - 1.0
    penalty = RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (y - y.mean()))
    scores: NDArray[np.float64] = (others - mean) / spread @ weights + y.mean()
    return scores


PREDICTORS: Registry[Predictor] = Registry("predictor")
PREDICTORS.add("gradient")(
    Predictor(
        "higher",
        False,
        "how far the loss falls to first order when an adapter changes the map by a given share",
        "after Evci et al. 2022, GradMax (arXiv 2201.05125), with the nuclear norm",
        lambda seen: first_step(seen.gradients),
    )
)
PREDICTORS.add("gradient-rank")(
    Predictor(
        "higher",
        False,
        "in how many directions the images ask to change the adapter",
        "Nowak et al. 2024 (arXiv 2410.15858); Roy and Vetterli 2007",
        lambda seen: effective_rank(seen.gradients.reshape(len(seen.gradients), -1)),
    )
)
PREDICTORS.add("fisher")(
    Predictor(
        "higher",
        False,
        "how strongly each image's loss answers to a parameter of the adapter",
        "Kirkpatrick et al. 2017 (arXiv 1612.00796)",
        lambda seen: fisher_trace(seen.gradients),
    )
)
PREDICTORS.add("nsr")(
    Predictor(
        "lower",
        False,
        "how little the images agree on what the adapter should do",
        "McCandlish et al. 2018 (arXiv 1812.06162)",
        lambda seen: noise_to_signal(seen.gradients),
    )
)
PREDICTORS.add("mmd")(
    Predictor(
        "higher",
        True,
        "how far the new images lie from the known ones here",
        "Gretton et al. 2012; Long et al. 2015 (arXiv 1502.02791)",
        lambda seen: None if seen.known is None else squared_mmd(seen.maps, seen.known),
    )
)
PREDICTORS.add("label-cka")(
    Predictor(
        "higher",
        False,
        "how much of what varies here is the label",
        "Kornblith et al. 2019 (arXiv 1905.00414)",
        lambda seen: label_cka(seen.maps, seen.targets),
    )
)
PREDICTORS.add("probe")(
    Predictor(
        "higher",
        False,
        "how many labels a linear classifier reads right here, on images new to it",
        "Alain and Bengio 2016 (arXiv 1610.01644)",
        lambda seen: probe_accuracy(seen.maps, seen.targets, seen.groups),
    )
)

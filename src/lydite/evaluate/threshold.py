"""What a score means: threshold, temperature and "unsure" band, from validation scores alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lydite.card import ConformalBand, ScoreMeaning
from lydite.data.preprocess import probability
from lydite.errors import DataError
from lydite.evaluate import metrics
from lydite.evaluate.conformal import ALPHA, fit_band, unsure_between
from lydite.evaluate.kernels import Float64, Int64

#: with fewer images than this of a class the best split is mostly chance, and a curve is fitted
FEW = 50
#: class-balanced error allowed outside the unsure band
BAND_ERROR = 0.05
#: the band never reaches beyond 0.5 plus or minus this
BAND_LIMIT = 0.45
#: where a threshold comes from, in the card's words; balanced accuracy follows in brackets
CHOSEN = "highest balanced accuracy on validation"
SMOOTH = "where a logistic curve says even odds, the images being few; balanced accuracy there"
KEPT = "the parent's, moved as far as its validation scores moved; balanced accuracy there"
RAISED = "{}, raised until few photographs that it is to leave alone lie above"
#: share of those that may; of a source with as many fakes it costs half of that in accuracy
SPARED = 0.02
SWAPPED = (
    "The validation AUC is {auc:.3f}, under 0.5: fakes score lower than reals. "
    "The labels may be swapped; check which folder holds the fakes."
)


def fit_meaning(
    z: ArrayLike,
    targets: ArrayLike,
    digest: str,
    *,
    groups: Sequence[str] | NDArray[np.str_] | None = None,
    alpha: float | None = ALPHA,
    threshold: float | None = None,
    least: float | None = None,
    conformal: ConformalBand | None = None,
) -> ScoreMeaning:
    """Choose threshold, temperature and band on validation scores.

    The band is the conformal one, with a promise for each class (see `lydite.evaluate.conformal`).
    Where there are too few images for that, or none is asked for, it is the smallest symmetric one
    outside of which few validation images are decided wrongly, which promises nothing.

    Warns (`UserWarning`) when the AUC is under 0.5, which is what swapped labels look like.

    Args:
        z: (N,) scores, failed images left out.
        targets: (N,) 0 for real, 1 for fake.
        digest: of the validation selection; goes into the card.
        groups: (N,) what images belong together; None: each stands for itself.
        alpha: share of each class that may be called wrong; None for the band without a promise.
        threshold: kept as it is; only temperature and band are chosen.
        least: a chosen threshold lower than this is raised to it.
        conformal: kept as it is, instead of one of these scores.

    Raises:
        ConfigError: no such alpha.
        DataError: a class is missing, or the input is not valid (see `metrics.check`).
    """
    values, classes = metrics.check(z, targets)
    fakes = int(classes.sum())
    if not 0 < fakes < classes.size:
        raise DataError(
            "A threshold needs validation images of both classes. "
            f"Got {classes.size - fakes} real and {fakes} fake."
        )
    if not np.isfinite(values).all():
        raise DataError("A validation score is infinite; the network's weights are damaged.")
    area = metrics.auc(values, classes)
    if area is not None and area < 0.5:
        warnings.warn(SWAPPED.format(auc=area), stacklevel=2)
    origin = KEPT
    if threshold is None:
        few = min(fakes, classes.size - fakes) < FEW
        origin = SMOOTH if few else CHOSEN
        threshold = smooth_threshold(values, classes) if few else best_threshold(values, classes)
        if least is not None and least > threshold:
            origin, threshold = RAISED.format(origin), least
    above = values > threshold
    reached = float((above[classes == 1].mean() + (~above)[classes == 0].mean()) / 2)
    temperature = best_temperature(values - threshold, classes)
    meaning = ScoreMeaning(threshold=threshold, temperature=temperature)
    p_fake = probability(values, meaning)
    promise = conformal
    if promise is None and alpha is not None:
        promise = fit_band(values, classes, groups, alpha=alpha)
    if promise is None:
        half, error, inside = unsure_band(p_fake, classes)
        band, words = (0.5 - half, 0.5 + half), _symmetric(half, error, inside)
    else:
        band = unsure_between(promise, meaning)
        words = _promised(promise, band, p_fake, kept=conformal is not None)
    return meaning.model_copy(
        update={
            "band": band,
            "fitted_on": digest,
            "n": int(classes.size),
            "conformal": promise,
            "rule": f"threshold: {origin} ({reached:.3f}); temperature: lowest class-balanced log "
            f"loss; {words}",
        }
    )


def sparing_threshold(z: ArrayLike) -> float | None:
    """Return the lowest threshold above which at most `SPARED` of these scores lie.

    Args:
        z: (N,) scores of photographs that are to be left alone; those that are NaN do not count.

    >>> sparing_threshold(range(100)), sparing_threshold(range(10)), sparing_threshold([])
    (97.0, 9.0, None)
    """
    values = np.sort(np.asarray(z, dtype=np.float64))
    values = values[~np.isnan(values)]
    return float(values[-1 - math.floor(SPARED * values.size)]) if values.size else None


def best_threshold(z: Float64, targets: Int64) -> float:
    """Return the z that splits best: of the highest balanced accuracy.

    Candidates lie midway between neighboring distinct scores. Of several equally good ones the
    one nearest to the middle of their range is taken, the lower one if two are equally near.
    """
    distinct, where = np.unique(z, return_inverse=True)
    if distinct.size == 1:
        return float(distinct[0])
    fakes = np.bincount(where, weights=targets == 1)
    reals = np.bincount(where, weights=targets == 0)
    # balanced accuracy times 2 * fakes * reals: whole numbers, so that ties are exact
    caught, spared = fakes.sum() - np.cumsum(fakes)[:-1], np.cumsum(reals)[:-1]
    quality = caught * reals.sum() + spared * fakes.sum()
    middles = distinct[:-1] + np.diff(distinct) / 2
    best = middles[quality == quality.max()]
    center = best[0] + (best[-1] - best[0]) / 2
    return float(best[np.argmin(np.abs(best - center))])


def smooth_threshold(z: Float64, targets: Int64) -> float:
    """Return the z at which a logistic curve through the scores says one half.

    The curve has the lowest class-balanced log loss with Platt's smoothed targets (Platt 1999);
    every image has a say in it, where the best split hangs on the few nearest to it. Scores that
    do not rise with the targets have no such curve; they get the best split.
    """
    center, spread = float(z.mean()), float(z.std())
    if spread == 0:
        return center
    x = np.stack([(z - center) / spread, np.ones_like(z)])
    wanted, weight = _platt(targets)
    beta = np.zeros(2)
    for _ in range(100):  # Newton's method; the loss is convex, and smooth targets keep it bounded
        p = 0.5 * (1 + np.tanh(0.5 * (beta @ x)))
        slope = x @ (weight * (p - wanted))
        if np.abs(slope).max() < 1e-10:
            break
        bend = (x * (weight * p * (1 - p))) @ x.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        beta = beta - step / max(1.0, float(np.abs(step).max()))
    if beta[0] <= 0:
        return best_threshold(z, targets)
    # where the curve is nearly flat its middle can lie far outside of all scores
    return float(np.clip(center - spread * beta[1] / beta[0], z.min(), z.max()))


def best_temperature(x: Float64, targets: Int64) -> float:
    """Return T that minimizes the class-balanced log loss of 1 / (1 + exp(-x / T)).

    Targets are smoothed to (n + 1) / (n + 2) as by Platt (1999), so that perfectly split scores
    have a finite answer. The loss is convex in 1 / T, whose root is found by bisection between a
    thousandth and a thousand times the scores' spread.
    """
    spread = float(np.sqrt(np.mean(x**2)))
    if spread == 0:
        return 1.0
    wanted, weight = _platt(targets)
    unit = x / spread

    def slope(log_scale: float) -> float:
        p = 0.5 * (1 + np.tanh(0.5 * np.exp(log_scale) * unit))
        return float(np.sum(weight * (p - wanted) * unit))

    low, high = -np.log(1000.0), np.log(1000.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(spread / np.exp((low + high) / 2))


def _platt(targets: Int64) -> tuple[Float64, Float64]:
    """Return smoothed targets, and weights that make both classes count one half."""
    fakes = int((targets == 1).sum())
    reals = targets.size - fakes
    wanted = np.where(targets == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    return wanted, np.where(targets == 1, 0.5 / fakes, 0.5 / reals)


def unsure_band(p_fake: Float64, targets: Int64) -> tuple[float, float, float]:
    """Return the smallest half-width of a band around 0.5 outside of which few decisions fail.

    Returns:
        half: the half-width, 0 where no band is needed, `BAND_LIMIT` at most.
        error: class-balanced error outside.
        inside: class-balanced share of images inside.
    """
    distance = np.abs(p_fake - 0.5)
    fakes = int((targets == 1).sum())
    weight = np.where(targets == 1, 0.5 / fakes, 0.5 / (targets.size - fakes))
    wrong = weight * ((p_fake > 0.5) != (targets == 1))
    # an edge runs midway between two images, so that rounding cannot move one across it
    levels = np.unique(distance)
    edges = levels[:-1] + np.diff(levels) / 2
    halves = np.r_[0.0, edges[edges < BAND_LIMIT], BAND_LIMIT]
    order = np.argsort(distance)
    # without a band every image is decided, also one at exactly one half
    first = np.r_[0, np.searchsorted(distance[order], halves[1:], side="right")]
    outside = np.r_[np.cumsum(weight[order][::-1])[::-1], 0.0][first]
    failed = np.r_[np.cumsum(wrong[order][::-1])[::-1], 0.0][first]
    errors = np.divide(failed, outside, out=np.zeros_like(failed), where=outside > 0)
    enough = np.flatnonzero(errors <= BAND_ERROR)
    at = int(enough[0]) if enough.size else -1
    return float(halves[at]), float(errors[at]), max(0.0, 1.0 - float(outside[at]))


def _symmetric(half: float, error: float, inside: float) -> str:
    """Say in words how the band without a promise was chosen."""
    if not half:
        return f"no unsure band: the class-balanced validation error is {error:.1%}"
    kept = "at most" if error <= BAND_ERROR else f"{error:.1%} instead of"
    return (
        "unsure band: smallest symmetric one outside of which the class-balanced validation "
        f"error is {kept} {BAND_ERROR:.0%}; {inside:.0%} of the images lie inside"
    )


def _promised(
    promise: ConformalBand, band: tuple[float, float], p_fake: Float64, *, kept: bool
) -> str:
    """Say in words what the conformal band promises, and on what grounds."""
    inside = float(((p_fake >= band[0]) & (p_fake <= band[1])).mean())
    origin = "the parent's, moved likewise" if kept else "split-conformal"
    took = f"{inside:.0%} of the images lie inside" if band[0] < band[1] else "none is needed"
    return (
        f"unsure band: {origin}; of images like those of the validation at most "
        f"{promise.alpha:.3g} of the real ones are called fake ({promise.n_real} groups) and of "
        f"the fake ones real ({promise.n_fake}); {took}"
    )

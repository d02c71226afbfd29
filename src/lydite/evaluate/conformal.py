"""Split-conformal bands: where a detector must say "unsure" so that a promise holds.

From validation scores alone, and whatever their distribution, two ends follow: of reals like those
of the validation at most a share alpha scores above `high`, and of fakes like them at most alpha
scores under `low`. Each class has a promise of its own (class-conditional or Mondrian conformal
prediction, Vovk 2012, "Conditional validity of inductive conformal predictors"; Angelopoulos and
Bates 2021, "A gentle introduction to conformal prediction", arXiv 2107.07511, sections 1 and 4.2).

The set of an image holds real where z <= high and fake where z >= low:

| set | answer |
|---|---|
| {real} or {fake} | that |
| both | unsure, as where the classes of a weak detector overlap |
| none | the forced decision |

The set is empty between the ends of a good detector, where few images of either class lie: a real
there is farther out than all but alpha of its kind, and so is a fake. Wherever the threshold cuts,
neither class is called wrong more often than promised, so nothing is gained by being unsure.

What is promised is exchangeability's, and no more: the chance is over the choice of validation
images and of the image asked about, of the same kind. On another generator, camera or compression
nothing is promised, which is why results measure how many of each class are called wrong on every
domain (`miscoverage_real`, `miscoverage_fake`). For one choice of n validation images the rate
itself varies around alpha, by about sqrt(alpha (1 - alpha) / n).

Images of one group, say the copies of one photograph, are not exchangeable with images of others.
So groups are counted and not images: every group weighs the same and shares its weight among its
images (hierarchical conformal prediction, Lee, Barber and Willett 2023, arXiv 2306.06342). With one
image a group that is the plain method.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lydite.card import ConformalBand, ScoreMeaning
from lydite.data.preprocess import probability
from lydite.errors import ConfigError, DataError
from lydite.evaluate import metrics

#: share of each class that may be called wrong, unless another is asked for
ALPHA = 0.05
#: sums of weights are compared up to this, so that rounding does not ask for one image more
_ROUNDING = 1e-9


def upper_end(scores: ArrayLike, groups: Sequence[str] | NDArray[np.str_], alpha: float) -> float:
    """Return what at most a share alpha of new scores exceeds; infinity where too few are known.

    With one score a group, of which there are K, the one of rank ceil((K + 1)(1 - alpha)).

    Args:
        scores: (N,) of one class.
        groups: (N,) images of one group weigh as much as one image together.
        alpha: in (0, 1).

    >>> upper_end([3.0, 1.0, 2.0], ["a", "b", "c"], 0.25)
    3.0
    >>> upper_end([3.0, 1.0, 2.0], ["a", "b", "c"], 0.2)
    inf
    """
    values = np.asarray(scores, dtype=np.float64)
    names, group_of, sizes = np.unique(
        np.asarray(groups, dtype=np.str_), return_inverse=True, return_counts=True
    )
    order = np.argsort(values, kind="stable")
    mass = np.cumsum((1 / sizes[group_of])[order])
    needed = (names.size + 1) * (1 - alpha)
    at = int(np.searchsorted(mass, needed - _ROUNDING))
    return float(values[order[at]]) if at < values.size else float("inf")


def fit_band(
    z: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    alpha: float = ALPHA,
) -> ConformalBand | None:
    """Return the ends for both classes, or None where a class has too few groups to promise alpha.

    That takes 1 / alpha - 1 groups of each class: 19 for alpha = 0.05.

    Args:
        z: (N,) validation scores, failed images left out.
        targets: (N,) 0 for real, 1 for fake.
        groups: (N,) what images belong together; None: each stands for itself.
        alpha: share of each class that may be called wrong, in (0, 0.5).

    Raises:
        ConfigError: no such alpha.
        DataError: see `metrics.check`; or not a group for each image.
    """
    if not 0 < alpha < 0.5:
        raise ConfigError(
            f"`alpha`, the share of each class that may be called wrong, must be above 0 and under "
            f"0.5. Got {alpha}. Use 0.05 for one in twenty."
        )
    values, classes = metrics.check(z, targets)
    of = np.arange(values.size).astype(np.str_) if groups is None else np.asarray(groups, np.str_)
    if of.shape != values.shape:
        raise DataError(f"{values.size} images have scores, but {of.size} have groups.")
    real, fake = classes == 0, classes == 1
    high = upper_end(values[real], of[real], alpha)
    low = -upper_end(-values[fake], of[fake], alpha)
    if not (np.isfinite(high) and np.isfinite(low)):
        return None
    return ConformalBand(
        alpha=alpha,
        low=low,
        high=high,
        n_real=int(np.unique(of[real]).size),
        n_fake=int(np.unique(of[fake]).size),
    )


def prediction_sets(z: ArrayLike, band: ConformalBand) -> NDArray[np.bool_]:
    """Return which classes the set of each image holds: (N, 2) for real and fake."""
    values = np.asarray(z, dtype=np.float64)
    return np.stack([values <= band.high, values >= band.low], axis=-1)


def moved(band: ConformalBand, by: float) -> ConformalBand:
    """Return the band of a copy whose scores are higher by so much."""
    return band.model_copy(update={"low": band.low + by, "high": band.high + by})


def unsure_between(band: ConformalBand, meaning: ScoreMeaning) -> tuple[float, float]:
    """Return the probabilities between which the verdict is unsure, for the card's `band`.

    Where the ends leave a gap in which neither class lies, the forced decision stands: an end that
    the threshold has passed is moved to it, which calls fewer images of that class wrong.

    Args:
        band: ends in z.
        meaning: threshold and temperature.
    """
    low = min(band.low, meaning.threshold)
    high = max(band.high, meaning.threshold)
    return float(probability(low, meaning)), float(probability(high, meaning))

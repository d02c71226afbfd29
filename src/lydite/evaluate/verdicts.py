"""What the verdicts real, fake and unsure are worth: how many images are decided, how many wrongly.

A detector that may say "unsure" is measured by two numbers at once, the share of images that it
decides and the error among these (selective classification, El-Yaniv and Wiener 2010). The
promise of a conformal band is about each class by itself: how many reals are called fake, and how
many fakes real (see `lydite.evaluate.conformal`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lydite.card import ScoreMeaning
from lydite.data.preprocess import verdict
from lydite.evaluate.intervals import Interval
from lydite.evaluate.kernels import Float64, Int64, Kernel, ratio
from lydite.evaluate.shares import never_certain

#: verdicts as numbers, so that they weigh like scores
REAL, UNSURE, FAKE = 0.0, 0.5, 1.0
_CODES = {"real": REAL, "unsure": UNSURE, "fake": FAKE}
#: what a card promises of each class; its n is the number of groups of the smaller class
ALPHA = "alpha"


def verdicts_of(p_fake: Float64, meaning: ScoreMeaning | None) -> Float64:
    """Return verdicts (N,) as `REAL`, `UNSURE`, `FAKE`; without a meaning the forced ones."""
    said = meaning or ScoreMeaning()
    return np.array([_CODES[verdict(p, said)] for p in p_fake.tolist()], dtype=np.float64)


def decided(verdicts: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of images that are not unsure."""
    return _share(verdicts != UNSURE, np.ones(targets.size, dtype=bool), weights)


def decided_error(verdicts: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of wrong verdicts among the images that are decided."""
    sure = verdicts != UNSURE
    return _share(sure & (verdicts != targets), sure, weights)


def miscoverage_real(verdicts: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of the reals that are called fake."""
    return _share(verdicts == FAKE, targets == 0, weights)


def miscoverage_fake(verdicts: Float64, targets: Int64, weights: Float64) -> Float64:
    """Share of the fakes that are called real."""
    return _share(verdicts == REAL, targets == 1, weights)


def _share(counted: NDArray[np.bool_], among: NDArray[np.bool_], weights: Float64) -> Float64:
    """Return the weighted share of some images, NaN where there are none; (B,)."""
    there = among.astype(np.float64)
    return ratio(weights @ (counted & among).astype(np.float64), weights @ there)


#: metrics of the verdict; they read verdicts as numbers
VERDICTS: dict[str, Kernel] = {
    "decided": decided,
    "decided_error": decided_error,
    "miscoverage_real": miscoverage_real,
    "miscoverage_fake": miscoverage_fake,
}


def verdicts_with_width(
    found: Mapping[str, Interval],
    verdicts: Float64,
    targets: Int64,
    groups: NDArray[np.str_],
    units: Sequence[NDArray[np.bool_]] | None = None,
) -> dict[str, Interval]:
    """Return the intervals of these metrics, Wilson's where a share is 0 or 1.

    Such a share never varies between draws of the same images, and is not certain for that.

    Args:
        found: intervals by metric; others than `VERDICTS` are left out.
        verdicts: (N,) as numbers.
        targets: (N,) 1 for fake.
        groups: (N,) images of one group count once.
        units: (N,) masks of the parts that the figures are means of; None is all images as one.
    """
    among = {
        "decided": np.ones(targets.size, dtype=bool),
        "decided_error": verdicts != UNSURE,
        "miscoverage_real": targets == 0,
        "miscoverage_fake": targets == 1,
    }
    result = {}
    for name in VERDICTS:
        masks = [mask & among[name] for mask in units] if units is not None else [among[name]]
        result[name] = never_certain(found[name], groups, masks)
    return result


def reflected(interval: Interval) -> Interval:
    """Return the interval of a calibration error, of which drawing images anew makes more.

    A mean of absolute deviations is too large with few images, and in a bootstrap replicate, which
    has their noise twice, larger still: percentiles can lie above the number itself. In squares
    noise adds up, so replicates are as far above the measured square as that is above the true
    one, and the interval is reflected there (the basic bootstrap, Davison and Hinkley 1997, ch. 5).
    """
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None:
        return interval
    square = 2 * value**2
    ends = [math.sqrt(max(0.0, square - end**2)) for end in (high, low)]
    return Interval(value, min(ends[0], value), max(ends[1], value), interval.n)

"""Shares of 0 and 1, which no drawing of the same images varies, are not certain for that.

A bootstrap of images that a detector is right about, all of them, gives an interval of no width.
Such figures get Wilson's interval here, of as many groups as were independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lydite.errors import DataError
from lydite.evaluate.intervals import Interval
from lydite.evaluate.kernels import DECISION, Float64, Int64

_Mask = NDArray[np.bool_]
#: neither shares of groups nor ranks: their interval is withheld where it has no width
_OTHER = ("f1", "ap")


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927), which has width at 0 and n too.

    Raises:
        DataError: not 0 <= successes <= n with n at least 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise DataError(f"A share needs 0 <= successes <= n, n >= 1. Got {successes} of {n}.")
    z = 1.959963984540054
    share = successes / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def never_certain(
    share: Interval,
    groups: Sequence[str] | NDArray[np.str_],
    units: Sequence[_Mask] | None = None,
) -> Interval:
    """Return the interval of a share; of 0 or 1, which never varies between draws, Wilson's.

    Args:
        share: as the bootstrap gives it.
        groups: (N,) those of its images; as many count as independent.
        units: (N,) masks of the parts that the share is a mean of, each with equal weight; None is
            all images as one.
    """
    names = np.asarray(groups)
    return _widened(share, [_count(names, m) for m in units or [np.ones(names.size, dtype=bool)]])


def with_width(
    found: Mapping[str, Interval],
    p_fake: Float64,
    targets: Int64,
    groups: NDArray[np.str_],
    units: Sequence[_Mask] | None = None,
) -> dict[str, Interval]:
    """Return metrics of decisions and ranks with intervals that have width at 0 and 1 too.

    Accuracy is a share of all groups, recall and false alarms are shares of those of one class,
    precision of those that are called fake; balanced accuracy is a mean of two shares. An AUC of 0
    or 1 counts as many pairs of a photograph and a fake as the rarer class has groups: these have
    no group in common. F1 and average precision have no interval there.

    Args:
        found: intervals by metric; others are returned as they are.
        p_fake: (N,) probabilities.
        targets: (N,) 1 for fake.
        groups: (N,) images of one group count once.
        units: (N,) masks of the parts that the figures are means of; None is all images as one.
    """
    parts = list(units) if units is not None else [np.ones(targets.size, dtype=bool)]
    real, fake = targets == 0, targets == 1
    of_parts: dict[str, Sequence[_Mask]] = {
        "accuracy": parts,
        "recall": [part & fake for part in parts],
        "false_alarm_rate": [part & real for part in parts],
        "precision": [part & (p_fake > DECISION) for part in parts],
        "balanced_accuracy": [part & kind for part in parts for kind in (real, fake)],
        "flipped": parts,
    }
    result = dict(found)
    for name, masks in of_parts.items():
        if name in found:
            result[name] = never_certain(found[name], groups, masks)
    if "auc" in found:
        pairs = [min(_count(groups, part & kind) for kind in (real, fake)) for part in parts]
        result["auc"] = _widened(found["auc"], pairs)
    for name in _OTHER:
        if name in found and found[name].value in (0.0, 1.0):
            result[name] = Interval(found[name].value, None, None, found[name].n)
    return result


def _count(groups: NDArray[np.str_], mask: _Mask) -> int:
    """Return of how many groups images are."""
    return int(np.unique(groups[mask]).size)


def _widened(share: Interval, sizes: Sequence[int]) -> Interval:
    """Return Wilson's interval for a mean of shares of 0 or 1, of parts of so many groups.

    A mean over parts is as certain as one share of parts^2 / sum(1 / groups of a part) groups.
    """
    if share.value not in (0.0, 1.0) or not all(sizes):  # nothing to be sure of
        return share
    independent = int(len(sizes) ** 2 / sum(1 / size for size in sizes))
    low, high = wilson(independent if share.value else 0, independent)
    return Interval(share.value, low, high, share.n)

"""95 % intervals by a stratified bootstrap over groups of images.

Images of one group (the copies of one photograph, say) are not independent, so whole groups are
drawn. They are drawn within strata, so that every replicate keeps the numbers of real and fake
groups and of every domain. Replicates are reweightings of the same images, which makes a metric of
all of them a few matrix operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lydite.errors import DataError
from lydite.evaluate import metrics
from lydite.evaluate.kernels import Float64, Int64, Kernel

N_BOOT = 1000
LEVEL = 0.95
#: weights held at a time
_CHUNK_VALUES = 2_000_000
#: an interval is not given when more replicates than this are undefined
_UNDEFINED_SHARE = 0.05
#: combinations of strata that fewer groups have are rare
_RARE = 10

#: metrics of a chunk of replicates: weights (B, N) -> {name: (B,)}
Replicate = Callable[[Float64], Mapping[str, Float64]]
#: what numbers are called
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A number and its interval.

    Attributes:
        value: of all images; None where it is not defined.
        low: lower end; None where there is no interval (one group only, or too often undefined).
        high: upper end.
        n: how many images.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def bootstrap(
    kernels: Mapping[str, tuple[Kernel, ArrayLike]],
    targets: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    strata: Sequence[str] | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return several metrics of the same images, each with its interval.

    Args:
        kernels: by name, a function of `lydite.evaluate.kernels` and the (N,) scores it reads.
        targets: (N,) 0 for real, 1 for fake.
        groups: (N,) images of one group are drawn together.
        strata: (N,) further strata beside the class, such as domains.
        n_boot: number of replicates.
        seed: equal seeds draw equal groups.

    Raises:
        DataError: see `metrics.check`; or lengths differ, or there are no images.
    """
    checked: dict[str, tuple[Kernel, Float64]] = {}
    classes: Int64 = np.asarray(targets, dtype=np.int64)
    for name, (kernel, scores) in kernels.items():
        values, classes = metrics.check(scores, targets)
        checked[name] = (kernel, values)

    def replicate(weights: Float64) -> dict[str, Float64]:
        return {name: k(values, classes, weights) for name, (k, values) in checked.items()}

    strata = strata if strata is not None else [""] * classes.size
    return intervals(replicate, strata_of(classes, strata), groups, n_boot=n_boot, seed=seed)


def paired_difference(
    kernel: Kernel,
    first: ArrayLike,
    second: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Interval:
    """Return metric(first) - metric(second) of two detectors on the same images.

    Both are measured on the same draws, so what the images have in common cancels.

    Args:
        kernel: a function of `lydite.evaluate.kernels`.
        first: (N,) scores of one detector.
        second: (N,) scores of the other.
        targets: (N,) 0 for real, 1 for fake.
        groups: (N,) images of one group are drawn together.
        n_boot: number of replicates.
        seed: equal seeds draw equal groups.

    Raises:
        DataError: see `metrics.check`; or lengths differ, or there are no images.
    """
    one, classes = metrics.check(first, targets)
    other, _ = metrics.check(second, targets)

    def replicate(weights: Float64) -> dict[str, Float64]:
        difference = kernel(one, classes, weights) - kernel(other, classes, weights)
        return {"difference": difference}

    strata = strata_of(classes, [""] * classes.size)
    return intervals(replicate, strata, groups, n_boot=n_boot, seed=seed)["difference"]


def intervals(
    replicate: Replicate,
    strata: Sequence[str] | NDArray[np.str_],
    groups: Sequence[str] | NDArray[np.str_],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return percentile intervals of any functions of reweighted images.

    Args:
        replicate: computes the numbers for weights (B, N); NaN where undefined.
        strata: (N,) within which groups are drawn.
        groups: (N,) images of one group are drawn together.
        n_boot: number of replicates.
        seed: equal seeds draw equal groups.

    Raises:
        DataError: lengths differ, or there are no images.
    """
    found = replicates(replicate, strata, groups, n_boot=n_boot, seed=seed)
    return {name: interval_of(value, drawn, len(groups)) for name, (value, drawn) in found.items()}


def replicates(
    replicate: Callable[[Float64], Mapping[Key, Float64]],
    strata: Sequence[str] | NDArray[np.str_],
    groups: Sequence[str] | NDArray[np.str_],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> dict[Key, tuple[float, Float64]]:
    """Return each number of all images and its (B,) replicates, none where nothing can vary.

    Nor are there any of a number that never varied where a stratum has a single group: what it
    depends on was drawn every time, as if it could not have been another one.

    Args:
        replicate: computes the numbers for weights (B, N); NaN where undefined.
        strata: (N,) within which groups are drawn.
        groups: (N,) images of one group are drawn together.
        n_boot: number of replicates.
        seed: equal seeds draw equal groups.

    Raises:
        DataError: lengths differ, or there are no images.
    """
    count = len(groups)
    if len(strata) != count or not count:
        raise DataError(
            f"An interval needs images, each with a group and a stratum. "
            f"Got {count} groups and {len(strata)} strata."
        )
    values = {name: float(v[0]) for name, v in replicate(np.ones((1, count))).items()}
    drawn: dict[Key, list[Float64]] = {name: [] for name in values}
    for weights in resamples(strata, groups, n_boot, seed):
        for name, chunk in replicate(weights).items():
            drawn[name].append(chunk)
    none = np.empty(0)
    found = {name: np.concatenate([none, *drawn[name]]) for name in values}
    if any(pool.size < 2 for pool in _drawn_from(strata, groups)[1]):
        found = {name: none if np.ptp(v) == 0 else v for name, v in found.items() if v.size}
    return {name: (value, found.get(name, none)) for name, value in values.items()}


def interval_of(value: float, drawn: Float64, n: int) -> Interval:
    """Return a number with the percentile interval of its (B,) replicates; none of NaN."""
    if math.isnan(value):
        return Interval(None, None, None, n)
    return Interval(value, *_percentiles(drawn), n)


def resamples(
    strata: Sequence[str] | NDArray[np.str_],
    groups: Sequence[str] | NDArray[np.str_],
    n_boot: int,
    seed: int,
) -> Iterator[Float64]:
    """Yield weights (B, N), B adding up to `n_boot`: how often each image was drawn.

    A group whose images lie in several strata forms a stratum with the groups that lie in the same
    ones; see `_pools` for rare combinations. Nothing is yielded where every stratum has a single
    group: then nothing can vary.
    """
    group_of, pools = _drawn_from(strata, groups)
    names = int(group_of.max(initial=-1)) + 1
    if all(pool.size < 2 for pool in pools):
        return
    rng = np.random.default_rng(seed)
    most = max(1, _CHUNK_VALUES // group_of.size)
    for first in range(0, n_boot, most):
        rows = min(most, n_boot - first)
        drawn = np.zeros((rows, names))
        for pool in pools:
            picks = rng.integers(pool.size, size=(rows, pool.size))
            flat = (picks + np.arange(rows)[:, None] * pool.size).ravel()
            drawn[:, pool] = np.bincount(flat, minlength=rows * pool.size).reshape(rows, -1)
        yield drawn[:, group_of]


def _drawn_from(
    strata: Sequence[str] | NDArray[np.str_], groups: Sequence[str] | NDArray[np.str_]
) -> tuple[NDArray[np.intp], list[NDArray[np.intp]]]:
    """Return each image's group as a number, (N,), and which groups are drawn for each other."""
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    _, stratum_of = np.unique(np.asarray(strata), return_inverse=True)
    touched = np.zeros((names.size, int(stratum_of.max(initial=0)) + 1), dtype=bool)
    touched[group_of, stratum_of] = True
    return group_of, _pools(touched)


def _pools(touched: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Return which groups are drawn for each other: those that lie in the same strata.

    A group that is alone with its strata would be drawn once every time, as if it could not have
    been another one. So combinations of strata that few groups have are drawn from together, as far
    as they share strata; the numbers of images in these then vary a little between replicates.

    Args:
        touched: (groups, strata), True where a group has images in a stratum.

    Returns:
        Places of groups, each once.
    """
    combinations, signature = np.unique(touched, axis=0, return_inverse=True)
    sizes = np.bincount(signature, minlength=len(combinations))
    rare = np.flatnonzero((sizes < _RARE) & (combinations.sum(axis=1) > 1))
    label = np.arange(len(combinations))
    for place, one in enumerate(rare):
        for other in rare[:place]:
            if label[one] != label[other] and (combinations[one] & combinations[other]).any():
                label[label == label[one]] = label[other]
    pool_of = label[signature]
    return [np.flatnonzero(pool_of == name) for name in np.unique(pool_of)]


def strata_of(targets: Int64, further: Sequence[str]) -> NDArray[np.str_]:
    """Return each image's stratum: its class and whatever else is given."""
    if len(further) != targets.size:
        raise DataError(f"{targets.size} images have targets, but {len(further)} have strata.")
    return np.array([f"{t}/{name}" for t, name in zip(targets, further, strict=True)])


def _percentiles(drawn: Float64) -> tuple[float | None, float | None]:
    """Return the ends of the central 95 %, or none where too many replicates are undefined."""
    defined = drawn[~np.isnan(drawn)]
    if defined.size < (1 - _UNDEFINED_SHARE) * drawn.size or not defined.size:
        return None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

"""How many channels each group keeps, so that a wanted share of the parameters goes.

Pure functions of a network's shapes and of scores. Nothing here changes a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lydite.compress.channels import Floats
from lydite.errors import ConfigError, unknown_name
from lydite.models.contract import Network

Scope = Literal["uniform", "global"]
#: with one ranking over all groups, no group falls under this share of its channels
LEAST_SHARE = 1 / 16


class ParameterCount:
    """How many parameters a network has with fewer channels, from shapes alone.

    Args:
        network: whose parameters are counted.
    """

    def __init__(self, network: Network) -> None:
        groups = network.groups()
        self.sizes = {group.name: group.size for group in groups}
        along: dict[str, list[tuple[int, str, int]]] = {}
        for group in groups:
            for member in group.members:
                along.setdefault(member.tensor, []).append((member.dim, group.name, member.repeat))
        self._tensors = [
            (tuple(parameter.shape), along.get(name, []))
            for name, parameter in network.named_parameters()
        ]
        self.total = self.left(self.sizes)

    def left(self, kept: Mapping[str, int]) -> int:
        """Return the number of parameters when each group keeps `kept[name]` channels."""
        count = 0
        for shape, members in self._tensors:
            lengths = list(shape)
            for dim, name, repeat in members:
                lengths[dim] -= (self.sizes[name] - kept[name]) * repeat
            count += math.prod(lengths)
        return count


@dataclass(frozen=True)
class _Limits:
    """How few channels a group may keep, and in which steps."""

    multiple: int
    least_share: float

    def least(self, size: int) -> int:
        return self.rounded(int(np.ceil(size * self.least_share)), size, down=False)

    def rounded(self, wanted: float, size: int, *, down: bool = True) -> int:
        """Return the nearest allowed count of channels at or below (or above) `wanted`."""
        steps = wanted / self.multiple
        count = int(np.floor(steps + 1e-9) if down else np.ceil(steps - 1e-9)) * self.multiple
        if wanted >= size:
            return size
        return min(size, max(count, self.multiple))


def plan_channels(
    network: Network,
    scores: Mapping[str, Floats],
    rate: float,
    scope: Scope,
    multiple: int,
    *,
    rates: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return how many channels each group keeps, so that `rate` of the parameters goes.

    The largest share of channels that removes enough is found by bisection over the resulting
    number of parameters; what rounding removed too much is then given back, a multiple at a time.

    Args:
        network: as it is.
        scores: of every channel, by group name; they matter for `scope="global"`.
        rate: share of the parameters to remove at least, in (0, 1).
        scope: "uniform" keeps one share of every group; "global" ranks the scores of all groups
            together and keeps the best.
        multiple: counts of channels are multiples of this, where the group is not kept whole.
        rates: share of the channels to remove of single groups, in [0, 1), by group name; the
            other groups bring the network to `rate`.
        sizes: of the groups before any pruning, which `rates` and the least size of a group refer
            to; None: as they are now.

    Raises:
        ConfigError: the network has no groups, `rates` names none of them, or even the smallest
            network is too large.
    """
    if not scores:
        raise ConfigError(
            f"`prune` cannot remove channels of {network.family} networks: their channel groups "
            "are not known. Use one of `lydite models`."
        )
    count = ParameterCount(network)
    limits = _Limits(multiple, LEAST_SHARE if scope == "global" else 0.0)
    whole = sizes or count.sizes
    fixed = _fixed_counts(count.sizes, whole, rates or {}, limits)
    free = {name: size for name, size in count.sizes.items() if name not in fixed}
    ranked = {name: scores[name] for name in free}
    wanted = _global_counts(ranked) if scope == "global" and free else _uniform_counts
    allowed = int(np.floor(count.total * (1 - rate) + 1e-9))

    def kept_at(share: float) -> dict[str, int]:
        kept = dict(fixed)
        for name, number in wanted(free, share).items():
            size = free[name]
            kept[name] = max(limits.rounded(number, size), min(size, limits.least(whole[name])))
        return kept

    _require_possible(count, kept_at(0.0), rate, multiple, fixed)
    share = _largest_share(lambda value: count.left(kept_at(value)) <= allowed)
    ideal = wanted(free, share)
    return _give_back(count, kept_at(share), ideal, allowed, limits)


def _fixed_counts(
    sizes: Mapping[str, int], whole: Mapping[str, int], rates: Mapping[str, float], limits: _Limits
) -> dict[str, int]:
    """Return how many channels the groups with a rate of their own keep."""
    fixed = {}
    for name, rate in rates.items():
        if name not in sizes:
            raise ConfigError(f"`rates` of prune: {unknown_name('channel group', name, sizes)}")
        fixed[name] = min(sizes[name], limits.rounded(whole[name] * (1 - rate), whole[name]))
    return fixed


def _uniform_counts(sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """Return the same share of every group, unrounded."""
    return {name: size * share for name, size in sizes.items()}


def _global_counts(
    scores: Mapping[str, Floats],
) -> Callable[[Mapping[str, int], float], dict[str, float]]:
    """Return the rule that keeps a share of all channels, the best of one ranking.

    Channels of one score, dead ones say, go one after the other, from all groups alike: together
    they could be half of the network.
    """
    values = np.concatenate(list(scores.values()))
    group = np.repeat(np.arange(len(scores)), [v.size for v in scores.values()])
    place = np.concatenate([np.arange(v.size) / max(v.size, 1) for v in scores.values()])
    ranking = group[np.lexsort((place, -values))]

    def counts(_sizes: Mapping[str, int], share: float) -> dict[str, float]:
        kept = np.bincount(ranking[: round(share * ranking.size)], minlength=len(scores))
        return dict(zip(scores, kept.astype(float).tolist(), strict=True))

    return counts


def _require_possible(
    count: ParameterCount,
    fewest: Mapping[str, int],
    rate: float,
    multiple: int,
    fixed: Mapping[str, int],
) -> None:
    """Refuse a rate that the fewest channels do not reach."""
    most = 1 - count.left(fewest) / count.total
    if most < rate:
        advice = " or a smaller `multiple`" if multiple > 1 else ""
        also = f" and {', '.join(fixed)} as `rates` says" if fixed else ""
        raise ConfigError(
            f"`rate` of prune cannot be reached: with at least {multiple} channels in every group"
            f"{also} at most {np.floor(most * 1000) / 1000} of the parameters go. Got {rate}. "
            f"Use a smaller `rate`{advice}."
        )


def _largest_share(enough: Callable[[float], bool]) -> float:
    """Return the largest share in [0, 1] that still removes enough, to 1e-9."""
    if enough(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _give_back(
    count: ParameterCount,
    kept: dict[str, int],
    ideal: Mapping[str, float],
    allowed: int,
    limits: _Limits,
) -> dict[str, int]:
    """Add one multiple to the groups that rounding cut most, as long as enough is removed."""
    cut = [name for name in ideal if kept[name] < ideal[name]]
    for name in sorted(cut, key=lambda name: kept[name] - ideal[name]):
        size = count.sizes[name]
        more = limits.rounded(kept[name] + limits.multiple, size)
        trial = kept | {name: more}
        if count.left(trial) <= allowed:
            kept = trial
    return kept

"""Which channels to remove: scores of channels, and the search for how many to keep.

Pure functions of arrays and of a network's shapes. Nothing here changes a network.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lydite.errors import ConfigError
from lydite.models.contract import ChannelGroup, Network

Floats = NDArray[np.float64]
Score = Literal["l1", "l2", "bn", "random"]
Scope = Literal["uniform", "global"]
#: with one ranking over all groups, no group falls under this share of its channels
LEAST_SHARE = 1 / 16


def l1_scores(weight: Floats) -> Floats:
    """Return the sum of magnitudes of each output channel (Li et al. 2017, arXiv 1608.08710).

    Args:
        weight: (C, ...) weights that produce C channels.

    Returns:
        (C,) scores, larger is more important.
    """
    sums: Floats = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
    return sums


def l2_scores(weight: Floats) -> Floats:
    """Return the Euclidean norm of each output channel, (C,) for (C, ...) weights."""
    norms: Floats = np.sqrt(np.square(weight).reshape(len(weight), -1).sum(axis=1))
    return norms


def group_scores(network: Network, score: Score, seed: int) -> dict[str, Floats]:
    """Return the score of every channel of every group, divided by the mean of its group.

    - "l1", "l2": norms of the weights that produce the channel, summed where several do.
    - "bn": magnitude of batch norm's scale (Liu et al. 2017, arXiv 1708.06519); groups without
      batch norm, such as hidden linear layers, are scored by "l1".
    - "random": uniform numbers, the control of every comparison.

    Args:
        network: whose channels are scored.
        score: how.
        seed: of the random scores.

    Returns:
        (C,) scores of mean 1 by group name, larger is more important.
    """
    tensors = network.state_dict()

    def array(name: str) -> Floats:
        values: Floats = tensors[name].detach().cpu().numpy().astype(np.float64)
        return values

    found = {}
    for group in network.groups():
        scales = _norm_scales(network, group) if score == "bn" else []
        if score == "random":
            generator = np.random.default_rng([seed, zlib.crc32(group.name.encode())])
            values = generator.random(group.size)
        elif scales:
            values = np.sum([np.abs(array(name)) for name in scales], axis=0)
        else:
            norm = l2_scores if score == "l2" else l1_scores
            values = np.sum([norm(array(name)) for name in group.scored], axis=0)
        mean = values.mean()
        found[group.name] = values / mean if mean > 0 else np.ones(group.size)
    return found


def _norm_scales(network: Network, group: ChannelGroup) -> list[str]:
    """Return the names of batch norm's scales that run one to one along a group."""
    return [
        member.tensor
        for member in group.members
        if member.repeat == 1
        and member.tensor.endswith(".weight")
        and isinstance(network.get_submodule(member.tensor.rpartition(".")[0]), nn.BatchNorm2d)
    ]


def top_channels(scores: Floats, count: int) -> tuple[int, ...]:
    """Return the `count` channels of the highest scores, ascending; earlier ones win ties."""
    order = np.argsort(-scores, kind="stable")
    return tuple(sorted(int(channel) for channel in order[:count]))


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
    network: Network, scores: Mapping[str, Floats], rate: float, scope: Scope, multiple: int
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

    Raises:
        ConfigError: the network has no groups, or even the smallest one is too large.
    """
    if not scores:
        raise ConfigError(
            f"`prune` cannot remove channels of {network.family} networks: their channel groups "
            "are not known. Use one of `lydite models`."
        )
    count = ParameterCount(network)
    limits = _Limits(multiple, LEAST_SHARE if scope == "global" else 0.0)
    wanted = _uniform_counts if scope == "uniform" else _global_counts(scores)
    allowed = int(np.floor(count.total * (1 - rate) + 1e-9))

    def kept_at(share: float) -> dict[str, int]:
        kept = {}
        for name, number in wanted(count.sizes, share).items():
            size = count.sizes[name]
            kept[name] = max(limits.rounded(number, size), limits.least(size))
        return kept

    _require_possible(count, kept_at(0.0), rate, multiple)
    share = _largest_share(lambda value: count.left(kept_at(value)) <= allowed)
    ideal = wanted(count.sizes, share)
    return _give_back(count, kept_at(share), ideal, allowed, limits)


def _uniform_counts(sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """Return the same share of every group, unrounded."""
    return {name: size * share for name, size in sizes.items()}


def _global_counts(
    scores: Mapping[str, Floats],
) -> Callable[[Mapping[str, int], float], dict[str, float]]:
    """Return the rule that keeps a share of all channels, the best of one ranking."""
    ranking = np.sort(np.concatenate(list(scores.values())))[::-1]

    def counts(_sizes: Mapping[str, int], share: float) -> dict[str, float]:
        number = round(share * len(ranking))
        threshold = ranking[number - 1] if number else np.inf
        return {name: float((values >= threshold).sum()) for name, values in scores.items()}

    return counts


def _require_possible(
    count: ParameterCount, fewest: Mapping[str, int], rate: float, multiple: int
) -> None:
    """Refuse a rate that the fewest channels do not reach."""
    most = 1 - count.left(fewest) / count.total
    if most < rate:
        advice = " or a smaller `multiple`" if multiple > 1 else ""
        raise ConfigError(
            f"`rate` of prune cannot be reached: with at least {multiple} channels in every group "
            f"at most {np.floor(most * 1000) / 1000} of the parameters go. Got {rate}. "
            f"Use a smaller `rate`{advice}."
        )


def _largest_share(enough: Callable[[float], bool]) -> float:
    """Return the largest share in [0, 1] that still removes enough, to 1e-9."""
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
    cut = [name for name in kept if kept[name] < ideal[name]]
    for name in sorted(cut, key=lambda name: kept[name] - ideal[name]):
        size = count.sizes[name]
        more = limits.rounded(kept[name] + limits.multiple, size)
        trial = kept | {name: more}
        if count.left(trial) <= allowed:
            kept = trial
    return kept

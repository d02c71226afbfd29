"""Which channels to remove, by the weights alone: scores of channels.

Pure functions of arrays and of a network's shapes. Nothing here changes a network.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lydite.models.contract import ChannelGroup, Network

Floats = NDArray[np.float64]
WeightScore = Literal["l1", "l2", "bn", "random"]


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


def group_scores(network: Network, score: WeightScore, seed: int) -> dict[str, Floats]:
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

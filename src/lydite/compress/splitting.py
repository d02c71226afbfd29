"""Factorizing a network: which split each layer gets, and the weights that go with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lydite.compress.layers import Energy, LayerRate, Rank
from lydite.compress.lowrank import factors_of
from lydite.compress.ranks import (
    NO_ENERGY,
    Layer,
    Report,
    Split,
    report,
    split_of,
    splits_at_energy,
    splits_to_remove,
    weight_of,
)
from lydite.edits import Factorization, FactorizeConv, FactorizeLinear
from lydite.errors import ConfigError
from lydite.models.contract import Network
from lydite.models.cost import count_parameters
from lydite.models.factorized import Factorized
from lydite.models.surgery import replay_


def choose_splits(layers: Sequence[Layer], rank: Rank) -> list[Split]:
    """Return how each layer is split, where that saves weights.

    Args:
        layers: that may be split.
        rank: how ranks are chosen, each layer by itself; see `Factorize`.
    """
    if isinstance(rank, Energy):
        return splits_at_energy(layers, rank.energy)
    if isinstance(rank, LayerRate):
        amounts = [math.ceil(layer.module.weight.numel() * rank.rate) for layer in layers]
        found = [splits_to_remove([x], n) for x, n in zip(layers, amounts, strict=True)]
        return [split for splits in found for split in splits or ()]
    chosen = [x.at_rank(rank) if isinstance(rank, int) else x.at_vbmf() for x in layers]
    return [split for split in chosen if split.saves]


def choose_splits_by_rate(network: Network, layers: Sequence[Layer], rate: float) -> list[Split]:
    """Return splits that remove this share of the network's parameters, at one common energy.

    Args:
        network: whose parameters count.
        layers: that may be split.
        rate: share to remove, in (0, 1); at least this much goes.

    Raises:
        ConfigError: rank 1 in every layer does not remove so much.
    """
    total = count_parameters(network)
    amount = total - math.floor(total * (1 - rate) + 1e-9)
    splits = splits_to_remove(layers, amount)
    if splits is None:
        least = splits_at_energy(layers, NO_ENERGY)
        most = sum(split.full - split.parameters for split in least) / total
        raise ConfigError(
            f"`rate` of factorize cannot be reached: with rank 1 in {len(layers)} layers at most "
            f"{math.floor(most * 1000) / 1000} of the parameters go. Got {rate}. "
            "Use a smaller `rate`, or more `layers`."
        )
    return splits


def edit_of(split: Split, network: Network, dropout: float | None = None) -> Factorization:
    """Return a split as an edit of the card.

    Args:
        split: of a layer of the network.
        network: that is going to be edited.
        dropout: of the paper's bottleneck, for linear layers; None for a plain product.
    """
    if isinstance(network.get_submodule(split.layer), nn.Conv2d):
        return FactorizeConv(layer=split.layer, method=split.method, ranks=split.ranks)
    between = {} if dropout is None else {"bottleneck": "relu-dropout", "dropout": dropout}
    return FactorizeLinear.model_validate({"layer": split.layer, "rank": split.ranks[0]} | between)


def factorize_(
    network: Network, edits: Iterable[Factorization], *, sweeps: int = 0
) -> list[Report]:
    """Split layers of a network, in place, so that it computes nearly the same.

    Args:
        network: whose layers are replaced.
        edits: which layers, and how.
        sweeps: of HOOI, for "tucker2".

    Returns:
        What each split costs and saves.

    Raises:
        CardError: an edit does not fit the network.
    """
    reports = []
    for edit in edits:
        before = dict(network.named_modules())
        replay_(network, [edit])
        layer, made = before[edit.layer], network.get_submodule(edit.layer)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert isinstance(made, Factorized)
        if isinstance(edit, FactorizeLinear):
            split = split_of(edit.layer, layer, "svd", (edit.rank,))
        else:
            split = split_of(edit.layer, layer, edit.method, edit.ranks)
        weight = weight_of(layer)
        factors = factors_of(weight, split.method, split.ranks, sweeps)
        values = [torch.from_numpy(factor) for factor in factors]
        _fill_(made, values, layer.bias)
        reports.append(report(weight, factors, split))
    return reports


def _fill_(made: Factorized, values: Sequence[Tensor], bias: Tensor | None) -> None:
    """Give the factors their weights, and the last one the bias."""
    with torch.no_grad():
        for (_, factor), value in zip(made.factors(), values, strict=True):
            factor.weight.copy_(value)
        last = made.factors()[-1][1].bias
        if bias is not None and last is not None:
            last.copy_(bias)

"""The one place where a network's structure changes: edits of a card, replayed on a network.

Names and indices come from cards, which anyone may have written; whatever does not fit is a
`CardError`, and the network is not touched before everything was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lydite.card import Edit, Factorization, FactorizeLinear, KeepChannels, MaskWeights
from lydite.errors import CardError, unknown_name
from lydite.models.chain import Depthwise
from lydite.models.contract import ChannelGroup, Member, Network
from lydite.models.factorized import (
    Factorized,
    Method,
    full_ranks,
    split_conv,
    split_linear,
    why_whole,
)


def replay_(network: Network, edits: Iterable[Edit]) -> None:
    """Apply the edits of a card in order, in place.

    Raises:
        CardError: an edit names a group, channel, layer or parameter that the network does not
            have, or does to it what cannot be done.
    """
    for edit in edits:
        if isinstance(edit, KeepChannels):
            keep_channels_(network, edit.group, edit.keep)
        elif isinstance(edit, MaskWeights):
            check_mask(network, edit)
        else:
            split_layer_(network, edit)


def keep_channels_(network: Network, group: str, keep: Sequence[int]) -> None:
    """Keep these channels of a group and remove all others, in place.

    Every tensor that runs along the channels is cut, and the layers' own numbers (`in_channels`,
    `num_features`, ...) follow. Parameters are replaced, so an optimizer must be made anew.

    Args:
        network: whose `groups()` holds the group.
        group: the group's name.
        keep: ascending channel numbers, at least one.

    Raises:
        CardError: no such group, or the channels are not ascending numbers below its size.
    """
    found = _find_group(network, group)
    ascending = all(a < b for a, b in zip(keep, keep[1:], strict=False))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= found.size:
        shown = str(list(keep[:8]))[:-1] + (", ...]" if len(keep) > 8 else "]")
        raise CardError(
            f"The channels to keep of group '{group}' must be ascending numbers from 0 to "
            f"{found.size - 1}. Got {shown}."
        )
    for member in found.members:
        _cut_(network, member, found.size, keep)
    for owner in {member.tensor.rpartition(".")[0] for member in found.members}:
        _renumber_(network.get_submodule(owner))


def split_layer_(network: Network, edit: Factorization) -> None:
    """Put the factors of a layer in its place; their weights are zeros until some are loaded.

    Args:
        network: whose layer is replaced, in place. An optimizer must be made anew.
        edit: which layer, and how.

    Raises:
        CardError: no such layer, one that cannot be split this way, or a rank beyond the full one.
    """
    layer = _find_layer(network, edit.layer)
    factors: Factorized
    if isinstance(edit, FactorizeLinear) and isinstance(layer, nn.Linear):
        _require_ranks(edit.layer, layer, "svd", (edit.rank,))
        between = edit.dropout if edit.bottleneck == "relu-dropout" else None
        factors = split_linear(layer, edit.rank, between)
    elif not isinstance(edit, FactorizeLinear) and isinstance(layer, nn.Conv2d):
        _require_ranks(edit.layer, layer, edit.method, edit.ranks)
        factors = split_conv(layer, edit.method, edit.ranks)
    else:
        raise CardError(
            f"The card's edit `{edit.op}` does not fit '{edit.layer}', which is a "
            f"{type(layer).__name__}."
        )
    network.set_submodule(edit.layer, factors)


def check_mask(network: nn.Module, edit: MaskWeights) -> None:
    """Check that a mask names parameters of the network.

    Raises:
        CardError: it names something else.
    """
    names = {name for name, _ in network.named_parameters()}
    for name in edit.parameters:
        if name not in names:
            raise CardError(f"The card masks the weights of '{name}', which the network lacks.")


def masks_of(network: nn.Module, edits: Iterable[Edit]) -> dict[str, Tensor]:
    """Return what training must keep at zero: per masked parameter, True where it may change.

    A layer that was split after it was masked has no zeros left to keep.

    Args:
        network: with the edits applied and its weights loaded.
        edits: of its card.

    Returns:
        Boolean tensors of the parameters' shapes, by parameter name; empty without masks.
        `parameter.mul_(mask)` puts the zeros back.

    Raises:
        CardError: a mask names a parameter that the network lacks.
    """
    names: dict[str, None] = {}
    for edit in edits:
        if isinstance(edit, MaskWeights):
            names |= dict.fromkeys(edit.parameters)
        elif not isinstance(edit, KeepChannels):
            gone = f"{edit.layer}."
            names = {name: None for name in names if not name.startswith(gone)}
    check_mask(network, MaskWeights(parameters=tuple(names)))
    return {name: network.get_parameter(name).detach() != 0 for name in names}


def _find_group(network: Network, name: str) -> ChannelGroup:
    """Return a group by name."""
    groups = {group.name: group for group in network.groups()}
    if not groups:
        raise CardError(
            f"The card prunes group '{name}', but networks of {network.family} have no groups."
        )
    if name not in groups:
        raise CardError(unknown_name("channel group", name, groups))
    return groups[name]


def _find_layer(network: Network, name: str) -> nn.Conv2d | nn.Linear:
    """Return a layer that can be split, by name."""
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Factorized)
    }
    if name not in layers:
        raise CardError(unknown_name("layer", name, layers))
    layer = layers[name]
    above = isinstance(layers.get(name.rpartition(".")[0]), Factorized)
    reason = "is a factor itself; `prune` lowers its ranks" if above else why_whole(layer)
    if reason is not None:
        raise CardError(f"The layer '{name}' cannot be factorized: it {reason}.")
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer


def _require_ranks(
    name: str, layer: nn.Conv2d | nn.Linear, method: Method, ranks: tuple[int, ...]
) -> None:
    """Refuse ranks that exceed the full ones."""
    full = full_ranks(layer, method)
    if any(not 1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        allowed = " and ".join(f"1 to {most}" for most in full)
        raise CardError(
            f"The rank of layer '{name}' must be {allowed} for {method}. "
            f"Got {', '.join(str(rank) for rank in ranks)}."
        )


def _cut_(network: Network, member: Member, size: int, keep: Sequence[int]) -> None:
    """Cut one tensor along one dimension."""
    owner, _, attribute = member.tensor.rpartition(".")
    module = network.get_submodule(owner)
    old: Tensor = getattr(module, attribute)
    start, repeat = member.offset, member.repeat
    stop = start + size * repeat
    kept = torch.tensor(keep)[:, None] * repeat + torch.arange(repeat) + start
    before, after = torch.arange(start), torch.arange(stop, old.shape[member.dim])
    index = torch.cat([before, kept.flatten(), after]).to(old.device)
    new = old.detach().index_select(member.dim, index)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, attribute, new)


def _renumber_(module: nn.Module) -> None:
    """Set a layer's own numbers after the shapes of its tensors."""
    if isinstance(module, Depthwise):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.groups = module.out_channels // module.multiplier
    elif isinstance(module, nn.Conv2d):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = module.weight.shape[0]

"""The one place where a network's structure changes: edits of a card, replayed on a network.

Names and indices come from cards, which anyone may have written; whatever does not fit is a
`CardError`, and the network is not touched before everything was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lydite.card import KeepChannels, MaskWeights
from lydite.errors import CardError, unknown_name
from lydite.models.chain import Depthwise
from lydite.models.contract import ChannelGroup, Member, Network


def replay_(network: Network, edits: Iterable[KeepChannels | MaskWeights]) -> None:
    """Apply the edits of a card in order, in place.

    Raises:
        CardError: an edit names a group, channel or parameter that the network does not have.
    """
    for edit in edits:
        if isinstance(edit, KeepChannels):
            keep_channels_(network, edit.group, edit.keep)
        else:
            check_mask(network, edit)


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


def check_mask(network: nn.Module, edit: MaskWeights) -> None:
    """Check that a mask names parameters of the network.

    Raises:
        CardError: it names something else.
    """
    names = {name for name, _ in network.named_parameters()}
    for name in edit.parameters:
        if name not in names:
            raise CardError(f"The card masks the weights of '{name}', which the network lacks.")


def masks_of(network: nn.Module, edits: Iterable[KeepChannels | MaskWeights]) -> dict[str, Tensor]:
    """Return what training must keep at zero: per masked parameter, True where it may change.

    Args:
        network: with the edits applied and its weights loaded.
        edits: of its card.

    Returns:
        Boolean tensors of the parameters' shapes, by parameter name; empty without masks.
        `parameter.mul_(mask)` puts the zeros back.

    Raises:
        CardError: a mask names a parameter that the network lacks.
    """
    masks: dict[str, Tensor] = {}
    for edit in edits:
        if isinstance(edit, MaskWeights):
            check_mask(network, edit)
            for name in edit.parameters:
                masks[name] = network.get_parameter(name).detach() != 0
    return masks


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

"""The one place where a network's structure changes: edits of a card, replayed on a network.

Names and indices come from cards, which anyone may have written; whatever does not fit is a
`CardError`, and the network is not touched before everything was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lydite.edits import (
    AddAdapter,
    Edit,
    Factorization,
    FactorizeLinear,
    KeepChannels,
    KeepSlices,
    MaskWeights,
    Slice,
)
from lydite.errors import CardError, unknown_name
from lydite.models.adapter import make_adapter
from lydite.models.chain import Depthwise
from lydite.models.contract import ADAPTERS_NAME, ChannelGroup, Member, Network, adapter_key
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
        CardError: an edit names a group, channel, layer, tensor or parameter that the network does
            not have, does to it what cannot be done, or what is left does not run.
    """
    sliced = False
    for edit in edits:
        if isinstance(edit, KeepChannels):
            keep_channels_(network, edit.group, edit.keep)
        elif isinstance(edit, KeepSlices):
            keep_slices_(network, edit)
            sliced = True
        elif isinstance(edit, MaskWeights):
            check_mask(network, edit)
        elif isinstance(edit, AddAdapter):
            add_adapter_(network, edit)
        else:
            split_layer_(network, edit)
    if sliced:
        _require_runs(network)


def edit_for(network: Network, group: ChannelGroup, keep: Sequence[int]) -> Edit:
    """Return the edit that keeps these channels of one of the network's groups.

    A group that comes out of a trace is written into the edit, so that replay needs no trace.
    """
    (edit,) = edits_for(network, [(group, keep)])
    return edit


def edits_for(
    network: Network, wanted: Iterable[tuple[ChannelGroup, Sequence[int]]]
) -> tuple[Edit, ...]:
    """Return the edits that keep these channels of several groups, to be replayed in this order.

    Each edit counts from what the ones before it left: where a tensor holds several groups side by
    side (behind a concatenation), what was removed in front of a group moves it forward.

    Args:
        network: as it is before the first edit.
        wanted: different groups of it, and the channels to keep of each.
    """
    if network.traced_size is None:
        return tuple(KeepChannels(group=g.name, keep=tuple(keep)) for g, keep in wanted)
    gone: dict[tuple[str, int], set[int]] = {}
    edits: list[Edit] = []
    for group, keep in wanted:
        slices = []
        for m in group.members:
            before = sum(entry < m.offset for entry in gone.get((m.tensor, m.dim), ()))
            slices.append(
                Slice(tensor=m.tensor, dim=m.dim, repeat=m.repeat, offset=m.offset - before)
            )
        edits.append(
            KeepSlices(group=group.name, size=group.size, slices=tuple(slices), keep=tuple(keep))
        )
        removed = sorted(set(range(group.size)).difference(keep))
        for m in group.members:
            firsts = (m.offset + channel * m.repeat for channel in removed)
            entries = (first + k for first in firsts for k in range(m.repeat))
            gone.setdefault((m.tensor, m.dim), set()).update(entries)
    return tuple(edits)


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
    _check_channels(group, found.size, keep)
    _cut_all_(network, found.members, found.size, keep)


def keep_slices_(network: Network, edit: KeepSlices) -> None:
    """Do the same with a group that the edit itself describes, in place.

    Raises:
        CardError: a slice does not fit the network's tensors, the channels do not fit the group, or
            the network knows its groups by name.
    """
    if network.traced_size is None:
        raise CardError(
            f"The card cuts slices of group '{edit.group}', but networks of {network.family} are "
            "cut by the names of their groups."
        )
    _check_channels(edit.group, edit.size, edit.keep)
    tensors = network.state_dict()
    for part in edit.slices:
        tensor = tensors.get(part.tensor)
        if tensor is None:
            raise CardError(
                f"The card cuts the tensor '{part.tensor}' of group '{edit.group}', which the "
                "network lacks."
            )
        end = part.offset + edit.size * part.repeat
        if part.dim >= tensor.dim() or end > tensor.shape[part.dim]:
            raise CardError(
                f"The card cuts entries {part.offset} to {end - 1} along dimension {part.dim} of "
                f"'{part.tensor}' for group '{edit.group}', but its shape is "
                f"{tuple(tensor.shape)}."
            )
    members = [Member(s.tensor, s.dim, s.repeat, s.offset) for s in edit.slices]
    _cut_all_(network, members, edit.size, edit.keep)


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


def add_adapter_(network: Network, edit: AddAdapter, seed: int = 0) -> None:
    """Put an adapter behind a stage, in place. An optimizer must be made anew.

    Args:
        network: whose `stages()` holds the place.
        edit: which adapter, and where.
        seed: of its weights.

    Raises:
        CardError: no such place, one that has an adapter already, or other channels there.
    """
    stages, key = network.stages(), adapter_key(edit.after)
    if not stages:
        raise CardError(
            f"The card has an adapter behind '{edit.after}', but networks of {network.family} "
            "have no places for adapters."
        )
    if edit.after not in stages:
        raise CardError(unknown_name("place of an adapter", edit.after, stages))
    if key in network.adapters:
        raise CardError(f"Behind '{edit.after}' there is an adapter already; a place takes one.")
    channels = network.channels_after(edit.after)
    if edit.channels != channels:
        raise CardError(
            f"The card's adapter behind '{edit.after}' takes {edit.channels} channels, but the "
            f"network has {channels} there."
        )
    adapter = make_adapter(edit.kind, channels, edit.rank, seed)
    like = network.get_parameter(network.channels_along(edit.after))
    network.adapters[key] = adapter.to(like.device, like.dtype).train(network.training)


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
        elif isinstance(edit, Factorization):
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


def _check_channels(group: str, size: int, keep: Sequence[int]) -> None:
    """Refuse channels that are not ascending numbers below the group's size."""
    ascending = all(a < b for a, b in zip(keep, keep[1:], strict=False))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= size:
        shown = str(list(keep[:8]))[:-1] + (", ...]" if len(keep) > 8 else "]")
        raise CardError(
            f"The channels to keep of group '{group}' must be ascending numbers from 0 to "
            f"{size - 1}. Got {shown}."
        )


def _cut_all_(network: Network, members: Iterable[Member], size: int, keep: Sequence[int]) -> None:
    """Cut every tensor along a group's channels, each dimension once, and renumber its layer."""
    along: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        along.setdefault((member.tensor, member.dim), []).append(member)
    for (tensor, dim), parts in along.items():
        _cut_(network, tensor, dim, parts, size, keep)
    for owner in sorted({tensor.rpartition(".")[0] for tensor, _ in along}):
        _renumber_(network.get_submodule(owner))


def _find_layer(network: Network, name: str) -> nn.Conv2d | nn.Linear:
    """Return a layer that can be split, by name."""
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Factorized)
        and not name.startswith(f"{ADAPTERS_NAME}.")
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


def _cut_(
    network: Network, name: str, dim: int, parts: Sequence[Member], size: int, keep: Sequence[int]
) -> None:
    """Cut one tensor along one dimension, in which the channels may lie several times."""
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    old: Tensor = getattr(module, attribute)
    left = torch.ones(old.shape[dim], dtype=torch.bool)
    wanted = torch.zeros(size, dtype=torch.bool)
    wanted[list(keep)] = True
    for part in parts:
        left[part.offset : part.offset + size * part.repeat] &= wanted.repeat_interleave(
            part.repeat
        )
    new = old.detach().index_select(dim, left.nonzero().flatten().to(old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, attribute, new)


def _renumber_(module: nn.Module) -> None:
    """Set a layer's own numbers after the shapes of its tensors."""
    if isinstance(module, nn.Conv2d):
        outputs, inputs = module.weight.shape[:2]
        if isinstance(module, Depthwise):
            module.groups = outputs // module.multiplier
        elif is_depthwise(module):
            module.groups = outputs // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def is_depthwise(module: nn.Conv2d) -> bool:
    """Tell whether every input channel has a convolution of its own."""
    return module.groups == module.in_channels > 1


def _require_runs(network: Network) -> None:
    """Refuse a network that slices left in shapes that do not go together."""
    assert network.traced_size is not None, "only such networks are cut by slices"
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    x = torch.zeros(1, 3, network.traced_size, network.traced_size, device=device)
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(x).shape)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise CardError(
            f"The network does not run after the card's cuts: {error}. The card is damaged, or "
            "was made for another version of the network."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if shape != (1, 2):
        raise CardError(f"After the card's cuts the network gives {shape} instead of two logits.")

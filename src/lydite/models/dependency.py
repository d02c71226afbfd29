"""Channel groups of networks with branches, from a trace by Torch-Pruning's dependency graph.

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900). Only the finding of
groups is theirs: a group becomes our `ChannelGroup`, and cutting is `surgery`'s business.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lydite.errors import ConfigError, MissingExtraError
from lydite.models.contract import ChannelGroup, Member, Network
from lydite.models.surgery import edits_for, is_depthwise, replay_

#: a group with no more channels than this is not worth cutting; the two logits are one
_LOGITS = 2
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class _Unknown(Exception):
    """A group holds something that cannot be cut channel by channel."""


def traced_groups(network: Network) -> list[ChannelGroup]:
    """Return the channel groups of a network that has a `traced_size`, input side first.

    A group is left out, and so stays whole, where its channels do not lie one after the other in
    every tensor (shuffles, splits, grouped convolutions, attention heads), where a layer is of a
    kind that `surgery` does not renumber, or where the network does not run with half of it.
    A group is called like the first layer that makes its channels.

    Raises:
        ConfigError: the trace breaks, or finds nothing that could be cut.
        MissingExtraError: torch-pruning is not installed.
    """
    pruning = _import_torch_pruning()
    traced = copy.deepcopy(network).cpu().eval().requires_grad_(True)
    assert network.traced_size is not None, "only such networks are traced"
    x = torch.zeros(1, 3, network.traced_size, network.traced_size)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = pruning.DependencyGraph().build_dependency(
                traced, x, forward_fn=lambda model, x: model(x), verbose=False
            )
            parts = [[_Part(traced, graph, item) for item in g] for g in graph.get_all_groups()]
        except Exception as error:  # the library raises whatever its assumptions run into
            raise ConfigError(
                f"The channel groups of this network of {network.family} cannot be traced: "
                f"{type(error).__name__}: {error}. Use `distill` into one of `lydite models`."
            ) from error
    order = {name: place for place, name in enumerate(traced.state_dict())}
    found = [group for part in parts if (group := _group(part, order)) is not None]
    found.sort(key=lambda group: order[group.scored[0]])
    # the trace may leave tensors in its copy that cannot be copied again
    found = _that_run(network, found)
    if not found:
        raise ConfigError(
            f"No channel group of this network of {network.family} can be cut. "
            "Use `distill` into one of `lydite models`."
        )
    return found


def _import_torch_pruning() -> ModuleType:
    """Return torch-pruning, or say which extra brings it."""
    if importlib.util.find_spec("torch_pruning") is None:
        raise MissingExtraError("timm", "torch-pruning")
    from lydite.models.timm import mend_torchvision

    mend_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torch_pruning")


class _Part:
    """One layer or parameter of a traced group, and which channel each of its entries is of."""

    def __init__(self, network: nn.Module, graph: Any, item: Any) -> None:
        node = item.dep.target
        self.target: object = node.module
        self.outputs = bool(graph.is_out_channel_pruning_fn(item.dep.handler))
        self.pairs = sorted(zip(item.root_idxs, item.idxs, strict=True))
        self.kind = type(node.module).__name__
        self.name = ""
        if isinstance(self.target, nn.Parameter):
            names = (name for name, p in network.named_parameters() if p is self.target)
            self.name, self.dim = next(names), int(node.pruning_dim)
        elif isinstance(self.target, nn.Module):
            # operations of the trace are modules too, but none of the network's
            self.name = next((n for n, m in network.named_modules() if m is self.target), "")

    def members(self, size: int) -> list[Member]:
        """Return the tensors that run along the group's channels."""
        if not self.name:
            if self.kind == "_OutputOp":
                raise _Unknown
            return []
        repeat, offset = self._layout(size)
        return [Member(tensor, dim, repeat, offset) for tensor, dim in self._tensors()]

    @property
    def makes(self) -> bool:
        """Whether the channels are made here, rather than passed on or read."""
        module = self.target
        if isinstance(module, nn.Conv2d):
            return self.outputs and not is_depthwise(module)
        return self.outputs and isinstance(module, nn.Linear)

    @property
    def reads(self) -> bool:
        """Whether the channels end here, in the inputs of a layer's weights."""
        module = self.target
        if isinstance(module, nn.Conv2d):
            return not (self.outputs or is_depthwise(module))
        return not self.outputs and isinstance(module, nn.Linear)

    def _tensors(self) -> list[tuple[str, int]]:
        """Return (name, dimension) of every tensor that is cut with this layer."""
        module, name = self.target, self.name
        if isinstance(module, nn.Parameter):
            return [(name, self.dim % module.dim())]
        assert isinstance(module, nn.Module)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return [(f"{name}.{t}", 0) for t in _NORM_TENSORS if getattr(module, t) is not None]
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
            return [
                (f"{name}.{t}", 0) for t in ("weight", "bias") if getattr(module, t) is not None
            ]
        depthwise = isinstance(module, nn.Conv2d) and is_depthwise(module)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            if not depthwise or module.out_channels != module.in_channels:
                raise _Unknown
        elif not isinstance(module, nn.Conv2d | nn.Linear):
            raise _Unknown
        if not (self.outputs or depthwise):
            return [(f"{name}.weight", 1)]
        bias = [(f"{name}.bias", 0)] if module.bias is not None else []
        return [(f"{name}.weight", 0), *bias]

    def _layout(self, size: int) -> tuple[int, int]:
        """Return how many consecutive entries each channel has here, and where they begin."""
        repeat, rest = divmod(len(self.pairs), size)
        offset = self.pairs[0][1]
        regular = [(c, offset + c * repeat + k) for c in range(size) for k in range(repeat)]
        if rest or self.pairs != regular:
            raise _Unknown
        return repeat, offset


def _group(parts: Sequence[_Part], order: dict[str, int]) -> ChannelGroup | None:
    """Return a traced group as ours; None where it cannot be cut channel by channel."""
    size = len(parts[0].pairs)
    try:
        members = {member for part in parts for member in part.members(size)}
    except _Unknown:
        return None
    makers = sorted({f"{part.name}.weight" for part in parts if part.makes}, key=order.__getitem__)
    read = any(part.reads for part in parts)
    if size <= _LOGITS or not makers or not read:
        return None
    ordered = sorted(members, key=lambda m: (order[m.tensor], m.dim, m.offset))
    name = makers[0].removeprefix("model.").removesuffix(".weight")
    return ChannelGroup(name, size, tuple(ordered), tuple(makers))


def _that_run(network: Network, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return the groups of which the network can lose a half and still give two logits."""
    if _runs(network, groups):
        return list(groups)
    alone = [group for group in groups if _runs(network, [group])]
    return alone if _runs(network, alone) else []


def _runs(network: Network, groups: Iterable[ChannelGroup]) -> bool:
    """Tell whether a copy of the network runs with half the channels of these groups."""
    edits = edits_for(network, [(group, range((group.size + 1) // 2)) for group in groups])
    try:
        replay_(copy.deepcopy(network).cpu(), edits)
    except Exception:  # a network of any origin answers a wrong shape with whatever it likes
        return False
    return True

"""Gates on channels, and the gradient of each image's loss by them.

A gate is a factor, 1 as a rule, on what the readers of a channel get of it. Removing the channel is
turning its gate to 0 (exactly so in evaluation mode, unless a norm across channels such as
LayerNorm lies between: there it is an approximation). With g the gradient of the loss by the gate,
the loss changes by -g to first order. The sum over a layer's weights that read the channel of
w * dL/dw is the same number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.compress.channels import Floats
from lydite.errors import ConfigError
from lydite.models.contract import ChannelGroup, Member, Network


def gate_gradients(
    network: Network, groups: Sequence[ChannelGroup], images: Tensor, targets: Tensor
) -> dict[str, Floats]:
    """Return the gradient of each image's cross-entropy by each channel's gate.

    One pass forward and one back give all of them, because images do not mix in evaluation mode:
    each has gates of its own.

    Args:
        network: in evaluation mode; stays as it is.
        groups: of the network.
        images: (N, 3, S, S) normalized.
        targets: (N,) class indices.

    Returns:
        (N, C) gradients by group name.

    Raises:
        ConfigError: a layer that reads a group is not called as a layer of its own.
    """
    gates = {
        group.name: torch.ones(len(images), group.size).to(images).requires_grad_()
        for group in groups
    }
    with _gated(network, groups, gates), torch.enable_grad():
        loss = F.cross_entropy(network(images), targets, reduction="sum")
        found = torch.autograd.grad(
            loss, list(gates.values()), allow_unused=True, materialize_grads=True
        )
    return {
        name: gradient.double().cpu().numpy() for name, gradient in zip(gates, found, strict=True)
    }


@contextlib.contextmanager
def _gated(
    network: Network, groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]
) -> Iterator[None]:
    """Multiply what every reader gets of a channel by its gate, as long as the block runs.

    Raises:
        ConfigError: a reader did not run as a layer, so its gates were passed by.
    """
    hooks = []
    waiting: set[str] = set()
    for group in groups:
        for member in group.members:
            name, _, kind = member.tensor.rpartition(".")
            layer = network.get_submodule(name)
            # other tensors along a second dimension (a scale of channels) pass them on
            if isinstance(layer, nn.Conv2d | nn.Linear) and (kind, member.dim) == ("weight", 1):
                hook = _gate(gates[group.name], member, partial(waiting.discard, name))
                hooks.append(layer.register_forward_pre_hook(hook))
                waiting.add(name)
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
    if waiting:
        raise ConfigError(
            f"Scores from images cannot be taken of this network of {network.family}: "
            f"'{min(waiting)}' does not run as a layer of its own. Use `score: l1`."
        )


def _gate(
    gate: Tensor, member: Member, passed: Callable[[], None]
) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    """Return the hook of one reader, which tells `passed` that it ran."""

    def apply(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        x = inputs[0]
        passed()
        axis = 1 if isinstance(layer, nn.Conv2d) else x.dim() - 1
        if x.shape[0] != len(gate):
            raise ConfigError(
                f"Scores from images cannot be taken of this network: its layer "
                f"{member.tensor.rpartition('.')[0]} sees {x.shape[0]} inputs for {len(gate)} "
                "images. Use `score: l1`."
            )
        factor = gate.repeat_interleave(member.repeat, dim=1)
        behind = x.shape[axis] - member.offset - factor.shape[1]
        factor = F.pad(factor, (member.offset, behind), value=1.0)
        shape = [len(gate)] + [1] * (x.dim() - 1)
        shape[axis] = x.shape[axis]
        return x * factor.view(shape)

    return apply

"""Channel groups of a plain chain of layers, found by walking it once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from lydite.models.contract import ChannelGroup, Member
from lydite.models.factorized import Factorized


class Depthwise(nn.Conv2d):
    """A 3x3 convolution in as many groups as it has inputs, `multiplier` outputs each.

    It creates no channels of its own: its outputs live and die with its inputs. The class marks
    that even where one channel is left and `groups == 1` no longer does.

    Args:
        channels: number of inputs.
        multiplier: outputs per input.
        bias: whether the outputs have a bias.
    """

    def __init__(self, channels: int, multiplier: int = 1, *, bias: bool = True) -> None:
        outputs = channels * multiplier
        super().__init__(channels, outputs, 3, padding=1, groups=channels, bias=bias)
        self.multiplier = multiplier


@dataclass
class _Open:
    """A group whose readers are not all known yet."""

    name: str
    size: int
    members: list[Member] = field(default_factory=list)
    scored: tuple[str, ...] = ()

    def along(self, name: str, module: nn.Module) -> None:
        """Add every tensor of a module that keeps the channels in order."""
        for tensor, value in module.state_dict().items():
            if value.dim() > 0:
                self.members.append(Member(f"{name}.{tensor}", 0, value.shape[0] // self.size))

    def close(self) -> ChannelGroup:
        return ChannelGroup(self.name, self.size, tuple(self.members), self.scored)


def chain_groups(layers: Iterable[tuple[str, nn.Module]]) -> list[ChannelGroup]:
    """Return the channel groups of layers that run one after the other, input side first.

    Every convolution and linear layer but the last makes one group, called like the layer: its
    own outputs, the batch norm and the depthwise convolution behind it, and the inputs of the next
    layer (with one entry per position where a map is flattened in between). A split layer makes
    one group per factor; the last one keeps the layer's name, so that earlier edits still fit.

    Args:
        layers: (name in the network, module), in the order of execution; layers without channels
            of their own (activations, pooling, dropout, flatten) may be among them.
    """
    groups: list[ChannelGroup] = []
    current: _Open | None = None
    for name, label, module in _unfolded(layers):
        if isinstance(module, Depthwise | nn.BatchNorm2d):
            assert current is not None, f"{name} has no channels to follow"
            current.along(name, module)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            if current is not None:
                entries = weight.shape[1] // current.size
                current.members.append(Member(f"{name}.weight", 1, entries))
                groups.append(current.close())
            current = _Open(label, weight.shape[0], scored=(f"{name}.weight",))
            current.along(name, module)
    return groups


def _unfolded(layers: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield name, name of its group and module of every layer, split ones as their factors."""
    for name, module in layers:
        short = name.rpartition(".")[2]
        if not isinstance(module, Factorized):
            yield name, short, module
            continue
        *inner, (last, writer) = module.factors()
        for child, factor in inner:
            yield f"{name}.{child}", f"{short}.{child}", factor
        yield f"{name}.{last}", short, writer

"""What every network here is: logits, features, and a list of the channel groups that may shrink.

Compression touches networks through this contract and `models.surgery` alone. A `ChannelGroup`
says which slices of which tensors belong to one set of channels, so that removing channel 7 of a
convolution also removes its batch-norm row and the inputs that read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lydite.card import Architecture
from lydite.errors import ConfigError
from lydite.registry import Registry


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that runs along a group's channels.

    Attributes:
        tensor: name in the network's state dict, such as "features.0.weight".
        dim: which dimension.
        repeat: how many consecutive entries belong to one channel (49 where a 7x7 map was
            flattened into a linear layer).
        offset: where the group's entries begin along `dim` (for concatenations).
    """

    tensor: str
    dim: int
    repeat: int = 1
    offset: int = 0


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be kept or removed together.

    Attributes:
        name: stable; what the card's edits refer to.
        size: number of channels now.
        members: every tensor dimension that runs along them.
        scored: names of the weights whose dimension 0 produces the channels (what magnitude
            scores are computed from).
    """

    name: str
    size: int
    members: tuple[Member, ...]
    scored: tuple[str, ...]


#: where a network keeps its adapters; the names of their tensors begin with it
ADAPTERS_NAME = "adapters"


def adapter_key(stage: str) -> str:
    """Return the name under which a network keeps the adapter behind a stage.

    >>> adapter_key("body.relu4")
    'body_relu4'
    """
    return stage.replace(".", "_")


class Network(nn.Module):
    """Base of all networks.

    `forward` takes (N, 3, S, S) normalized input and returns (N, 2) logits, real then fake.
    Modules are registered in the order in which they run, adapters apart.

    Attributes:
        adapters: what runs behind a stage, by `adapter_key`; empty unless an edit adds some.
    """

    #: plain-word origin, for reports
    family: str = "network"
    #: side in pixels of the input that channel groups are traced with; None: no trace is needed
    traced_size: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C, h, w)."""
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits from the last feature map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2) logits for (N, 3, S, S) input."""
        return self.head(self.features(x))

    def votes(self, features: Tensor) -> Tensor | None:
        """Return (N, 2, h, w) logits of every position; None: this network does not score them."""
        return None

    def groups(self) -> list[ChannelGroup]:
        """Return the channel groups, input side first. Empty: this network cannot be pruned.

        Raises:
            ConfigError: the groups come out of a trace, and this network cannot be traced.
            MissingExtraError: a trace needs a library that is not installed.
        """
        return []

    def stages(self) -> list[str]:
        """Return names of the submodules an adapter may follow, input side first.

        Behind each of them `features` passes the map through `adapted`.
        """
        return []

    def channels_along(self, stage: str) -> str:
        """Return the name of a tensor whose dimension 0 runs along the channels behind a stage."""
        raise NotImplementedError

    def channels_after(self, stage: str) -> int:
        """Return how many channels the map behind a stage has."""
        return len(self.get_parameter(self.channels_along(stage)))

    def adapted(self, stage: str, x: Tensor) -> Tensor:
        """Return what the adapter behind a stage makes of its map; without one, the map."""
        key = adapter_key(stage)
        return self.adapters[key](x) if key in self.adapters else x

    def head_modules(self) -> list[str]:
        """Return names of the submodules that make logits of features. Empty: not known."""
        return []


@dataclass(frozen=True)
class NetworkInfo:
    """What a network's builder promises, for `lydite models` and reports.

    Attributes:
        name: what recipes call it.
        summary: one line for people.
        config: the builder's further arguments and their defaults.
    """

    name: str
    summary: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Builder:
    """A named network: what it is, what input it takes, and how it is made.

    Attributes:
        info: what it promises.
        multiple: the side of the input must be a multiple of this, in pixels.
        least: smallest side of the input in pixels.
        make: from an architecture whose input size fits to the network with fresh weights.
        scaled: from an architecture and a share to the same with every width multiplied by the
            share, as far as rounding allows; None: its widths are fixed.
    """

    info: NetworkInfo
    multiple: int
    least: int
    make: Callable[[Architecture], Network]
    scaled: Callable[[Architecture, float], Architecture] | None = None

    def build(self, architecture: Architecture) -> Network:
        """Return the network with fresh weights.

        Raises:
            ConfigError: the input size or a key of `config` does not fit this network.
        """
        size = architecture.input_size
        if size < self.least or size % self.multiple:
            raise ConfigError(
                f"`size` of {self.info.name} must be a multiple of {self.multiple} from "
                f"{self.least} px up. Got {size}. "
                f"Use {max(self.least, round(size / self.multiple) * self.multiple)}."
            )
        return self.make(architecture)


#: every network by name, except those of timm
NETWORKS: Registry[Builder] = Registry("network")

"""The paper's baseline and its four students, as width tables (arXiv 2504.21066).

One class builds all five. Every convolution is 3x3 with bias and padding 1, then batch norm and
ReLU; five 2x2 max-pools; then linear layers on the flattened map, whose size follows the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.config import Frozen, validate
from lydite.models.adapter import joined_groups
from lydite.models.chain import Depthwise, chain_groups
from lydite.models.contract import NETWORKS, Builder, ChannelGroup, Network, NetworkInfo
from lydite.models.filters import COLORS, Filter, Residual

POOL: Literal["P"] = "P"
#: scaled widths are multiples of this, which runtimes compute fastest
MULTIPLE = 8


@dataclass(frozen=True)
class Separable:
    """A 3x3 convolution to `middle` channels and, with nothing between, a 1x1 to `out`.

    The 3x3 runs in as many groups as it has inputs, except on the three color channels, where it
    is an ordinary one.
    """

    middle: int
    out: int


@dataclass(frozen=True)
class Table:
    """Widths of one network.

    Attributes:
        summary: one line for people.
        layers: output channels of each convolution, "P" for a 2x2 max-pool.
        hidden: widths of the linear layers before the last.
    """

    summary: str
    layers: tuple[int | Separable | Literal["P"], ...]
    hidden: tuple[int, ...]


TABLES: dict[str, Table] = {
    "paper-baseline": Table(
        "the paper's baseline, eight convolutions",
        (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, POOL, 128, POOL),
        (256, 256),
    ),
    "paper-student-1.8m": Table(
        "the paper's student that removes 60.8 % of the baseline at 224 px",
        (32, POOL, 64, POOL, 128, POOL, 256, POOL, 128, POOL, 128, 128),
        (128, 128),
    ),
    "paper-student-1.34m": Table(
        "the paper's student that removes 70.8 % of the baseline at 224 px",
        (32, POOL, 64, POOL, 128, POOL, 128, POOL, 128, POOL, 128),
        (128,),
    ),
    "paper-student-0.9m": Table(
        "the paper's student that removes 80.3 % of the baseline at 224 px",
        (32, POOL, 64, POOL, 128, POOL, 128, POOL, 128, POOL, 64, 64),
        (128,),
    ),
    "paper-student-0.44m": Table(
        "the paper's student that removes 90.4 % of the baseline at 224 px, separable",
        (
            *(Separable(32, 32), POOL, Separable(64, 64), POOL, Separable(64, 64), POOL),
            *(Separable(128, 128), POOL, Separable(128, 64), POOL),
        ),
        (128,),
    ),
}


class VggConfig(Frozen):
    """Further arguments of the paper's networks.

    Attributes:
        dropout: probability before each hidden linear layer.
        width: multiplies every width of the table; rounded to multiples of 8, at least 8.
        residual: what the first layer sees: "none", the colors, as in the paper; or a filter of
            them, see `lydite.models.filters.Residual`.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    residual: Filter = "none"


def scaled_table(table: Table, width: float) -> Table:
    """Return a table with every width multiplied, to the nearest multiple of 8, at least 8.

    A depthwise convolution keeps its number of outputs per input.

    >>> scaled_table(Table("", (64, POOL, Separable(128, 64)), (256,)), 0.5)
    Table(summary='', layers=(32, 'P', Separable(middle=64, out=32)), hidden=(128,))
    """

    def scaled(value: int) -> int:
        return max(MULTIPLE, round(value * width / MULTIPLE) * MULTIPLE)

    layers: list[int | Separable | Literal["P"]] = []
    before = now = COLORS
    for layer in table.layers:
        if isinstance(layer, Separable):
            per_input, rest = divmod(layer.middle, before)
            middle = scaled(layer.middle) if rest or before == COLORS else now * per_input
            before, now = layer.out, scaled(layer.out)
            layers.append(Separable(middle, now))
        elif isinstance(layer, int):
            before, now = layer, scaled(layer)
            layers.append(now)
        else:
            layers.append(layer)
    return Table(table.summary, tuple(layers), tuple(scaled(value) for value in table.hidden))


class Vgg(Network):
    """A chain of convolutions and linear layers, driven by a table.

    Args:
        table: the widths.
        size: side of the input in pixels, a multiple of 32.
        dropout: probability before each hidden linear layer.
        residual: what the first layer sees.
    """

    family = "paper"

    def __init__(
        self, table: Table, size: int, dropout: float = 0.5, residual: Filter = "none"
    ) -> None:
        super().__init__()
        self.residual = Residual(residual)
        self.body, channels = _body(table, self.residual.channels)
        side = size // 2 ** table.layers.count(POOL)
        self.classifier = _classifier(channels * side * side, table.hidden, dropout)

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C, S/32, S/32)."""
        x = self.residual(x)
        for name, layer in self.body.named_children():
            x = self.adapted(f"body.{name}", layer(x))
        return x

    def head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits from the last feature map."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def groups(self) -> list[ChannelGroup]:
        """Return a group per convolution ("conv3", "point3") and per hidden layer ("fc1")."""
        layers = [(f"body.{name}", module) for name, module in self.body.named_children()]
        layers += [
            (f"classifier.{name}", module) for name, module in self.classifier.named_children()
        ]
        return joined_groups(self, chain_groups(layers))

    def stages(self) -> list[str]:
        """Return the ReLU behind each convolution, where the paper places its adapters."""
        return [f"body.{n}" for n, m in self.body.named_children() if isinstance(m, nn.ReLU)]

    def channels_along(self, stage: str) -> str:
        """Return the scale of the batch norm before a stage."""
        return f"{stage.replace('relu', 'bn')}.weight"

    def head_modules(self) -> list[str]:
        """Return the linear layers."""
        return ["classifier"]


def _body(table: Table, channels: int) -> tuple[nn.Sequential, int]:
    """Return the convolutions, numbered from 1, and how many channels leave them."""
    body = nn.Sequential()
    number = pools = 0
    for layer in table.layers:
        if layer == POOL:
            pools += 1
            body.add_module(f"pool{pools}", nn.MaxPool2d(2))
            continue
        number += 1
        if isinstance(layer, Separable):
            spatial = _spatial(channels, layer.middle, first=number == 1)
            body.add_module(f"spatial{number}", spatial)
            body.add_module(f"point{number}", nn.Conv2d(layer.middle, layer.out, 1))
            channels = layer.out
        else:
            assert isinstance(layer, int)
            body.add_module(f"conv{number}", nn.Conv2d(channels, layer, 3, padding=1))
            channels = layer
        body.add_module(f"bn{number}", nn.BatchNorm2d(channels))
        body.add_module(f"relu{number}", nn.ReLU())
    return body, channels


def _spatial(channels: int, middle: int, *, first: bool) -> nn.Conv2d:
    """Return the 3x3 half of a separable convolution."""
    if first or middle % channels:
        return nn.Conv2d(channels, middle, 3, padding=1)
    return Depthwise(channels, middle // channels)


def _classifier(inputs: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Return the linear layers, numbered from 1; the last one is "logits"."""
    layers = nn.Sequential()
    layers.add_module("flatten", nn.Flatten())
    for number, width in enumerate(hidden, start=1):
        layers.add_module(f"dropout{number}", nn.Dropout(dropout))
        layers.add_module(f"fc{number}", nn.Linear(inputs, width))
        layers.add_module(f"fc_relu{number}", nn.ReLU())
        inputs = width
    layers.add_module("logits", nn.Linear(inputs, 2))
    return layers


def _register(name: str, table: Table) -> None:
    """Add one table to the networks."""

    def make(architecture: Architecture) -> Network:
        config = configured(architecture)
        size, narrow = architecture.input_size, scaled_table(table, config.width)
        return Vgg(narrow, size, config.dropout, config.residual)

    def scaled(architecture: Architecture, share: float) -> Architecture:
        width = round(configured(architecture).width * share, 6)
        return architecture.model_copy(update={"config": architecture.config | {"width": width}})

    def configured(architecture: Architecture) -> VggConfig:
        return validate(VggConfig, architecture.config, f"`config` of {name}")

    info = NetworkInfo(name, table.summary, VggConfig().model_dump(mode="json"))
    NETWORKS.add(name)(Builder(info, multiple=32, least=64, make=make, scaled=scaled))


for _name, _table in TABLES.items():
    _register(_name, _table)

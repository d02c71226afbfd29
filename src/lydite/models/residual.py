"""Our own family: a residual input, full resolution first, scores averaged over patches.

Generators leave their traces in the finest detail, which a content-hungry network overlooks and
early pooling destroys. So the input passes a high-pass filter or another one, the first layers
keep the full resolution, and the network is fully convolutional: every position of the last map
votes, and the votes are averaged. Blocks are those of He et al. 2016 (arXiv 1512.03385).
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.config import Frozen, validate
from lydite.errors import ConfigError
from lydite.models.adapter import joined_groups
from lydite.models.contract import NETWORKS, Builder, ChannelGroup, Member, Network, NetworkInfo
from lydite.models.factorized import Factorized, outputs_of, rank_groups, reader_of, writer_of
from lydite.models.filters import Filter, Residual

Width = Annotated[int, Field(ge=1, le=1024)]
#: scaled widths are multiples of this, but where they already are smaller
MULTIPLE = 4


class ResidualConfig(Frozen):
    """Further arguments of our own networks.

    Attributes:
        residual: what the first layer sees: "highpass", "npr", "wavelet", "bayar" (learned) or
            "none", the colors themselves; see `lydite.models.filters.Residual`.
        widths: channels of each stage; the first runs at full resolution, each further one at
            half the resolution of the one before.
        blocks: residual blocks per stage.
    """

    residual: Filter = "highpass"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)]
    blocks: Annotated[int, Field(ge=0, le=8)] = 1


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added back.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d | Factorized = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2: nn.Conv2d | Factorized = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, h, w) for (N, C, h, w)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(inner)))


class Stage(nn.Module):
    """A convolution to a new width, halving the resolution unless it is the first, and blocks."""

    def __init__(self, inputs: int, width: int, stride: int, blocks: int) -> None:
        super().__init__()
        self.conv: nn.Conv2d | Factorized = nn.Conv2d(
            inputs, width, 3, stride=stride, padding=1, bias=False
        )
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, h / stride, w / stride)."""
        return self.blocks(F.relu(self.bn(self.conv(x))))  # type: ignore[no-any-return]


class ResidualNetwork(Network):
    """Residual input, stages, and a 1x1 convolution to two logits at every position.

    Args:
        config: the filter, the widths and the number of blocks.
    """

    family = "lydite"

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.residual = Residual(config.residual)
        self.body = nn.Sequential()
        inputs = self.residual.channels
        for number, width in enumerate(config.widths):
            stride = 2 if number else 1
            self.body.append(Stage(inputs, width, stride, config.blocks))
            inputs = width
        self.patch: nn.Conv2d | Factorized = nn.Conv2d(inputs, 2, 1)
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C, S / 2^(stages - 1), same)."""
        x = self.residual(x)
        for name, stage in self.body.named_children():
            x = self.adapted(f"body.{name}", stage(x))
        return x

    def patch_logits(self, x: Tensor) -> Tensor:
        """Return the votes of every position, (N, 2, h, w), for (N, 3, S, S) input."""
        return self.votes(self.features(x))

    def votes(self, features: Tensor) -> Tensor:
        """Return the votes of every position, (N, 2, h, w), from the last feature map."""
        return self.patch(features)  # type: ignore[no-any-return]

    def head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits: the mean of the votes over all positions."""
        return self.votes(features).mean((2, 3))

    def groups(self) -> list[ChannelGroup]:
        """Return a group per stage ("body.0": all that is summed), per block's inside and rank."""
        groups: list[ChannelGroup] = []
        stages = [(f"body.{index}", stage) for index, stage in enumerate(self.body)]
        readers = [reader_of(f"{n}.conv", s.get_submodule("conv")) for n, s in stages[1:]]
        readers.append(reader_of("patch", self.patch))
        for (name, stage), reader in zip(stages, readers, strict=True):
            assert isinstance(stage, Stage)
            produced, inner = [writer_of(f"{name}.conv", stage.conv)], []
            members = _made_by(produced[0], f"{name}.bn")
            for number, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                inside = f"{name}.blocks.{number}"
                inner += _inner_groups(inside, block)
                produced.append(writer_of(f"{inside}.conv2", block.conv2))
                members.append(Member(f"{reader_of(f'{inside}.conv1', block.conv1)}.weight", 1))
                members += _made_by(produced[-1], f"{inside}.bn2")
            members.append(Member(f"{reader}.weight", 1))
            scored = tuple(f"{producer}.weight" for producer in produced)
            groups += rank_groups(f"{name}.conv", stage.conv)
            groups += [ChannelGroup(name, outputs_of(stage.conv), tuple(members), scored), *inner]
        return joined_groups(self, groups) + rank_groups("patch", self.patch)

    def stages(self) -> list[str]:
        """Return the stages, input side first."""
        return [f"body.{index}" for index in range(len(self.body))]

    def channels_along(self, stage: str) -> str:
        """Return the scale of a stage's first batch norm."""
        return f"{stage}.bn.weight"

    def head_modules(self) -> list[str]:
        """Return the convolution whose outputs are averaged."""
        return ["patch"]


def _made_by(conv: str, norm: str) -> list[Member]:
    """Return the tensors along the outputs of a convolution and its batch norm."""
    names = ("weight", "bias", "running_mean", "running_var")
    return [Member(f"{conv}.weight", 0), *(Member(f"{norm}.{name}", 0) for name in names)]


def _inner_groups(name: str, block: Block) -> list[ChannelGroup]:
    """Return the channels between the two convolutions of a block, and the ranks of both."""
    first, second = f"{name}.conv1", f"{name}.conv2"
    writer, reader = writer_of(first, block.conv1), reader_of(second, block.conv2)
    members = [*_made_by(writer, f"{name}.bn1"), Member(f"{reader}.weight", 1)]
    between = ChannelGroup(name, outputs_of(block.conv1), tuple(members), (f"{writer}.weight",))
    return [*rank_groups(first, block.conv1), between, *rank_groups(second, block.conv2)]


SIZES: dict[str, tuple[int, ...]] = {
    "lydite-large": (24, 48, 72, 96),
    "lydite-medium": (16, 32, 56),
    "lydite-small": (8, 16, 24),
}


def _register(name: str, widths: tuple[int, ...]) -> None:
    """Add one size to the networks."""

    def make(architecture: Architecture) -> Network:
        config = configured(architecture)
        multiple = max(2, 2 ** (len(config.widths) - 1))
        if architecture.input_size % multiple:
            raise ConfigError(
                f"`size` of {name} with {len(config.widths)} stages must be a multiple of "
                f"{multiple}. Got {architecture.input_size}."
            )
        return ResidualNetwork(config)

    def scaled(architecture: Architecture, share: float) -> Architecture:
        narrow = [
            max(min(width, MULTIPLE), round(width * share / MULTIPLE) * MULTIPLE)
            for width in configured(architecture).widths
        ]
        return architecture.model_copy(update={"config": architecture.config | {"widths": narrow}})

    def configured(architecture: Architecture) -> ResidualConfig:
        value = {"widths": widths} | architecture.config
        return validate(ResidualConfig, value, f"`config` of {name}")

    summary = f"residual input, {len(widths)} stages, scores averaged over patches"
    info = NetworkInfo(name, summary, ResidualConfig(widths=widths).model_dump(mode="json"))
    NETWORKS.add(name)(Builder(info, multiple=2, least=32, make=make, scaled=scaled))


for _name, _widths in SIZES.items():
    _register(_name, _widths)

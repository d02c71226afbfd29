"""Adapters: small modules with weights of their own behind a stage of a network.

All keep one contract, (N, C, h, w) to (N, C, h, w), and are made of convolutions, batch norm and
ReLU alone, so that export, rounding and counting treat them like any other layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.edits import AdapterKind
from lydite.models.chain import Depthwise
from lydite.models.contract import ChannelGroup, Member, Network, adapter_key
from lydite.registry import Registry

_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


class Adapter(nn.Module):
    """Base of all adapters.

    Args:
        channels: in and out.
        rank: channels inside, for the kinds that have fewer there.
    """

    #: tensors that run along the channels, and the dimensions along which they do
    along: ClassVar[tuple[tuple[str, int], ...]]

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, h, w) for (N, C, h, w)."""
        raise NotImplementedError


ADAPTERS: Registry[type[Adapter]] = Registry("adapter")


@ADAPTERS.add("separable")
class SeparableAdapter(Adapter):
    """The paper's: depthwise 3x3, pointwise 1x1 (both with bias), batch norm, ReLU.

    arXiv 2504.21066. Nothing leads around it, so it changes every answer from the first moment.
    It has C^2 + 13 C parameters: 18,048 for 128 channels and 4,928 for 64, as in the paper.
    """

    along = (
        *(("depthwise.weight", 0), ("depthwise.bias", 0)),
        *(("pointwise.weight", 0), ("pointwise.weight", 1), ("pointwise.bias", 0)),
        *((name, 0) for name in _NORM),
    )

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        self.depthwise = Depthwise(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ReLU(norm(pointwise(depthwise(x)))), (N, C, h, w)."""
        return F.relu(self.bn(self.pointwise(self.depthwise(x))))


@ADAPTERS.add("residual-separable")
class ResidualSeparableAdapter(SeparableAdapter):
    """The input plus the paper's adapter times a factor per channel that starts at zero.

    So nothing changes until it learns (the zero start of ReZero, Bachlechner et al. 2020, arXiv
    2003.04887, with a factor per channel). The factor stands behind the ReLU: a batch norm scaled
    to zero before it would get no gradient through it.
    """

    along = (*SeparableAdapter.along, ("factor.weight", 0))

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        self.factor = _per_channel(channels, bias=False)
        nn.init.zeros_(self.factor.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + factor * separable(x), (N, C, h, w)."""
        return x + self.factor(super().forward(x))  # type: ignore[no-any-return]


@ADAPTERS.add("bottleneck")
class BottleneckAdapter(Adapter):
    """The input plus 1x1 down to `rank` channels, ReLU, and 1x1 up, which starts at zero.

    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv 1902.00751), with
    1x1 convolutions in the place of linear layers.
    """

    along = (("down.weight", 1), ("up.weight", 0), ("up.bias", 0))

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        assert rank is not None, "the edit checks that"
        self.down = nn.Conv2d(channels, rank, 1)
        self.up = nn.Conv2d(rank, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return x + up(ReLU(down(x))), (N, C, h, w)."""
        return x + self.up(F.relu(self.down(x)))  # type: ignore[no-any-return]


@ADAPTERS.add("lora")
class LoraAdapter(Adapter):
    """The input plus a 1x1 convolution of low rank, which starts at zero.

    After Hu et al. 2021, "LoRA" (arXiv 2106.09685). There a weight is changed by a product of low
    rank; here the map behind a stage is, so it can mix channels but cannot change a kernel.
    """

    along = (("down.weight", 1), ("up.weight", 0))

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        assert rank is not None, "the edit checks that"
        self.down = nn.Conv2d(channels, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + up(down(x)), (N, C, h, w)."""
        return x + self.up(self.down(x))  # type: ignore[no-any-return]


@ADAPTERS.add("affine")
class AffineAdapter(Adapter):
    """A scale and a shift per channel, starting at one and zero.

    Lian et al. 2022, "Scaling & Shifting Your Features" (arXiv 2210.08823).
    """

    along = (("affine.weight", 0), ("affine.bias", 0))

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        self.affine = _per_channel(channels, bias=True)
        nn.init.ones_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return scale * x + shift, (N, C, h, w)."""
        return self.affine(x)  # type: ignore[no-any-return]


@ADAPTERS.add("linear")
class LinearAdapter(Adapter):
    """A full 1x1 convolution and nothing else, starting at the identity.

    The paper's negative control (arXiv 2504.21066): of linear adapters it reports no gain.
    """

    along = (("pointwise.weight", 0), ("pointwise.weight", 1), ("pointwise.bias", 0))

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.pointwise.weight)
        nn.init.zeros_(self.pointwise.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return pointwise(x), (N, C, h, w)."""
        return self.pointwise(x)  # type: ignore[no-any-return]


def _per_channel(channels: int, *, bias: bool) -> nn.Conv2d:
    """Return a factor per channel as a convolution, which every runtime computes in integers."""
    return nn.Conv2d(channels, channels, 1, groups=channels, bias=bias)


def make_adapter(
    kind: AdapterKind, channels: int, rank: int | None = None, seed: int = 0
) -> Adapter:
    """Return an adapter; equal arguments give equal weights, whatever was drawn before.

    Args:
        kind: a name of `ADAPTERS`.
        channels: in and out.
        rank: channels inside, for the kinds that have fewer there.
        seed: of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ADAPTERS.get(kind)(channels, rank)


def joined_groups(network: Network, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return channel groups with the adapters that follow them as further members.

    An adapter's inputs and outputs are one set of channels, as its residual path has it, so that
    removing a channel behind a stage removes it on both sides of the adapter.

    Args:
        network: with adapters or without.
        groups: of its own layers.
    """
    joined = list(groups)
    for stage in network.stages():
        name = adapter_key(stage)
        if name not in network.adapters:
            continue
        adapter = network.adapters[name]
        assert isinstance(adapter, Adapter)
        made = Member(network.channels_along(stage), 0)
        index = next(i for i, group in enumerate(joined) if made in group.members)
        further = tuple(Member(f"adapters.{name}.{tensor}", dim) for tensor, dim in adapter.along)
        joined[index] = replace(joined[index], members=(*joined[index].members, *further))
    return joined

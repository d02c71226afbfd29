"""Layers split into factors: two or three small layers in the place of one.

What is split, and into which shapes, is decided here; the values are `lydite.compress.lowrank`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

from lydite.models.contract import ChannelGroup, Member

Method = Literal["svd", "tucker2", "spatial"]
#: a convolution that can be split, as its constructor takes it
_Shape = tuple[int, int, tuple[int, int]]


class Factorized(nn.Sequential):
    """The factors of one layer, run one after the other.

    The first one reads what the layer read, the last one writes what it wrote; the channels
    between them are the ranks. Layers without weights may lie between.
    """

    def factors(self) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
        """Return the layers with weights by name, input side first."""
        return [(n, m) for n, m in self.named_children() if isinstance(m, nn.Conv2d | nn.Linear)]


def reader_of(name: str, layer: nn.Module) -> str:
    """Return the name of the layer that reads the input: `name`, or its first factor."""
    return f"{name}.{layer.factors()[0][0]}" if isinstance(layer, Factorized) else name


def writer_of(name: str, layer: nn.Module) -> str:
    """Return the name of the layer that writes the output: `name`, or its last factor."""
    return f"{name}.{layer.factors()[-1][0]}" if isinstance(layer, Factorized) else name


def outputs_of(layer: nn.Conv2d | Factorized) -> int:
    """Return how many channels a convolution writes, split or not."""
    last = layer.factors()[-1][1] if isinstance(layer, Factorized) else layer
    assert isinstance(last, nn.Conv2d)
    return last.out_channels


def rank_groups(name: str, layer: nn.Module) -> list[ChannelGroup]:
    """Return a channel group per rank of a split layer, none for any other layer."""
    if not isinstance(layer, Factorized):
        return []
    factors = [(f"{name}.{child}", module) for child, module in layer.factors()]
    groups = []
    for (writer, module), (reader, _) in zip(factors, factors[1:], strict=False):
        # only the last factor has a bias, so weights are all that runs along a rank
        members = (Member(f"{writer}.weight", 0), Member(f"{reader}.weight", 1))
        groups.append(ChannelGroup(writer, len(module.weight), members, (f"{writer}.weight",)))
    return groups


def why_whole(layer: nn.Module) -> str | None:
    """Return why a module cannot be split, or None where it can."""
    if isinstance(layer, Factorized):
        return "is split already; `prune` lowers its ranks"
    # subclasses compute something of their own with their weights, so the exact type counts
    if type(layer) is nn.Linear:
        return None
    if type(layer) is not nn.Conv2d:
        return f"is a {type(layer).__name__}, neither an ordinary convolution nor a linear layer"
    if layer.groups > 1:
        return f"runs in {layer.groups} groups"
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return "pads in a way that its factors cannot"
    return None


def full_ranks(layer: nn.Conv2d | nn.Linear, method: Method) -> tuple[int, ...]:
    """Return the ranks at which the factors give back every weight of this shape.

    Args:
        layer: that can be split.
        method: how; linear layers know "svd" alone.
    """
    outputs, inputs, (height, width) = shape_of(layer)
    if method == "tucker2":
        area = height * width
        return min(inputs, outputs * area), min(outputs, inputs * area)
    if method == "spatial":
        return (min(inputs * height, outputs * width),)
    return (min(outputs, inputs * height * width),)


def count_weights(layer: nn.Conv2d | nn.Linear, method: Method, ranks: tuple[int, ...]) -> int:
    """Return how many weights the factors hold, without the bias."""
    outputs, inputs, (height, width) = shape_of(layer)
    if method == "tucker2":
        first, second = ranks
        return first * inputs + second * first * height * width + outputs * second
    if method == "spatial":
        return ranks[0] * (inputs * height + outputs * width)
    return ranks[0] * (inputs * height * width + outputs)


def shape_of(layer: nn.Conv2d | nn.Linear) -> _Shape:
    """Return (outputs, inputs, (height, width)) of a weight; a linear layer's kernel is 1x1."""
    outputs, inputs, *kernel = layer.weight.shape
    return outputs, inputs, (kernel[0], kernel[1]) if kernel else (1, 1)


def split_linear(layer: nn.Linear, rank: int, dropout: float | None = None) -> Factorized:
    """Return the factors of a linear layer, all zeros.

    Args:
        layer: gives sizes, bias, device, type, and whether it learns.
        rank: features between "reduce" and "expand".
        dropout: None for nothing between them; otherwise a ReLU and a dropout of this probability.
    """
    factors = Factorized()
    factors.add_module("reduce", nn.Linear(layer.in_features, rank, bias=False, device="meta"))
    if dropout is not None:
        factors.add_module("relu", nn.ReLU())
        factors.add_module("dropout", nn.Dropout(dropout))
    bias = layer.bias is not None
    factors.add_module("expand", nn.Linear(rank, layer.out_features, bias=bias, device="meta"))
    return _like(factors, layer)


def split_conv(layer: nn.Conv2d, method: Method, ranks: tuple[int, ...]) -> Factorized:
    """Return the factors of a convolution, all zeros.

    Stride, padding and dilation go to the factor that holds the kernel; of "spatial" each factor
    takes those of its own direction.

    Args:
        layer: gives sizes, bias, device, type, and whether it learns.
        method: how to split it.
        ranks: channels between the factors.
    """
    factors = Factorized()
    assert not isinstance(layer.padding, str)
    for name, inputs, outputs, axes in _plan(layer, method, ranks):
        factor = nn.Conv2d(
            inputs,
            outputs,
            _along(axes, layer.kernel_size, 1),
            stride=_along(axes, layer.stride, 1),
            padding=_along(axes, layer.padding, 0),
            dilation=_along(axes, layer.dilation, 1),
            bias=layer.bias is not None and name == _LAST[method],
            device="meta",
        )
        factors.add_module(name, factor)
    return _like(factors, layer)


def _along(axes: tuple[int, ...], values: tuple[int, ...], other: int) -> tuple[int, int]:
    """Return (vertical, horizontal): the values along these axes, `other` elsewhere."""
    return values[0] if 0 in axes else other, values[1] if 1 in axes else other


#: which factor writes the output
_LAST = {"svd": "expand", "tucker2": "expand", "spatial": "row"}


def _plan(
    layer: nn.Conv2d, method: Method, ranks: tuple[int, ...]
) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """Yield name, inputs, outputs and the directions of the kernel of each factor."""
    inputs, outputs = layer.in_channels, layer.out_channels
    if method == "tucker2":
        yield "reduce", inputs, ranks[0], ()
        yield "core", ranks[0], ranks[1], (0, 1)
        yield "expand", ranks[1], outputs, ()
    elif method == "spatial":
        yield "column", inputs, ranks[0], (0,)
        yield "row", ranks[0], outputs, (1,)
    else:
        yield "reduce", inputs, ranks[0], (0, 1)
        yield "expand", ranks[0], outputs, ()


def _like(factors: Factorized, layer: nn.Conv2d | nn.Linear) -> Factorized:
    """Return factors of zeros on the device, of the type and in the mode of their layer."""
    # from "meta", so that no random number is drawn for values that are replaced anyway
    weight = layer.weight
    factors = factors.to_empty(device=weight.device).to(weight.dtype)
    for parameter in factors.parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(weight.requires_grad)
    return factors.train(layer.training)

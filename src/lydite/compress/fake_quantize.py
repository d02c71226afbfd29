"""A network that computes in float32 what its exported QDQ file will compute in integers.

Every value that the file rounds is rounded here to the same grid, and the gradient passes through
the rounding as if it were not there (straight-through, Bengio et al. 2013, arXiv 1308.3432), except
where a value was cut off at the end of its range: Jacob et al. 2018 (arXiv 1712.05877), section 3.

Batch norm is folded into the convolution before it with its running statistics, in training too
(the frozen state that Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2, ends in). What is
trained is then at every step what is exported; statistics of the network before rounding stay.

This is our own and not torchao's `prepare_qat_pt2e`, which was tried: it rounds where its
quantizer wants to (before the ReLU as well as after it, the fixed filter too, biases never), while
our files are written by onnxruntime's; its modules refuse `train()` and `eval()`; and it folds
batch norm with the statistics of each batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from lydite.card import FULL_BITS, WeightBits
from lydite.compress.trace import Made, align, drops, module_of, norm_of, program_of
from lydite.errors import ConfigError
from lydite.export.quantized import LARGEST, Ranges
from lydite.export.rounding import Rounding
from lydite.models.contract import Network

UINT8_MAX = 255
#: how far a range moves to a batch's extremes at each step, as in torch.ao's moving averages
RANGE_MOMENTUM = 0.01
#: these move values or choose among them, so what was on the grid of their input stays on it
_KEEPS_GRID = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose"})


@dataclass(frozen=True)
class _Place:
    """Rounding of one activation: the number of the range it uses, and whether it moves it."""

    index: int
    moves: bool


class FakeQuantized(Network):
    """A network under rounding; it holds the very modules of the network it was made from.

    Its weights have the names they have there, so that masks and checkpoints fit. While training,
    the ranges follow the extremes of each batch (exponential moving average) until `observe`
    images have passed, and stay from then on.

    Args:
        network: with running statistics in its batch norms; shared, not copied.
        data: its float32 file.
        rounding: where the QDQ file of `data` rounds.
        ranges: calibrated (low, high) that `rounding` follows from, to begin with.
        observe: images after which the ranges stay as they are.
        weight_bits: how many bits of its weights the QDQ file uses.

    Raises:
        ConfigError: the file cannot be followed operation by operation.
    """

    low: Tensor
    high: Tensor
    images_seen: Tensor

    def __init__(
        self,
        network: Network,
        data: bytes,
        rounding: Rounding,
        ranges: Ranges,
        observe: int = 0,
        weight_bits: WeightBits = FULL_BITS,
    ) -> None:
        super().__init__()
        self.family = network.family
        for name, child in network.named_children():
            self.add_module(name, child)
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.program = program_of(network)
        made = align(self.program, network, data)
        self.calibrated, self.activations = dict(ranges), dict(rounding.activations)
        self.owners = sorted(set(rounding.activations.values()))
        limits = torch.tensor([ranges[name] for name in self.owners]).T.contiguous()
        self.register_buffer("low", limits[0].clone())
        self.register_buffer("high", limits[1].clone())
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.observe, self.largest = observe, LARGEST[weight_bits]
        self.places = self._places(made)
        inputs = {name: self.owners.index(owner) for name, owner in rounding.layers.items()}
        #: layers that multiply integers, and the number of the range of their input
        self.layers = {name: inputs[m.node] for name, m in made.items() if m.node in inputs}

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2) logits for (N, 3, S, S) input."""
        run = _Run(self, observing=self.training and int(self.images_seen) < self.observe)
        logits: Tensor = run.run(x)
        if run.observing:
            self.images_seen += len(x)
        return logits

    def ranges(self) -> Ranges:
        """Return what a card records: the range of every tensor that was calibrated, by name.

        Those that give no scale (an activation that the file merges away) are as calibrated.
        """
        pairs = zip(self.low.tolist(), self.high.tolist(), strict=True)
        learned = dict(zip(self.owners, pairs, strict=True))
        return self.calibrated | {name: learned[by] for name, by in self.activations.items()}

    def _places(self, made: dict[str, Made]) -> dict[str, _Place]:
        """Return which operations' results are rounded, by the operation's name."""
        places: dict[str, _Place] = {}
        found = {entry.tensor: (name, entry) for name, entry in made.items()}
        for tensor, owner in self.activations.items():
            if tensor not in found:
                raise ConfigError(
                    f"`qat` cannot follow the exported file: it rounds {tensor!r}, which no "
                    "operation of the network makes. Use `quantize`, which needs no training."
                )
            name, entry = found[tensor]
            if owner == tensor or entry.operator not in _KEEPS_GRID:
                places[name] = _Place(self.owners.index(owner), owner == tensor)
        return places

    def observe_(self, index: int, values: Tensor) -> None:
        """Move a range towards the extremes of a batch, in place."""
        least, most = values.detach().aminmax()
        self.low[index].lerp_(least, RANGE_MOMENTUM)
        self.high[index].lerp_(most, RANGE_MOMENTUM)


class _Run(fx.Interpreter):
    """One forward pass."""

    def __init__(self, owner: FakeQuantized, *, observing: bool) -> None:
        super().__init__(owner, graph=owner.program)
        self.owner, self.observing = owner, observing
        self.scales, self.zeros = uint8_grid(owner.low, owner.high)

    def run_node(self, n: fx.Node) -> Any:
        """Do one operation, rounded where the file rounds."""
        owner = self.owner
        if norm_of(n, owner) is not None:
            return self.fetch_args_kwargs_from_env(n)[0][0]  # folded into its convolution
        if drops(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self.call_function(n.target, args, kwargs | {"training": owner.training})
        value = self._layer(n) if _is_layer(n, owner) else super().run_node(n)
        place = owner.places.get(n.name)
        if place is None:
            return value
        if place.moves and self.observing:
            owner.observe_(place.index, value)
            low, high = owner.low[place.index], owner.high[place.index]
            self.scales[place.index], self.zeros[place.index] = uint8_grid(low, high)
        return torch.fake_quantize_per_tensor_affine(
            value, self.scales[place.index], self.zeros[place.index], 0, UINT8_MAX
        )

    def _layer(self, n: fx.Node) -> Tensor:
        """Do a convolution or linear layer on its folded and rounded weights."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        module = module_of(n, self.owner)
        if module is None:
            x, weight, bias, kwargs = _arguments(args, kwargs)
        else:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            x, (weight, bias) = args[0], folded(module, _norm_behind(n, self.owner))
        if n.name in self.owner.layers:
            most = self.owner.largest
            scale = int8_scales(weight, most)
            zeros = torch.zeros_like(scale, dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -most, most)
            if bias is not None:
                bias = rounded(bias, scale * self.scales[self.owner.layers[n.name]])
        if isinstance(module, nn.Conv2d):
            return F.conv2d(
                x, weight, bias, module.stride, module.padding, module.dilation, module.groups
            )
        if isinstance(module, nn.Linear):
            return F.linear(x, weight, bias)
        result: Tensor = n.target(x, weight, bias, **kwargs)  # type: ignore[operator]
        return result


def folded(
    layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight and bias with the batch norm behind it folded in.

    Args:
        layer: a convolution or linear layer.
        norm: what follows the convolution; its running statistics are used.
    """
    if norm is None:
        return layer.weight, layer.bias
    assert norm.running_mean is not None, "a norm without statistics"
    assert norm.running_var is not None, "a norm without statistics"
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight
    bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = bias * factor
    weight = layer.weight * factor.view(-1, *[1] * (layer.weight.dim() - 1))
    return weight, bias + norm.bias if norm.affine else bias


def uint8_grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point (int32) of uint8 for ranges (low, high), any shape.

    Zero is on every grid; an empty range gets the scale 1 (as onnxruntime computes them).
    """
    least, most = low.detach().double().clamp(max=0), high.detach().double().clamp(min=0)
    scale = (most - least) / UINT8_MAX
    empty = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(empty, torch.ones_like(scale), scale)
    zero = torch.where(empty, torch.zeros_like(scale), torch.round(-least / scale))
    return scale.float(), zero.to(torch.int32)


def int8_scales(weight: Tensor, largest: int) -> Tensor:
    """Return the symmetric int8 scale of every output channel, (C,).

    Args:
        weight: (C, ...).
        largest: magnitude that the largest weight of a channel becomes.
    """
    most = weight.detach().abs().flatten(1).amax(1).double() / largest
    return torch.where(most < torch.finfo(torch.float32).tiny, torch.ones_like(most), most).float()


def rounded(values: Tensor, scale: Tensor) -> Tensor:
    """Return values on the grid of a scale, with the gradient of the values themselves."""
    return values + (torch.round(values / scale) * scale - values).detach()


def _is_layer(node: fx.Node, network: nn.Module) -> bool:
    """Tell whether an operation has weights that the file may hold as int8."""
    if node.op == "call_function":
        return node.target in (F.conv2d, F.linear)
    return isinstance(module_of(node, network), nn.Conv2d | nn.Linear)


def _norm_behind(node: fx.Node, network: nn.Module) -> nn.BatchNorm2d | None:
    """Return the batch norm that reads a convolution's result, if there is one."""
    return next((norm for user in node.users if (norm := norm_of(user, network))), None)


def _arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    """Return input, weight, bias and the rest of a functional layer's arguments."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    return given.pop("input"), given.pop("weight"), given.pop("bias", None), given

"""A network as a program of operations, each tied to the tensor it makes in the exported file.

`torch.fx` writes down which modules and functions a forward pass calls. The exporter runs them in
the same order, so the n-th operation of a kind here is the n-th of that kind in the file. Wherever
the two do not agree the network is refused: nothing is guessed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lydite.errors import ConfigError
from lydite.export.translate import INPUT_NAME
from lydite.models.contract import Network

#: what a module or function becomes in the file; one of these, or nothing where the tuple is empty
_MODULES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    (nn.Conv2d, ("Conv",)),
    (nn.Linear, ("Gemm", "MatMul")),
    (nn.ReLU, ("Relu",)),
    ((nn.ReLU6, nn.Hardtanh), ("Clip",)),
    (nn.MaxPool2d, ("MaxPool",)),
    (nn.AvgPool2d, ("AveragePool",)),
    (nn.AdaptiveAvgPool2d, ("GlobalAveragePool", "ReduceMean")),
    (nn.Flatten, ("Reshape", "Flatten")),
)
_FUNCTIONS: dict[Callable[..., Any] | str, tuple[str, ...]] = {
    F.conv2d: ("Conv",),
    F.linear: ("Gemm", "MatMul"),
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), ("Relu",)),
    **dict.fromkeys((F.relu6, F.hardtanh, torch.clamp, "clamp"), ("Clip",)),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), ("Add",)),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), ("Sub",)),
    torch.cat: ("Concat",),
    F.max_pool2d: ("MaxPool",),
    F.avg_pool2d: ("AveragePool",),
    F.adaptive_avg_pool2d: ("GlobalAveragePool", "ReduceMean"),
    **dict.fromkeys((torch.mean, "mean"), ("ReduceMean", "GlobalAveragePool")),
    **dict.fromkeys((torch.flatten, "flatten", "view", "reshape"), ("Reshape", "Flatten")),
    **dict.fromkeys((torch.permute, "permute", "transpose"), ("Transpose",)),
    F.pad: ("Pad",),
}
_NORMS = (F.batch_norm, torch.batch_norm)
#: dropout written as a function; what it does depends on an argument, not on a module's mode
_DROPOUTS = (
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
)
#: mark of those that drop in training alone
_DROPS = "drops"
_ALIGNED = frozenset(op for _, ops in _MODULES for op in ops) | frozenset(
    op for ops in _FUNCTIONS.values() for op in ops
)


@dataclass(frozen=True)
class Made:
    """What one operation of the program makes.

    Attributes:
        tensor: name of the tensor in the exported file.
        node: name of the node that makes it there; empty for the input.
        operator: the operator there.
    """

    tensor: str
    node: str = ""
    operator: str = ""


class _Tracer(fx.Tracer):
    """Writes down convolutions, linear layers and the like whole, our own subclasses too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is one operation."""
        leaf = isinstance(m, nn.Conv2d | nn.Linear | _BatchNorm)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def program_of(network: Network) -> fx.Graph:
    """Return a network's forward pass as a list of operations, the same in training and after.

    Of dropout written as a function `drops` tells whether it follows the network's mode.

    Raises:
        ConfigError: its way depends on its values or its mode, or a batch norm follows no
            convolution.
    """
    try:
        graph, training = _traced(network, training=False), _traced(network, training=True)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Networks of {network.family} of this kind cannot be trained with rounding: their "
            f"forward pass cannot be written down ({error}). Use `quantize` instead of `qat`."
        ) from error
    _mark_dropouts_(graph, training, network)
    for node in graph.nodes:
        module = module_of(node, network)
        if (isinstance(module, _BatchNorm) or node.target in _NORMS) and not _folds(node, network):
            raise ConfigError(
                f"The batch norm '{node.target}' cannot be folded into a convolution of its own "
                "right before it, as `qat` has to. Use `quantize` instead of `qat`."
            )
    return graph


def align(graph: fx.Graph, network: Network, data: bytes) -> dict[str, Made]:
    """Return what the operations of a program make in the exported file.

    Args:
        graph: of `program_of`.
        network: the same.
        data: float32 file of `to_onnx`.

    Returns:
        By the name of the operation; operations that leave no trace in the file are missing.

    Raises:
        ConfigError: the file holds other operations, or in another order.
    """
    nodes = [node for node in onnx.load_from_string(data).graph.node if node.op_type in _ALIGNED]
    wanted = [(node, ops) for node in graph.nodes if (ops := _operators(node, network))]
    agree = len(nodes) == len(wanted) and all(
        node.op_type in ops for node, (_, ops) in zip(nodes, wanted, strict=True)
    )
    if not agree:
        theirs = next(
            (
                f"{node.op_type} where the network has {'/'.join(ops)}"
                for node, (_, ops) in zip(nodes, wanted, strict=False)
                if node.op_type not in ops
            ),
            f"{len(nodes)} operations where the network has {len(wanted)}",
        )
        raise ConfigError(
            f"`qat` cannot follow this network of {network.family} into its exported file: that "
            f"has {theirs}. Use `quantize`, which needs no training."
        )
    made = {
        ours.name: Made(theirs.output[0], theirs.name, theirs.op_type)
        for theirs, (ours, _) in zip(nodes, wanted, strict=True)
    }
    start = next(node for node in graph.nodes if node.op == "placeholder")
    return made | {start.name: Made(INPUT_NAME)}


def drops(node: fx.Node) -> bool:
    """Tell whether an operation of a program is a function that drops values in training."""
    return bool(node.meta.get(_DROPS))


def module_of(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """Return the module that an operation calls, if it is a module."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def norm_of(node: fx.Node, network: nn.Module) -> nn.BatchNorm2d | None:
    """Return the batch norm that an operation is, if it is one and does nothing else."""
    module = module_of(node, network)
    return module if type(module) is nn.BatchNorm2d else None


def _traced(network: Network, *, training: bool) -> fx.Graph:
    """Return the forward pass of one mode; the network is left in its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        return _Tracer().trace(network)
    finally:
        for module, mode in modes:
            module.training = mode


def _mark_dropouts_(graph: fx.Graph, training: fx.Graph, network: Network) -> None:
    """Mark the dropouts that follow the mode, and refuse whatever else depends on it."""
    here, there = list(graph.nodes), list(training.nodes)
    for node, other in itertools.zip_longest(here, there):
        if node is None or other is None or _call(node) != _call(other):
            where = (node if other is None else other).name
            raise ConfigError(
                f"The forward pass of this network of {network.family} is another one in training "
                f"(at '{where}'), which `qat` cannot follow: dropout of whole layers does that. "
                "Set it to 0, or use `quantize` instead of `qat`."
            )
        if node.target in _DROPOUTS and node.kwargs != other.kwargs:
            node.meta[_DROPS] = True


def _call(node: fx.Node) -> tuple[str, ...]:
    """Return what an operation does, but for whether a dropout drops."""
    kwargs = dict(node.kwargs)
    if node.target in _DROPOUTS:
        kwargs.pop("training", None)
    return node.op, node.name, str(node.target), str(node.args), str(kwargs)


def _folds(node: fx.Node, network: Network) -> bool:
    """Tell whether an operation is a plain batch norm, alone behind a convolution."""
    norm, source = norm_of(node, network), node.args[0]
    return (
        norm is not None
        and norm.running_mean is not None
        and isinstance(source, fx.Node)
        and len(source.users) == 1
        and isinstance(module_of(source, network), nn.Conv2d)
    )


def _operators(node: fx.Node, network: Network) -> tuple[str, ...]:
    """Return which operators an operation may become in the file."""
    if node.op == "call_module":
        module = module_of(node, network)
        return next((ops for kind, ops in _MODULES if isinstance(module, kind)), ())
    if node.op in ("call_function", "call_method"):
        return _FUNCTIONS.get(node.target, ())
    return ()

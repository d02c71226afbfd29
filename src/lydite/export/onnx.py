"""Export to ONNX: one self-contained file whose bytes depend on the detector alone.

The exporter of torch folds batch norm into the convolutions before it. What it adds for its own
debugging (source lines, paths, internal names) is taken out again, and every tensor inside the
graph gets a name from its place in it, because quantization ranges are recorded by tensor name.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lydite import __version__
from lydite.errors import MissingExtraError
from lydite.export.translate import INPUT_NAME, OUTPUT_NAME, translate
from lydite.models.contract import ADAPTERS_NAME

try:
    import onnx
except ImportError as error:
    raise MissingExtraError("train", "onnx") from error

if TYPE_CHECKING:
    from torch import nn

    from lydite.detector import Detector

#: how the names of tensors begin that are in the file but not among the network's weights
CONSTANT = "constant_"


def export(detector: Detector) -> bytes:
    """Return the ONNX file of a detector, with the integer arithmetic that its card asks for.

    No data is needed: what quantization has to know of the data stands in the card.

    Args:
        detector: any detector; stays as it is.

    Raises:
        CardError: the card's quantization ranges do not belong to this network.

    >>> data = export(detector)  # doctest: +SKIP
    """
    from lydite.export.quantized import apply_quantization

    data = to_onnx(detector.network, detector.card.architecture.input_size)
    quantization = detector.card.quantization
    return data if quantization is None else apply_quantization(data, quantization)


def to_onnx(network: nn.Module, size: int) -> bytes:
    """Return a network as a float32 ONNX file that takes any batch.

    Args:
        network: takes (N, 3, S, S) and returns (N, 2); exported in evaluation mode, and left as
            it was.
        size: S, in pixels.

    Returns:
        Bytes of the model: input "image" (batch, 3, S, S), output "logits" (batch, 2). Equal
        weights give equal bytes.
    """
    with evaluating(network), quiet():
        model = translate(network, torch.zeros(2, 3, size, size))
    scopes = [_adapter_of(node) for node in model.graph.node]
    _strip_(model)
    _rename_(model.graph, set(network.state_dict()), scopes)
    onnx.checker.check_model(model, full_check=True)
    return serialize(model)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model, with our name as its producer and only the opsets it uses."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(sorted(kept, key=lambda entry: entry.domain))
    model.producer_name, model.producer_version = "lydite", __version__
    return bytes(model.SerializeToString(deterministic=True))


def _strip_(model: onnx.ModelProto) -> None:
    """Remove notes for debugging, among them file paths of the machine that exported."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    graph.name = "detector"
    items: list[Any] = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]
    # shapes inside are inferred anew by whoever needs them
    del graph.value_info[:]


def _rename_(graph: onnx.GraphProto, weights: set[str], scopes: list[str]) -> None:
    """Name nodes and inner tensors by operator and position; weights keep their own names.

    Each adapter counts for itself: all else is called as it is without adapters, so that ranges
    which were measured before still fit.
    """
    names = {INPUT_NAME: INPUT_NAME, OUTPUT_NAME: OUTPUT_NAME, "": ""}
    nodes = list(zip(graph.node, scopes, strict=True))
    # of a constant's readers one outside of the adapters decides, if there is any
    inside_first = sorted(nodes, key=lambda item: item[1], reverse=True)
    readers = {name: scope for node, scope in inside_first for name in node.input}
    seen: Counter[str] = Counter()
    for tensor in graph.initializer:
        if tensor.name not in weights:
            prefix = f"{CONSTANT}{readers.get(tensor.name, '')}"
            names[tensor.name] = f"{prefix}{seen[prefix]}"
            seen[prefix] += 1
    for node, scope in nodes:
        kind = f"{scope}{node.op_type.lower()}"
        node.name = f"{kind}_{seen[kind]}"
        seen[kind] += 1
        for index, output in enumerate(node.output):
            names.setdefault(output, node.name if index == 0 else f"{node.name}_{index}")
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _adapter_of(node: onnx.NodeProto) -> str:
    """Return "adapters.body_1." for a node of that adapter; empty outside of adapters."""
    for entry in node.metadata_props:
        # the names of the modules around the node, as a list in Python's spelling
        if entry.key == "pkg.torch.onnx.name_scopes":
            found = re.search(rf"'({ADAPTERS_NAME}\.\w+)'", entry.value)
            return f"{found[1]}." if found else ""
    return ""


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every module back into its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter: its notes are about itself and say nothing about the detector."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""From a network in torch to ONNX, without translating the same structure twice.

Most of the time that torch's exporter takes for a small network goes into finding ONNX operations
for its graph, which depend on the graph alone. Studies export many networks that differ in nothing
but their weights (seeds, folds, what was pruned to the same widths, a detector and its quantized
copy), so graphs once translated are remembered for as long as the process lives, without weights.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from lydite.errors import MissingExtraError

try:
    import onnx
    from onnx import numpy_helper
    from onnxscript import ir
except ImportError as error:
    raise MissingExtraError("train", error.name or "onnx") from error

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

#: version of the standard operators; onnxruntime 1.22 and onnxruntime-web both run it
OPSET = 18
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
#: so many structures are remembered, those used last
REMEMBERED = 64

#: structure to its graph, whose weights have shapes and no values
_graphs: OrderedDict[str, bytes] = OrderedDict()


def translate(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Return a network as an ONNX model, batch norms folded into the convolutions before them.

    Args:
        network: in evaluation mode.
        example: its input, (2, ...); the first dimension stays open.
    """
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        try:
            program = torch.export.export(
                network,
                (example,),
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,  # as the exporter does
            )
            structure = structure_of(program)
        except Exception:  # the exporter has further ways to capture a network
            return _exporter(network, (example,), dynamic_shapes=shapes).model_proto
        if structure not in _graphs:
            plain = _exporter(program, (), dynamic_shapes=shapes, optimize=False).model_proto
            _graphs[structure] = _without_weights(plain, program.state_dict)
        _graphs.move_to_end(structure)
        while len(_graphs) > REMEMBERED:
            _graphs.popitem(last=False)
        model = _with_weights(_graphs[structure], program.state_dict)
        finished = torch.onnx.ONNXProgram(ir.from_proto(model), program)
        finished.optimize()
        return finished.model_proto


def structure_of(program: ExportedProgram) -> str:
    """Return a digest of all that decides about the translation of a captured network.

    Those are its operations and their arguments, shapes and types, where in the network they stand,
    and the values of its constants; not its weights, nor its running statistics.
    """
    digest = hashlib.sha256(str(program).encode())
    for node in program.graph.nodes:
        around = node.meta.get("nn_module_stack") or {}
        digest.update(repr((node.name, [str(module) for module in around.values()])).encode())
    for name, value in sorted(program.constants.items()):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"a constant that is no tensor: {name}")
        array = value.detach().cpu().contiguous().numpy()
        digest.update(repr((name, array.dtype, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _exporter(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], **more: Any
) -> torch.onnx.ONNXProgram:
    """Return what torch's exporter makes of a network."""
    program = torch.onnx.export(
        model,
        args,
        dynamo=True,
        external_data=False,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        opset_version=OPSET,
        verbose=False,
        **more,
    )
    assert program is not None
    return program


def _without_weights(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> bytes:
    """Return the bytes of a model whose weights have no values; it is changed in place."""
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
    return bytes(model.SerializeToString())


def _with_weights(graph: bytes, weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """Return a model with the values of a network's weights, found by their names."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(graph)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            value = weights[tensor.name].detach().cpu().contiguous().numpy()
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model

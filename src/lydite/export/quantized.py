"""Integer arithmetic in an exported file, rebuilt from what the card says and from nothing else.

Two schemes compute in integers. "linear-int8" is the paper's CQ (arXiv 2504.21066): the weights of
linear layers become int8, their inputs are quantized while the file runs. "static-int8" covers
convolutions too: activations are uint8 with ranges measured beforehand, weights int8 with a scale
per channel, in
the QDQ form of Jacob et al. 2018 (arXiv 1712.05877) that every runtime understands. The schemes
that only store weights in fewer bits are in `weights_only`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from lydite.card import FULL_BITS, Quantization, WeightBits
from lydite.errors import CardError
from lydite.export.onnx import CONSTANT, quiet, serialize
from lydite.export.weights_only import INT8_MAX, store_weights
from lydite.models.contract import ADAPTERS_NAME
from lydite.session import NARROW

#: what "static-int8" may run in integers; other operators stay float between DQ and Q
STATIC_OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose"),
)
LINEAR_OPS = ("Gemm", "MatMul")
LAYER_OPS = ("Conv", *LINEAR_OPS)

#: largest magnitude of a weight of "static-int8", by how many bits it uses
LARGEST: dict[WeightBits, int] = {8: INT8_MAX, 7: 64}

FLOAT32_MAX = float(np.finfo(np.float32).max)

Ranges = dict[str, tuple[float, float]]


def apply_quantization(data: bytes, quantization: Quantization) -> bytes:
    """Return a float32 ONNX file in the form that a card's quantization describes.

    Raises:
        CardError: the ranges do not belong to this graph, or a weight is too large for float16.
    """
    if quantization.scheme == "linear-int8":
        return quantize_linear(data)
    if quantization.scheme == "static-int8":
        return quantize_static(data, quantization.ranges, quantization.weight_bits)
    return store_weights(data, quantization.scheme)


def quantize_linear(data: bytes) -> bytes:
    """Return the file with its linear layers in int8, their inputs quantized at run time.

    Convolutions stay float32. A file without linear layers comes back as it is.
    """
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    model = onnx.load_from_string(data)
    if not any(node.op_type in LINEAR_OPS for node in model.graph.node):
        return data
    with quiet():
        quantizer = ONNXQuantizer(
            _with_shapes(model),
            per_channel=False,
            reduce_range=False,
            mode=QuantizationMode.IntegerOps,
            static=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=None,
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=list(LINEAR_OPS),
            extra_options={"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    return _finish(quantizer.model.model, {})


def quantize_static(data: bytes, ranges: Ranges, weight_bits: WeightBits = FULL_BITS) -> bytes:
    """Return the file with every layer in integers whose inputs and outputs have a range.

    The logits themselves stay float32: 256 steps would tie scores that differ.

    Args:
        data: float32 file of `to_onnx`.
        ranges: calibrated (low, high) of inner tensors, by name; see `ranged_tensors`.
        weight_bits: 7 scales weights to -64..64, see `lydite.card.Quantization`; the file then
            says so in its metadata, which sessions look for.

    Raises:
        CardError: a range names no tensor of this graph, is empty, or no layer is covered.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType, TensorData, TensorsData
    from onnxruntime.quantization.calibrate import CalibrationMethod

    model = _with_shapes(onnx.load_from_string(data))
    nodes = _covered_nodes(model, ranges)
    limits = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    with quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=weight_bits != FULL_BITS,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=list(STATIC_OPS),
            extra_options={},
        )
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result = quantizer.model.model
    _free_outputs_(result.graph)
    return _finish(result, {} if weight_bits == FULL_BITS else {NARROW: str(weight_bits)})


def ranged_tensors(data: bytes, *, float_input: bool = True) -> list[str]:
    """Return the names of the tensors that "static-int8" needs a range for, in graph order.

    Args:
        data: float32 file of `to_onnx`.
        float_input: the first learned layer, and all that comes before it, stays float32. A fixed
            filter is no learned layer.
    """
    model = _with_shapes(onnx.load_from_string(data))
    floats = _float_tensors(model)
    found: dict[str, None] = {}
    passed = not float_input
    for node in model.graph.node:
        if passed and node.op_type in STATIC_OPS:
            found |= dict.fromkeys(name for name in _touched(node) if name in floats)
        learned = any(not name.startswith(CONSTANT) for name in node.input[1:2])
        passed = passed or (node.op_type in LAYER_OPS and learned)
    return list(found)


def handed_on(data: bytes, ranges: Ranges) -> list[str]:
    """Return the names of adapters' outputs that need a range for what follows to stay integer.

    The insides of adapters need none: they compute in float32 between two roundings.

    Args:
        data: float32 file of `to_onnx`, with adapters.
        ranges: those of the same network without the adapters.
    """
    model = _with_shapes(onnx.load_from_string(data))
    floats = _float_tensors(model)
    inner = f"{ADAPTERS_NAME}."
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in STATIC_OPS and not node.name.startswith(inner):
            unknown = [name for name in _touched(node) if name in floats and name not in ranges]
            if all(name.startswith(inner) for name in unknown):
                found |= dict.fromkeys(unknown)
    return list(found)


def _covered_nodes(model: onnx.ModelProto, ranges: Ranges) -> list[str]:
    """Return the names of the nodes whose every float activation has a range.

    Raises:
        CardError: see `quantize_static`.
    """
    floats = _float_tensors(model)
    for name, (low, high) in ranges.items():
        if name not in floats:
            raise CardError(
                f"The card's quantization gives a range for {name!r}, which is no tensor of this "
                "network. The ranges belong to another network: run `quantize` on this one."
            )
        if not low <= high or max(abs(low), abs(high)) > FLOAT32_MAX:
            raise CardError(
                f"The card's quantization range of {name!r} must be (low, high) in float32 with "
                f"low <= high. Got ({low:g}, {high:g}). Run `quantize` again."
            )
    covered = [
        node
        for node in model.graph.node
        if node.op_type in STATIC_OPS
        and all(name in ranges for name in _touched(node) if name in floats)
    ]
    unused = ranges.keys() - {name for node in covered for name in _touched(node)}
    if unused or not any(node.op_type in LAYER_OPS for node in covered):
        what = f"{sorted(unused)[0]!r} stands alone" if unused else "they cover no layer"
        raise CardError(
            f"The card's {len(ranges)} quantization ranges do not fit this network: {what}. "
            "Run `quantize` on it again."
        )
    return [node.name for node in covered]


def _touched(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node reads or writes."""
    yield from node.input
    yield from node.output


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 tensors that are computed, or come in, at run time."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    values = (*graph.value_info, *graph.input, *graph.output)
    return {
        value.name
        for value in values
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in weights
    }


def _free_outputs_(graph: onnx.GraphProto) -> None:
    """Take the last rounding off the graph's outputs, where one was put there."""
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = makers[output.name]
        if dequantize.op_type != "DequantizeLinear":
            continue
        quantize = makers[dequantize.input[0]]
        source = quantize.input[0]
        for node in graph.node:
            node.input[:] = [output.name if name == source else name for name in node.input]
            node.output[:] = [output.name if name == source else name for name in node.output]
        graph.node.remove(dequantize)
        graph.node.remove(quantize)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that carries the shape of every inner tensor.

    The mark in its metadata tells onnxruntime so; without it the model would go through a
    temporary file to find the shapes once more.
    """
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    entry = inferred.metadata_props.add()
    entry.key, entry.value = "onnx.infer", "onnxruntime.quant"
    return inferred


def _finish(model: Any, notes: dict[str, str]) -> bytes:
    """Return the bytes of a quantized model, checked and without any other notes."""
    onnx.helper.set_model_props(model, notes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return serialize(model)

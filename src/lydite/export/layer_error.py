"""What quantization costs, layer by layer: the float file and the quantized one on equal tiles.

A layer's output is compared as its readers see it: after rounding to uint8, and after the
activation that the quantizer merged into the layer. Errors add up on the way through the network,
so a layer's number holds those of the layers before it too; its weight error is its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lydite.card import Quantization
from lydite.export.inspection import inspect_quantized, integer_kernels
from lydite.export.onnx import CONSTANT
from lydite.export.quantized import LAYER_OPS, ranged_tensors
from lydite.export.translate import INPUT_NAME

Float32 = NDArray[np.float32]

#: tiles that run at once
CHUNK = 16


@dataclass(frozen=True)
class LayerError:
    """One convolution or linear layer of both files.

    Attributes:
        name: of its node in the float file.
        operator: as in the float file.
        weight: name of its weight.
        integer: it multiplies integers in the quantized file.
        reason: why it does not; empty where it does.
        sqnr_db: signal-to-quantization-noise ratio of its output,
            10 log10(sum x^2 / sum (x - q)^2); None where there is no noise, or no signal.
        relative_error: mean |x - q| over mean |x| of its output.
        weight_error: ||w - q|| / ||w|| of its weight; None where that is no stored tensor.
    """

    name: str
    operator: str
    weight: str
    integer: bool
    reason: str
    sqnr_db: float | None
    relative_error: float
    weight_error: float | None


@dataclass(frozen=True)
class LayerReport:
    """All layers, input side first.

    Attributes:
        layers: one entry a layer.
        n: tiles that both files ran on.
        kernels: layers that the installed onnxruntime runs in integer kernels.
    """

    layers: tuple[LayerError, ...]
    n: int
    kernels: int

    @property
    def verdict(self) -> str:
        """Say whether the file is really integer, and which layers are not, and why."""
        count = sum(layer.integer for layer in self.layers)
        text = (
            f"{count} of {len(self.layers)} layers multiply integers in the file, and onnxruntime "
            f"runs {self.kernels} in integer kernels."
        )
        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if not layer.integer:
                reasons.setdefault(layer.reason, []).append(layer.name)
        floats = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        return f"{text} Float: {floats}." if floats else text

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


def layer_errors(
    float_data: bytes, quantized_data: bytes, quantization: Quantization, batch: Float32
) -> LayerReport:
    """Run both files on the same tiles and compare them layer by layer.

    Args:
        float_data: float32 file of `to_onnx`.
        quantized_data: what `apply_quantization` made of it.
        quantization: of the card; says why a layer stayed float.
        batch: preprocessed tiles, (N, 3, S, S), N at least 1.
    """
    plain, small = onnx.load_from_string(float_data), onnx.load_from_string(quantized_data)
    layers = [node for node in plain.graph.node if node.op_type in LAYER_OPS]
    pairs = [_counterparts(node.output[0], plain.graph, small.graph) for node in layers]
    noise = _compare(plain, small, pairs, batch)
    integer = _integer_names(quantized_data)
    reasons = _reasons(float_data, plain.graph, quantization)
    weights = _weight_errors(plain.graph, small.graph)
    found = []
    for node, sums in zip(layers, noise, strict=True):
        whole = any(name == node.name or name.startswith(f"{node.name}_") for name in integer)
        found.append(
            LayerError(
                name=node.name,
                operator=node.op_type,
                weight=node.input[1],
                integer=whole,
                reason="" if whole else reasons[node.name],
                sqnr_db=sqnr_db(sums[0], sums[1]),
                relative_error=float(sums[3] / sums[2]) if sums[2] else 0.0,
                weight_error=weights.get(node.input[1]),
            )
        )
    return LayerReport(tuple(found), len(batch), integer_kernels(quantized_data))


def sqnr_db(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise), or None where one of the energies is zero.

    >>> sqnr_db(100.0, 1.0)
    20.0
    """
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _counterparts(output: str, plain: onnx.GraphProto, small: onnx.GraphProto) -> tuple[str, str]:
    """Return the names of a layer's output in the float and in the quantized file."""
    made = {name for node in small.node for name in node.output}
    if output not in made:
        # an activation was merged into the layer, which now makes the activation's output
        output = next(node.output[0] for node in plain.node if output in node.input)
    readers = {
        node.input[0]: node.output[0]
        for node in small.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    rounded = readers.get(output)
    return output, output if rounded is None else readers[rounded]


def _compare(
    plain: onnx.ModelProto, small: onnx.ModelProto, pairs: list[tuple[str, str]], batch: Float32
) -> NDArray[np.float64]:
    """Return for each pair the sums of x^2, (x - q)^2, |x| and |x - q|, (layers, 4)."""
    sums = np.zeros((len(pairs), 4))
    run_plain = _exposed(plain, [name for name, _ in pairs])
    run_small = _exposed(small, [name for _, name in pairs])
    for first in range(0, len(batch), CHUNK):
        part = batch[first : first + CHUNK]
        for row, (x, q) in enumerate(zip(run_plain(part), run_small(part), strict=True)):
            signal = x.astype(np.float64)
            error = signal - q
            sums[row] += (
                *((signal**2).sum(), (error**2).sum()),
                *(np.abs(signal).sum(), np.abs(error).sum()),
            )
    return sums


def _exposed(model: onnx.ModelProto, names: list[str]) -> Any:
    """Return a function that runs a file and gives these inner tensors."""
    import onnxruntime

    from lydite.session import session_options

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {output.name for output in copy.graph.output}
    for name in dict.fromkeys(names):
        if name not in outputs:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    data = copy.SerializeToString()
    session = onnxruntime.InferenceSession(
        data, session_options(data), providers=["CPUExecutionProvider"]
    )
    return lambda part: session.run(names, {INPUT_NAME: part})


def _integer_names(data: bytes) -> list[str]:
    """Return the names of the nodes that multiply integers."""
    return [layer.name for layer in inspect_quantized(data).layers if layer.integer]


def _reasons(data: bytes, graph: onnx.GraphProto, quantization: Quantization) -> dict[str, str]:
    """Return for every layer why it would be float."""
    scheme, learned_before = quantization.scheme, False
    ranged = set(ranged_tensors(data, float_input=False))
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in LAYER_OPS:
            continue
        fixed = node.input[1].startswith(CONSTANT)
        touched = [name for name in (node.input[0], node.output[0]) if name in ranged]
        missing = [name for name in touched if name not in quantization.ranges]
        if scheme in ("weight-int8", "float16", "bfloat16"):
            why = f"{scheme} stores small weights and computes in float32"
        elif scheme == "linear-int8":
            why = "linear-int8 covers linear layers alone"
        elif missing and fixed and not learned_before:
            why = "a fixed filter in front of what is learned"
        elif missing and not learned_before:
            why = "the first learned layer, kept float by `float_input`"
        elif missing:
            why = f"no range for {missing[0]}"
        else:
            why = "an operator before it has no integer form"
        learned_before = learned_before or not fixed
        found[node.name] = why
    return found


def _weight_errors(plain: onnx.GraphProto, small: onnx.GraphProto) -> dict[str, float]:
    """Return the relative error of every layer's stored weight, by its name in the float file."""
    found: dict[str, float] = {}
    stored = dict(_stored_weights(small))
    for tensor in plain.initializer:
        if tensor.name in stored and tensor.data_type == onnx.TensorProto.FLOAT:
            weight = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            rounded = stored[tensor.name]
            rounded = rounded if rounded.shape == weight.shape else rounded.T
            norm = float(np.linalg.norm(weight))
            found[tensor.name] = float(np.linalg.norm(weight - rounded)) / norm if norm else 0.0
    return found


def _stored_weights(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the values of a file's tensors under the names that they have in the float file."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    axes = {
        node.input[0]: entry.i
        for node in graph.node
        for entry in node.attribute
        if node.op_type == "DequantizeLinear" and entry.name == "axis"
    }
    for name, array in arrays.items():
        values = array.astype(np.float64)
        if name.endswith("_half"):
            yield name.removesuffix("_half"), values
        elif name.endswith("_quantized"):
            whole = name.removesuffix("_quantized")
            scale = arrays.get(f"{whole}_scale")
            if scale is None:
                continue  # a bias
            along = [-1 if i == axes.get(name, 0) else 1 for i in range(values.ndim)]
            scale = scale.astype(np.float64)
            zero = arrays.get(f"{whole}_zero_point", np.zeros((), np.int8)).astype(np.float64)
            if scale.ndim:
                scale, zero = scale.reshape(along), zero.reshape(along) if zero.ndim else zero
            yield whole.removesuffix("_Transposed"), (values - zero) * scale
        else:
            yield name, values

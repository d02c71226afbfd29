"""Smaller weights, float arithmetic: what a file stores is rounded, what it computes is not.

"weight-int8" keeps the weights of convolutions and linear layers as int8 with a scale per output
channel and a DequantizeLinear behind them (the weight half of Jacob et al. 2018, arXiv 1712.05877;
per channel as in Krishnamoorthi 2018, arXiv 1806.08342, section 3.1). "float16" and "bfloat16"
keep weights and biases in half precision with a Cast behind them. Activations are float32 in all
three, so nothing is calibrated, and no runtime needs integer kernels. Only operators of the ONNX
standard are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from lydite.errors import CardError, ConfigError
from lydite.export.onnx import CONSTANT, serialize
from lydite.export.translate import OPSET

WeightScheme = Literal["weight-int8", "float16", "bfloat16"]
HALF_TYPES = {
    "float16": (onnx.TensorProto.FLOAT16, torch.float16),
    "bfloat16": (onnx.TensorProto.BFLOAT16, torch.bfloat16),
}
#: largest magnitude of a symmetric int8 weight; -128 is not used
INT8_MAX = 127
_LAYER_OPS = ("Conv", "Gemm", "MatMul")

#: gives, for a stored tensor, what replaces it and the node that turns that into float32 again
_Store = Callable[[onnx.TensorProto, int], tuple[list[onnx.TensorProto], onnx.NodeProto]]


def store_weights(data: bytes, scheme: WeightScheme) -> bytes:
    """Return a float32 file whose learned weights are stored in fewer bits.

    A fixed filter in front of the learned layers stays as it is.

    Args:
        data: float32 file of `to_onnx`.
        scheme: "weight-int8", "float16" or "bfloat16".

    Raises:
        CardError: a weight is too large for float16.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    store: _Store = _as_int8 if scheme == "weight-int8" else _as_half(scheme)
    readers: list[onnx.NodeProto] = []
    for name, axis in _learned(graph, tensors, biases=scheme != "weight-int8").items():
        replacements, reader = store(tensors[name], axis)
        graph.initializer.remove(tensors[name])
        graph.initializer.extend(replacements)
        readers.append(reader)
    nodes = [*readers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return serialize(model)


def channel_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return the symmetric int8 scale of every channel, (C,): its largest magnitude over 127.

    Args:
        weight: any shape.
        axis: along which the C channels lie. A channel of zeros gets the scale 1.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales: NDArray[np.float64] = np.abs(weight).max(axis=others).astype(np.float64) / INT8_MAX
    # A scale in float32's denormal range would flush to zero in some runtimes.
    return np.where(scales < np.finfo(np.float32).tiny, 1.0, scales).astype(np.float32)


def require_bfloat16() -> None:
    """Check that the installed onnxruntime reads bfloat16 weights on a CPU.

    Raises:
        ConfigError: it does not.
    """
    import onnxruntime

    value = onnx.helper.make_tensor("stored", onnx.TensorProto.BFLOAT16, [1], [1.5])
    cast = onnx.helper.make_node("Cast", ["stored"], ["weight"], to=onnx.TensorProto.FLOAT)
    add = onnx.helper.make_node("Add", ["x", "weight"], ["y"])
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph([cast, add], "probe", ends[:1], ends[1:], [value])
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    cause: Exception | None = None
    answer = float("nan")
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        answer = float(session.run(None, {"x": np.ones(1, np.float32)})[0][0])
    except Exception as error:
        # onnxruntime raises a dozen classes of its own, all without a common base
        cause = error
    if answer != 2.5:
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} does not read bfloat16 weights on this CPU. "
            "Use the scheme float16, which is as small."
        ) from cause


def _learned(
    graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto], *, biases: bool
) -> dict[str, int]:
    """Return the float32 weights (and biases) of learned layers, with their channels' axis."""
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in _LAYER_OPS or node.input[1].startswith(CONSTANT):
            continue
        for name in node.input[1 : 3 if biases else 2]:
            tensor = tensors.get(name)
            if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT:
                found[name] = channel_axis(node)
    return found


def channel_axis(node: onnx.NodeProto) -> int:
    """Return along which axis of a layer's weight its outputs lie."""
    if node.op_type == "Conv":
        return 0
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1


def _as_int8(tensor: onnx.TensorProto, axis: int) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """Store a weight as int8 with a scale per channel."""
    weight = onnx.numpy_helper.to_array(tensor)
    scales = channel_scales(weight, axis)
    along = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    rounded = np.clip(np.rint(weight / along), -INT8_MAX, INT8_MAX).astype(np.int8)
    stored, scale = f"{tensor.name}_quantized", f"{tensor.name}_scale"
    node = onnx.helper.make_node(
        "DequantizeLinear",
        [stored, scale],
        [tensor.name],
        name=f"{tensor.name}_DequantizeLinear",
        axis=axis,
    )
    replacements = [
        onnx.numpy_helper.from_array(rounded, stored),
        onnx.numpy_helper.from_array(scales, scale),
    ]
    return replacements, node


def _as_half(scheme: str) -> _Store:
    """Return what stores a tensor in half precision."""
    onnx_type, torch_type = HALF_TYPES[scheme]

    def store(
        tensor: onnx.TensorProto, _axis: int
    ) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
        values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        half = values.to(torch_type)
        if bool(half.isinf().any()):
            raise CardError(
                f"{tensor.name} holds a weight of magnitude {float(values.abs().max()):g}, but "
                f"{scheme} ends at {torch.finfo(torch_type).max:g}. Use the scheme bfloat16."
            )
        stored = onnx.helper.make_tensor(
            f"{tensor.name}_half",
            onnx_type,
            tensor.dims,
            half.contiguous().view(torch.uint8).numpy().tobytes(),
            raw=True,
        )
        node = onnx.helper.make_node(
            "Cast",
            [stored.name],
            [tensor.name],
            name=f"{tensor.name}_Cast",
            to=onnx.TensorProto.FLOAT,
        )
        return [stored], node

    return store

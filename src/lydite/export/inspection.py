"""What an exported file is made of: which layers run in integers, and where the bytes go."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

_INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"})
_FLOAT_OPS = frozenset({"Conv", "Gemm", "MatMul"})
#: what onnxruntime makes of integer layers when it opens a file
_FUSED_OPS = _INTEGER_OPS | {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer of an exported file.

    Attributes:
        name: of its node.
        operator: as in the file.
        integer: it multiplies integers: an integer operator, or one whose input and weight both
            come out of DequantizeLinear, which runtimes fuse into an integer operator.
    """

    name: str
    operator: str
    integer: bool


@dataclass(frozen=True)
class Inspection:
    """Layers and bytes of an exported file.

    Attributes:
        layers: convolutions and linear layers, in graph order.
        weight_bytes: bytes of the stored tensors by their type ("float32", "int8", ...).
        size_bytes: of the whole file.
    """

    layers: tuple[Layer, ...]
    weight_bytes: dict[str, int]
    size_bytes: int

    @property
    def integer_layers(self) -> int:
        """How many layers run in integers."""
        return sum(layer.integer for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return asdict(self) | {"integer_layers": self.integer_layers}


def inspect_quantized(data: bytes) -> Inspection:
    """Return what an ONNX file is made of; a float32 file simply has no integer layers.

    Args:
        data: the file.
    """
    graph = onnx.load_from_string(data).graph
    dequantized = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    layers = tuple(
        Layer(
            node.name,
            node.op_type,
            node.op_type in _INTEGER_OPS or dequantized.issuperset(node.input[:2]),
        )
        for node in graph.node
        if node.op_type in _INTEGER_OPS | _FLOAT_OPS
    )
    sizes: Counter[str] = Counter()
    for tensor in graph.initializer:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        name, width = dtype.name, dtype.itemsize
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            name, width = "bfloat16", 2  # numpy itself has no such type
        sizes[name] += int(np.prod(tensor.dims, dtype=np.int64)) * width
    return Inspection(layers, dict(sorted(sizes.items())), len(data))


def integer_kernels(data: bytes) -> int:
    """Return how many layers the installed onnxruntime really runs in integer kernels.

    A file only says that a layer could be: the runtime decides when it opens the file. This asks
    for what it decided.

    Args:
        data: the file.
    """
    import onnxruntime

    from lydite.session import session_options

    with tempfile.TemporaryDirectory(prefix="lydite-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options(data)
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path).graph.node
    return sum(node.op_type in _FUSED_OPS for node in nodes)

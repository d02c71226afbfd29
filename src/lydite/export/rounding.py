"""Where an exported QDQ file rounds: read back from the file, so that training can do the same.

Which activations pass through uint8, which of them share a scale, and which layers multiply
integers is decided by the quantizer, which merges activations into the layers before them and
hands scales through pooling. Whoever wants to mirror a file asks the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from lydite.export.inspection import inspect_quantized

_SCALE = "_scale"


@dataclass(frozen=True)
class Rounding:
    """The rounding in one file.

    Attributes:
        activations: tensors of the float file that pass through uint8, each with the tensor whose
            range gives its scale (itself, or the one that a pooling reads).
        layers: names of the layers that multiply integers, each with the tensor whose range gives
            the scale of its input.
    """

    activations: dict[str, str]
    layers: dict[str, str]


def rounding_of(data: bytes) -> Rounding:
    """Return where a file of `quantize_static` rounds.

    Args:
        data: the QDQ file.
    """
    graph = onnx.load_from_string(data).graph
    stored = {tensor.name for tensor in graph.initializer}
    activations: dict[str, str] = {}
    scale_of: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            activations[node.input[0]] = node.input[1].removesuffix(_SCALE)
        elif node.op_type == "DequantizeLinear" and node.input[0] not in stored:
            scale_of[node.output[0]] = node.input[1].removesuffix(_SCALE)
    integer = {layer.name for layer in inspect_quantized(data).layers if layer.integer}
    layers = {node.name: scale_of[node.input[0]] for node in graph.node if node.name in integer}
    return Rounding(activations, layers)

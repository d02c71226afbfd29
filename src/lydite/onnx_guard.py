"""What an ONNX file may hold before a runtime sees it, checked without the onnx package.

A model file comes from elsewhere. The runtime would open other files that it names, and run
operators of other domains. This walks the few protobuf fields that say so (the field numbers are
those of onnx.proto, IR version 3 and newer) and refuses both. Everything else is the runtime's to
check.
"""

from __future__ import annotations

from collections.abc import Iterator

from lydite.errors import CardError

#: largest model that is opened
MAX_ONNX_BYTES = 512 * 1024 * 1024
#: operators of the ONNX standard have one of these domains
STANDARD_DOMAINS = frozenset({b"", b"ai.onnx"})
#: integer forms of standard operators, which quantizers of onnxruntime write
QUANTIZED_OPERATORS = frozenset(
    {
        b"DequantizeLinear",
        b"DynamicQuantizeMatMul",
        b"MatMulIntegerToFloat",
        b"QGemm",
        b"QLinearAdd",
        b"QLinearAveragePool",
        b"QLinearConcat",
        b"QLinearGlobalAveragePool",
        b"QLinearLeakyRelu",
        b"QLinearMul",
        b"QLinearSigmoid",
        b"QuantizeLinear",
    }
)

_MAX_DEPTH = 32
#: which fields of a message hold which messages
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OP_TYPE, _DOMAIN = 4, 7
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def check_onnx(data: bytes, where: str) -> None:
    """Refuse a model that reads other files or uses operators outside the standard.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        CardError: too large, not ONNX, external data, or a foreign operator.
    """
    if len(data) > MAX_ONNX_BYTES:
        raise CardError(f"{where} is larger than the {MAX_ONNX_BYTES:,} bytes allowed for a model.")
    try:
        _check(memoryview(data), "model", where, 0)
    except (IndexError, ValueError) as error:
        raise CardError(f"{where} is not an ONNX model: {error}.") from error


def _check(message: memoryview, kind: str, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deeply")
    operator, domain = b"", b""
    for number, value in _fields(message):
        if kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
            raise CardError(
                f"{where} keeps weights in other files (external data), which is not allowed. "
                "Export it with all weights inside."
            )
        if isinstance(value, int):
            continue
        if kind == "node" and number == _OP_TYPE:
            operator = bytes(value)
        elif kind == "node" and number == _DOMAIN:
            domain = bytes(value)
        elif number in _CHILDREN[kind]:
            _check(value, _CHILDREN[kind][number], where, depth + 1)
    allowed = domain in STANDARD_DOMAINS or (
        domain == b"com.microsoft" and operator in QUANTIZED_OPERATORS
    )
    if not allowed:
        name = (domain + b"::" + operator).decode("utf-8", "replace")
        raise CardError(
            f"{where} uses the operator {name!r}; only operators of the ONNX standard are allowed."
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a protobuf message; fixed-width numbers come as 0."""
    position, end = 0, len(message)
    while position < end:
        key, position = read_varint(message, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire == 0:
            value, position = read_varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = read_varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field has the wire type {wire}")
        if position + length > end:
            raise ValueError("it ends too early")
        yield number, message[position : position + length] if wire == 2 else 0
        position += length


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the position behind it.

    Raises:
        IndexError: the message ends within it.
        ValueError: it is longer than 64 bits take.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")

"""An exported network in onnxruntime, opened safely and checked against its card."""

from __future__ import annotations

import onnxruntime as ort

from lydite.card import ONNX_NAME, Card
from lydite.errors import CardError, ConfigError
from lydite.onnx_guard import check_onnx

#: more threads than any machine has that a small network runs on
MAX_THREADS = 1024
#: onnxruntime's option, and its value, for sums of int8 products that are right on every processor
EXACT_INTEGERS = ("session.x64quantprecision", "1")
#: what every file has in it that rounds activations, `DynamicQuantizeLinear` included; files with
#: small weights alone have `DequantizeLinear`
_ROUNDS = b"QuantizeLinear"
#: what a file's metadata are named that say how few bits its weights use
NARROW = "lydite.weight_bits"


def open_session(card: Card, onnx: bytes, threads: int | None) -> ort.InferenceSession:
    """Return a CPU session for an exported network.

    Args:
        card: what the network's input and output must fit.
        onnx: the file's content; it is never loaded by path, so no other file is opened.
        threads: CPU threads to use; None lets the runtime decide.

    Raises:
        CardError: not an ONNX model, not allowed, or not one that fits the card.
        ConfigError: no possible number of threads.
    """
    require_threads(threads)
    where = f"The {ONNX_NAME} of {card.name}"
    check_onnx(onnx, where)
    try:
        session = ort.InferenceSession(
            onnx, session_options(onnx, threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime raises a dozen classes of its own, all without a common base
        raise CardError(f"{where} does not load: {first_line(error)}") from error
    _check_signature(session, card, where)
    return session


def session_options(onnx: bytes, threads: int | None = None) -> ort.SessionOptions:
    """Return how this package opens every session: quiet, and with integers that are exact.

    On x86 processors without VNNI onnxruntime's faster kernels add products of 8 bits in pairs of
    16, and cut off what exceeds them: an int8 file would answer otherwise than where it was made.
    The option has no effect on any other processor, nor is it wanted for files that compute in
    float: it breaks those whose weights alone are int8 (onnxruntime 1.32 then gives such a weight
    one zero point for all channels, and refuses it). Nor by files whose weights use 7 bits, which
    the faster kernels add up exactly: a pair is 2 * 255 * 64 at most.

    Args:
        onnx: the file's content.
        threads: CPU threads to use; None lets the runtime decide.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if _ROUNDS in onnx and NARROW.encode() not in onnx:
        options.add_session_config_entry(*EXACT_INTEGERS)
    return options


def require_threads(threads: int | None) -> None:
    """Refuse what is no number of threads, which a runtime may take for one and end the process.

    Raises:
        ConfigError: not None and not 1 to `MAX_THREADS`.
    """
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= MAX_THREADS):
        raise ConfigError(f"`threads` must be 1 to {MAX_THREADS}, or None. Got {threads!r}.")


def first_line(error: Exception) -> str:
    """Return the beginning of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _check_signature(session: ort.InferenceSession, card: Card, where: str) -> None:
    """Refuse a network whose input or output is not what the card's preprocessing makes."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise CardError(
            f"{where} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each."
        )
    size = card.preprocess.size
    for node, tail in ((inputs[0], [3, size, size]), (outputs[0], [2])):
        shape = list(node.shape)
        fits = len(shape) == len(tail) + 1 and not isinstance(shape[0], int)
        fits = fits and all(
            not isinstance(a, int) or a == b for a, b in zip(shape[1:], tail, strict=True)
        )
        if not fits or node.type != "tensor(float)":
            raise CardError(
                f"{where} does not fit its card: {node.name!r} is {node.type} of shape {shape}; "
                f"expected tensor(float) of shape [any, {', '.join(map(str, tail))}]."
            )

"""A file as its difference from another one: pieces copied out of the base, and what is new.

An adapted detector's exported file is its base's file but for a few nodes and weights. The delta
says where each piece of it stands in the base and carries the rest, so that composing gives back
the very bytes that were exported, without a library that knows the format. This is the copy and
insert coding of Hunt, Vo and Tichy 1998 ("Delta algorithms: an empirical analysis"), with matches
found by hashed blocks of the base as rsync does (Tridgell and Mackerras 1996).

The file: `MAGIC`, the result's size, then pieces. Numbers are varints, seven bits a byte. A piece
begins with its length times two: even, that many bytes follow; odd, they are copied from the base,
from where the last copy ended plus a signed step (zigzag: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...).
"""

from __future__ import annotations

from lydite.errors import CardError
from lydite.onnx_guard import MAX_ONNX_BYTES, read_varint

MAGIC = b"lydite-delta 1\n"
#: shortest piece worth a copy
BLOCK = 16
#: at most about so many blocks of the base are remembered
MAX_BLOCKS = 1 << 18


def compose(base: bytes, delta: bytes, where: str = "The delta") -> bytes:
    """Return the file that a delta describes.

    Time and memory are bounded by the size that the delta states, and that by the largest model
    that is opened. Whether the result is the right one, its digest tells: a delta that fits its
    base by chance gives some bytes.

    Args:
        base: the file it was made against.
        delta: of `make_delta`.
        where: its name, for messages.

    Raises:
        CardError: not a delta, damaged, for a larger base, or the result would be too large.

    >>> compose(b"base bytes", make_delta(b"base bytes", b"new bytes"))
    b'new bytes'
    """
    if not delta.startswith(MAGIC):
        raise CardError(f"{where} is not a delta of this format; upgrade lydite or get it anew.")
    try:
        return _compose(base, memoryview(delta)[len(MAGIC) :])
    except (IndexError, ValueError) as error:
        raise CardError(f"{where} is damaged or belongs to another base: {error}.") from error


def make_delta(base: bytes, full: bytes) -> bytes:
    """Return what turns `base` into `full`; equal arguments give equal bytes.

    Args:
        base: the file that whoever composes has.
        full: the file that they shall get.
    """
    out = bytearray(MAGIC)
    _write(out, len(full))
    written = cursor = 0
    for start, at, length in _matches(base, full):
        _literal(out, full[written:start])
        step = at - cursor
        _write(out, length << 1 | 1)
        _write(out, step << 1 if step >= 0 else (-step << 1) - 1)
        written, cursor = start + length, at + length
    _literal(out, full[written:])
    return bytes(out)


def _compose(base: bytes, pieces: memoryview) -> bytes:
    size, position = read_varint(pieces, 0)
    if size > MAX_ONNX_BYTES:
        raise ValueError(f"its result has more than {MAX_ONNX_BYTES:,} bytes")
    out = bytearray()
    cursor = 0
    while position < len(pieces):
        head, position = read_varint(pieces, position)
        length = head >> 1
        if not 0 < length <= size - len(out):
            raise ValueError("a piece is empty or too long")
        if head & 1:
            step, position = read_varint(pieces, position)
            cursor += -(step + 1 >> 1) if step & 1 else step >> 1
            if cursor < 0 or cursor + length > len(base):
                raise ValueError("a piece lies outside the base")
            out += memoryview(base)[cursor : cursor + length]
            cursor += length
        else:
            if position + length > len(pieces):
                raise ValueError("it ends too early")
            out += pieces[position : position + length]
            position += length
    if len(out) != size:
        raise ValueError("it ends too early")
    return bytes(out)


def _matches(base: bytes, full: bytes) -> list[tuple[int, int, int]]:
    """Return (place in full, place in base, length) of what both hold, ascending in full."""
    step = max(BLOCK, len(base) // MAX_BLOCKS)
    blocks: dict[bytes, int] = {}
    for at in range(0, len(base) - BLOCK + 1, step):
        blocks.setdefault(base[at : at + BLOCK], at)
    found: list[tuple[int, int, int]] = []
    position = done = cursor = 0
    while position + BLOCK <= len(full):
        block = full[position : position + BLOCK]
        # where the last copy left off first: among equal blocks that is most often the right one
        at = cursor + position - done
        if base[at : at + BLOCK] != block:
            if block not in blocks:
                position += 1
                continue
            at = blocks[block]
        while position > done and at > 0 and base[at - 1] == full[position - 1]:
            position, at = position - 1, at - 1
        length = _common(base, at, full, position)
        found.append((position, at, length))
        position = done = position + length
        cursor = at + length
    return found


def _common(a: bytes, start_a: int, b: bytes, start_b: int) -> int:
    """Return how many bytes are equal in `a` from one place on and in `b` from another."""
    most = min(len(a) - start_a, len(b) - start_b)
    length, stride = 0, BLOCK
    growing = True
    while stride and length < most:
        end = min(length + stride, most)
        if a[start_a + length : start_a + end] == b[start_b + length : start_b + end]:
            length = end
        else:
            growing = False
        # ever longer strides while all is equal, then halves of them down to the byte that differs
        stride = stride * 2 if growing else stride // 2
    return length


def _literal(out: bytearray, data: bytes) -> None:
    if data:
        _write(out, len(data) << 1)
        out += data


def _write(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)

"""Whether a file holds all of its pixels, where Pillow is content with less.

A download that was given its full size at once and then stopped ends in zeros. JPEG and PNG have a
mark behind their pixels that tells. A wrong checksum alone is no reason to refuse a PNG, as it is
none for Pillow.

Of a PNG, Pillow takes a pixel stream that ends properly but too early for a complete image, and
leaves the rest black. Only an image whose last rows are black (the last two: with interlacing the
odd rows come last) can be such a one, so that nearly every PNG is known to have all its rows
without unpacking it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Adam7: first column, first row, column step, row step of each pass
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_LAST_PASS = (0, 1, 1, 2)
_PIECE_BYTES = 1 << 20
_SIGNATURE_BYTES = 8
#: what stands before the last pixels, and behind them
_MARKS = {"JPEG": (b"\xff\xda", b"\xff\xd9"), "PNG": (b"IDAT", b"IEND")}
#: so many zeros at the end of a file are no part of its pixels
_EMPTY_TAIL = 64


def ends(data: bytes, kind: str) -> bool:
    """Return whether a file's pixels end before a tail of zeros begins; true without such a tail.

    Args:
        data: the file.
        kind: "JPEG" or "PNG".
    """
    pixels, end = _MARKS[kind]
    written = data.rstrip(b"\0")
    # some cameras fill their files up with zeros behind the end
    return len(data) - len(written) < _EMPTY_TAIL or data.rfind(end) > data.rfind(pixels)


def png_has_all_rows(image: Image.Image, data: bytes) -> bool:
    """Return whether a loaded PNG has all its rows.

    Args:
        image: loaded, as stored.
        data: the file.
    """
    width, height = image.size
    for row in range(max(0, height - 2), height):
        if image.crop((0, row, width, row + 1)).getbbox(alpha_only=False) is None:
            return _inflated_bytes(data) >= _promised_bytes(data)
    return True


def _promised_bytes(data: bytes) -> int:
    """Return the size of all filtered rows by the header (W3C PNG, sections 7.2 and 8.2)."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, color, interlaced = data[24], data[25], data[28]
    passes = (*_PASSES, _LAST_PASS) if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * depth * _SAMPLES[color] + 7) // 8)
    return total


def _inflated_bytes(data: bytes) -> int:
    """Return how many bytes the pixel stream of the first image unpacks to, in bounded memory."""
    inflater, total = zlib.decompressobj(), 0
    for kind, body in _chunks(data):
        rest: bytes | memoryview = body if kind == b"IDAT" else b""
        while rest and not inflater.eof:
            total += len(inflater.decompress(rest, _PIECE_BYTES))
            rest = inflater.unconsumed_tail
    return total + len(inflater.flush())


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of every chunk; the last may be cut off."""
    position, view = _SIGNATURE_BYTES, memoryview(data)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        yield kind, view[position + 8 : position + 8 + length]
        position += 12 + length

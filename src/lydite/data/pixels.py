"""From whatever pixels a file holds to upright RGB bytes: one stated rule for each kind.

| kind | rule |
|---|---|
| RGB, YCbCr, HSV, CMYK | Pillow's conversion; embedded color profiles are not applied |
| LAB | converted to sRGB |
| gray, 1 bit | the same value three times; 1 bit is 0 or 255 |
| palette | its colors |
| alpha of any kind, a transparent color | laid over white |
| gray of 9 to 16 bits | its highest eight bits, never clipped; a transparent value is white |
| 16 bits, color | the high byte of each value, of a transparent color too |
| 32-bit integers, floating point | refused: they have no fixed white |

A 16-bit PNM file arrives as 32-bit integers that Pillow has scaled to 0..65535, and counts as 16
bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lydite.data.reasons import refuse

UInt8 = NDArray[np.uint8]

#: images are converted in strips of about this many pixels, which bounds the memory
STRIP_PIXELS = 1_000_000
SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_ORIENTATION_TAG = 0x0112
#: of TIFF 6.0, section 8: BitsPerSample and PhotometricInterpretation
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262
#: where a PNG says how many bits a value has (specification, section 11.2.1)
_PNG_DEPTH = 24


def upright_rgb(image: Image.Image, where: str) -> UInt8:
    """Return the pixels of a loaded image, turned as its EXIF orientation says.

    Args:
        image: loaded; its metadata is read here, after the pixels.
        where: the image's name, for messages.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DecodeError: code "unsupported-mode".
    """
    mode = image.mode
    if mode == "F" or (mode == "I" and image.format != "PPM"):
        raise refuse("unsupported-mode", where, f"mode {mode}")
    width, height = image.size
    turn = orientation(image)
    shape = (width, height, 3) if turn >= 5 else (height, width, 3)
    out = np.empty(shape, dtype=np.uint8)
    view = as_stored(out, turn)
    gray = _depth(image) if mode in SIXTEEN_BIT or mode == "I" else None
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = top == 0 and bottom == height
        strip = image if whole else image.crop((0, top, width, bottom))
        view[top:bottom] = _deep_gray(strip, *gray) if gray else _rgb(strip)
    return out


def mend_key(image: Image.Image, data: bytes) -> None:
    """Bring the transparent color of a PNG to the eight bits that its pixels have here.

    Pillow scales the pixels of all other depths, but leaves the color as the file states it. Of a
    loaded image nobody can tell any more which depth it had, so this is for our own images alone.

    Args:
        image: made from `data`; its `info` is changed.
        data: the file.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or key is None:
        return
    bits = data[_PNG_DEPTH]
    if image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(v >> 8 if bits == 16 else v & 255 for v in key)
    elif isinstance(key, int) and bits in (2, 4, 8):
        image.info["transparency"] = (key % 2**bits) * (255 // (2**bits - 1))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where it says none."""
    # unreadable metadata says nothing about the pixels, which have decoded by now
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def as_stored(upright: UInt8, turn: int) -> UInt8:
    """Return a view of the upright image in which rows and columns run as the file stores them."""
    stored = upright.transpose(1, 0, 2) if turn >= 5 else upright
    flip_rows = turn in (3, 4, 7, 8)
    flip_columns = turn in (2, 3, 6, 7)
    if turn >= 5:
        # stored rows are the upright image's columns
        flip_rows, flip_columns = turn in (6, 7), turn in (7, 8)
    return stored[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _depth(image: Image.Image) -> tuple[int, bool, int | None]:
    """Return how many bits a gray value has, whether 0 is white, and which value is transparent.

    Of a TIFF, Pillow hands out the values as they are stored.
    """
    tags = getattr(image, "tag_v2", {})
    stored = tags.get(_BITS_TAG, 16)
    bits = stored[0] if isinstance(stored, tuple) else stored
    clear = image.info.get("transparency")
    return (
        bits if 8 < bits <= 16 else 16,
        tags.get(_PHOTOMETRIC_TAG, 1) == 0,
        clear if isinstance(clear, int) else None,
    )


def _deep_gray(image: Image.Image, bits: int, inverted: bool, clear: int | None) -> UInt8:
    """Return gray values of more than eight bits as RGB bytes."""
    values = np.asarray(image).astype(np.uint32)
    gray = (values >> (bits - 8)).astype(np.uint8)
    if inverted:
        gray = 255 - gray
    if clear is not None:
        gray[values == clear] = 255
    return np.repeat(gray[..., None], 3, axis=2)


def _rgb(image: Image.Image) -> UInt8:
    if image.mode == "La":
        image = image.convert("LA")
    key = _deep_key(image)
    if key is not None:
        rgb = np.array(image, dtype=np.uint8)
        rgb[(rgb == key).all(axis=2)] = 255
        return rgb
    if image.has_transparency_data:
        return _over_white(np.asarray(image.convert("RGBA"), dtype=np.uint8))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image, dtype=np.uint8)


def _deep_key(image: Image.Image) -> UInt8 | None:
    """Return the high bytes of a transparent color of 16 bits; None where there is none.

    Pillow keeps the high bytes of the pixels, but all of that color, which then matches none. A
    file's has been mended by now; that of an image from elsewhere shows by its size.
    """
    key = image.info.get("transparency")
    if image.mode != "RGB" or not isinstance(key, tuple) or len(key) != 3 or max(key) < 256:
        return None
    return np.array([value >> 8 for value in key], dtype=np.uint8)


def _over_white(rgba: UInt8) -> UInt8:
    """Lay (H, W, 4) pixels over white, rounded to the nearest value."""
    alpha = rgba[..., 3:].astype(np.uint16)
    color = rgba[..., :3].astype(np.uint16)
    color *= alpha
    color += 255 * (255 - alpha) + 127
    return (color // 255).astype(np.uint8)

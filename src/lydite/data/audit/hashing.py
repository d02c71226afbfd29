"""Perceptual hashes of an image and of windows in it.

The hash is `imagehash.phash`. Windows are hashed in one batch, because one call a window is an
order of magnitude slower; `phash_batch` gives the same bits as the library.
"""

from __future__ import annotations

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lydite.data.audit.history import dct_matrix

UInt64 = NDArray[np.uint64]
Box = tuple[float, float, float, float]

SIDE = 32  # what imagehash scales an image to before its DCT
THUMBNAIL = 64
#: an image with less contrast than this has no structure to hash, in gray levels
LEAST_CONTRAST = 4.0
_LOW = dct_matrix(SIDE)[:8]


def windows() -> tuple[Box, ...]:
    """Return the windows that are hashed as (left, top, right, bottom), the whole image first."""
    boxes: list[Box] = [(0.0, 0.0, 1.0, 1.0)]
    for side, count in ((0.86, 4), (0.72, 5)):
        starts = [(1.0 - side) * step / (count - 1) for step in range(count)]
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    return tuple(boxes)


WINDOWS = windows()


def cut(thumbnail: Image.Image, box: Box) -> Image.Image:
    """Return a window of a gray thumbnail, scaled to `SIDE` as imagehash does."""
    width, height = thumbnail.size
    left, top, right, bottom = box
    return thumbnail.resize(
        (SIDE, SIDE),
        Image.Resampling.LANCZOS,
        box=(left * width, top * height, right * width, bottom * height),
    )


def phash_batch(pictures: NDArray[np.uint8]) -> UInt64:
    """Return imagehash's 64-bit pHash of (N, 32, 32) gray pictures, packed: (N,) uint64."""
    spectrum = _LOW @ pictures.astype(np.float64) @ _LOW.T
    # imagehash does not normalize its DCT; per row and column that is a factor in the first term.
    spectrum[:, 0, :] *= np.sqrt(2)
    spectrum[:, :, 0] *= np.sqrt(2)
    bits = spectrum > np.median(spectrum, axis=(1, 2), keepdims=True)
    return pack(bits.reshape(len(bits), 64))


def pack(bits: NDArray[np.bool_]) -> UInt64:
    """Pack (N, 64) bits into (N,) uint64."""
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]


def hash_image(rgb: NDArray[np.uint8]) -> tuple[UInt64, UInt64, NDArray[np.uint8], bool]:
    """Hash an image, its mirror image and its windows.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        Hashes of the image and of its mirror image, (2,); of its windows, (V,), the whole image
        first; a gray thumbnail (64, 64) uint8; and whether there is any structure to compare.
    """
    gray = Image.fromarray(rgb).convert("L")
    thumbnail = gray.resize((2 * THUMBNAIL, 2 * THUMBNAIL), Image.Resampling.BOX)
    mirror = thumbnail.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    whole = pack(np.stack([imagehash.phash(view).hash.ravel() for view in (thumbnail, mirror)]))
    cuts = np.stack([np.asarray(cut(thumbnail, box)) for box in WINDOWS[1:]])
    views = np.concatenate([whole[:1], phash_batch(cuts)])
    small = thumbnail.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.uint8)
    return whole, views, pixels, bool(pixels.std() >= LEAST_CONTRAST)

"""Preprocessing in numpy: from an upright RGB image to the network's input, and back to one score.

The same function serves training, evaluation, calibration, export checks and prediction; the
browser's version is held to it by golden images. Nothing here needs torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lydite.card import Preprocess, ScoreMeaning
from lydite.errors import DecodeError

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]


def tile_offsets(length: int, size: int, most: int) -> list[int]:
    """Return where tiles of `size` start along a side of `length` pixels.

    As few tiles as cover the side, `most` at most, evenly spaced from edge to edge; a single tile
    sits in the middle.

    >>> tile_offsets(128, 64, 3)
    [0, 64]
    >>> tile_offsets(1000, 64, 3)
    [0, 468, 936]
    """
    room = length - size
    count = min(most, -(-length // size))
    if count == 1:
        return [room // 2]
    return [round(i * room / (count - 1)) for i in range(count)]


def grow(rgb: UInt8, size: int) -> UInt8:
    """Mirror an image outwards until both sides have at least `size` pixels. (H, W, 3) uint8."""
    height, width = rgb.shape[:2]
    down, right = max(0, size - height), max(0, size - width)
    if not down and not right:
        return rgb
    return np.pad(rgb, ((0, down), (0, right), (0, 0)), mode="symmetric")


def check_size(rgb: UInt8, preprocess: Preprocess) -> None:
    """Refuse an image that is too small to say anything about.

    Raises:
        DecodeError: code "too-small".
    """
    height, width = rgb.shape[:2]
    if min(height, width) < preprocess.min_side:
        raise DecodeError(
            f"The image is {width}x{height} pixels; this detector needs at least "
            f"{preprocess.min_side} on each side.",
            "too-small",
        )


def cut_tiles(rgb: UInt8, preprocess: Preprocess) -> UInt8:
    """Cut an image into the tiles that the detector looks at.

    Args:
        rgb: (H, W, 3) uint8, upright.
        preprocess: out of the card.

    Returns:
        (T, size, size, 3) uint8, T from 1 to `tiles` squared.

    Raises:
        DecodeError: the image is smaller than the card allows.
    """
    check_size(rgb, preprocess)
    size = preprocess.size
    if preprocess.fit == "resize":
        scaled = Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(scaled, dtype=np.uint8)[None]
    rows, columns = (
        tile_offsets(max(side, size), size, preprocess.tiles) for side in rgb.shape[:2]
    )
    # tiles are grown and not the image, of which a long and narrow one would become a large one
    return np.stack([grow(rgb[y : y + size, x : x + size], size) for y in rows for x in columns])


def normalize(tiles: UInt8, preprocess: Preprocess) -> Float32:
    """Turn (T, S, S, 3) uint8 tiles into the network's (T, 3, S, S) float32 input."""
    scale = 1.0 / (255.0 * np.asarray(preprocess.std, dtype=np.float32))
    shift = np.asarray(preprocess.mean, dtype=np.float32) / np.asarray(
        preprocess.std, dtype=np.float32
    )
    values = tiles.astype(np.float32) * scale - shift
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def prepare(rgb: UInt8, preprocess: Preprocess) -> Float32:
    """Return the network's input for one image: (T, 3, S, S) float32.

    Raises:
        DecodeError: the image is smaller than the card allows.
    """
    return normalize(cut_tiles(rgb, preprocess), preprocess)


def score_of(logits: NDArray[np.floating]) -> float:
    """Return an image's score z from its tiles' logits (T, 2): mean of fake minus real."""
    values = np.asarray(logits, dtype=np.float64)
    return float((values[:, 1] - values[:, 0]).mean())


def probability(z: NDArray[np.floating] | float, meaning: ScoreMeaning) -> NDArray[np.float64]:
    """Return p(fake) for scores z, any shape, as the card defines it (no overflow)."""
    x = (np.asarray(z, dtype=np.float64) - meaning.threshold) / meaning.temperature
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)


def verdict(p_fake: float, meaning: ScoreMeaning) -> str:
    """Return "fake", "real" or "unsure" for a probability.

    >>> verdict(0.97, ScoreMeaning(band=(0.3, 0.7)))
    'fake'
    """
    low, high = meaning.band
    if p_fake > high:
        return "fake"
    if p_fake < low:
        return "real"
    return "unsure" if low < high else ("fake" if p_fake > 0.5 else "real")

"""Decode every image once and measure all that the audit needs. No file is changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lydite.data.audit.hashing import THUMBNAIL, WINDOWS, hash_image
from lydite.data.audit.history import GRID_FEATURES, HISTORY_FEATURES, history_features
from lydite.data.decode import decode, inspect
from lydite.data.manifest import Row
from lydite.data.reasons import refuse
from lydite.errors import DecodeError, FileError
from lydite.files import sha256_file

if TYPE_CHECKING:
    from lydite.data.header import ImageInfo
    from lydite.recipe import Progress

#: history is measured on at most this many pixels a side, from the middle
_HISTORY_SIDE = 256
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
_SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")

#: each property that is hardly a trace of a generator, and the numbers that describe it
PROBES: dict[str, tuple[str, ...]] = {
    "format": ("format",),
    "size": ("width", "height", "aspect"),
    "jpeg quality": ("quality", "table_first", "table_mean", "table_last"),
    "chroma subsampling": ("subsampling",),
    "metadata": ("exif", "icc", "progressive", "mode"),
    "bytes per pixel": ("bytes_per_pixel",),
    "8x8 grid": GRID_FEATURES,
    "compression history": HISTORY_FEATURES,
    "mean color": ("red", "green", "blue"),
}
#: probes that a generator's own upsampling can answer to: they are shown, and raise no warning
AMBIGUOUS = frozenset({"8x8 grid"})
FEATURES = tuple(name for names in PROBES.values() for name in names)
#: those of them that a file's header tells, which are the first ones
HEADER_FEATURES = FEATURES[: FEATURES.index("bytes_per_pixel") + 1]


@dataclass(frozen=True)
class ImageMeasures:
    """What was measured on one image; `error` is a reason code where it did not decode."""

    error: str | None
    features: NDArray[np.float64]
    whole: NDArray[np.uint64]
    views: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]
    usable: bool


def measure_file(path: Path, sha256: str | None = None) -> ImageMeasures:
    """Decode one image and measure it; another file than the one of the digest is refused."""
    try:
        info = inspect(path)
        rgb = decode(path)
        if sha256 and sha256_file(path) != sha256:
            raise refuse("digest", str(path))
    except (DecodeError, FileError) as error:
        return ImageMeasures(
            error.code,
            np.full(len(FEATURES), np.nan),
            np.zeros(2, np.uint64),
            np.zeros(len(WINDOWS), np.uint64),
            np.zeros((THUMBNAIL, THUMBNAIL), np.uint8),
            usable=False,
        )
    return ImageMeasures(None, features_of(info, rgb), *hash_image(rgb))


def features_of(info: ImageInfo, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the values of `FEATURES` for one image.

    Args:
        info: from its header.
        rgb: (H, W, 3) uint8.
    """
    height, width = rgb.shape[:2]
    values = [
        *header_features(info, height, width),
        *history_features(_middle(rgb), info.quantization),
        *rgb.mean(axis=(0, 1)),
    ]
    return np.array(values, dtype=np.float64)


def header_features(info: ImageInfo, height: int, width: int) -> list[float]:
    """Return the values of `HEADER_FEATURES` for one image, NaN where it has no such property.

    Args:
        info: from its header.
        height: in pixels.
        width: in pixels.
    """
    nan = float("nan")
    table = info.quantization
    return [
        _code(info.format, _FORMATS),
        width,
        height,
        width / height,
        nan if info.quality is None else info.quality,
        *((table[0], sum(table) / 64, table[63]) if table else (nan, nan, nan)),
        _code(info.subsampling, _SUBSAMPLINGS),
        info.has_exif,
        info.has_icc,
        info.progressive,
        _code(info.mode, ("L", "RGB", "RGBA", "P", "CMYK")),
        (info.size_bytes or 0) / (width * height),
    ]


def measure_files(rows: Sequence[Row], progress: Progress | None = None) -> list[ImageMeasures]:
    """Measure many images, several at a time, in order."""
    results: list[ImageMeasures] = []
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        for result in pool.map(lambda row: measure_file(row.file, row.sha256), rows):
            results.append(result)
            if progress and (len(results) % 64 == 0 or len(results) == len(rows)):
                progress("decode", len(results), len(rows), "")
    return results


def _code(name: str | None, known: tuple[str, ...]) -> float:
    """Return a number for a name: -1 where there is none, one more than the last for others."""
    if name is None:
        return -1.0
    return float(known.index(name) if name in known else len(known))


def _middle(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the luma of the middle of an image, its corner on the grid of JPEG blocks."""
    top, left = (max(0, side - _HISTORY_SIDE) // 2 // 8 * 8 for side in rgb.shape[:2])
    part = rgb[top : top + _HISTORY_SIDE, left : left + _HISTORY_SIDE].astype(np.float64)
    return np.asarray(part @ np.array([0.299, 0.587, 0.114]), dtype=np.float64)

"""What probes see of an image: its header, and a picture too small to hold a generator's traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lydite.data.audit.measure import HEADER_FEATURES, header_features
from lydite.data.decode import inspect
from lydite.data.images import ImageStore
from lydite.data.manifest import Row
from lydite.errors import DecodeError
from lydite.recipe import Progress, silent

#: pixels a side; nothing finer than four waves across the image is left
THUMBNAIL = 8
#: of the header, and the bytes themselves
HEADER_COLUMNS = (*HEADER_FEATURES, "bytes")


@dataclass(frozen=True)
class Looks:
    """What was seen of N images.

    Attributes:
        header: (N, D) `HEADER_COLUMNS`, NaN where an image has no such property.
        thumbnails: (N, 8, 8, 3) means of pixels from 0 to 1.
        errors: (N,) reason code of an image that did not decode, else None.
    """

    header: NDArray[np.float64]
    thumbnails: NDArray[np.float64]
    errors: tuple[str | None, ...]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which images decoded. (N,) bool."""
        return np.array([error is None for error in self.errors], dtype=bool)

    def take(self, keep: NDArray[np.bool_]) -> Looks:
        """Return some of the images."""
        errors = tuple(error for error, kept in zip(self.errors, keep, strict=True) if kept)
        return Looks(self.header[keep], self.thumbnails[keep], errors)


def look_at(
    rows: Sequence[Row], images: ImageStore, progress: Progress = silent, note: str = ""
) -> Looks:
    """Look at images, one after the other.

    Args:
        rows: the images.
        images: where their pixels come from.
        progress: told how many are done.
        note: what images these are.
    """
    header = np.full((len(rows), len(HEADER_COLUMNS)), np.nan)
    thumbnails = np.zeros((len(rows), THUMBNAIL, THUMBNAIL, 3))
    errors: list[str | None] = [None] * len(rows)
    for number, row in enumerate(rows):
        progress("probe", number, len(rows), note)
        try:
            info = inspect(row.file)
            thumbnails[number] = thumbnail(images.get(row))
        except DecodeError as error:
            errors[number] = error.code
            continue
        values = header_features(info, info.height, info.width)
        header[number] = (*values, info.size_bytes or 0)
    progress("probe", len(rows), len(rows), note)
    return Looks(header, thumbnails, tuple(errors))


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return an image as 8 by 8 means of its pixels, whatever its shape.

    Each value is the mean over its own rectangle, so that grain, edges and upsampling patterns
    average out; an image of fewer pixels repeats them.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (8, 8, 3) from 0 to 1.
    """
    small = Image.fromarray(rgb).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def content(thumbnails: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return thumbnails as features: their values, and statistics of their colors.

    The statistics are of the thumbnail as well, never of the image: the spread of an image's
    pixels would tell how much grain it has, which is what detectors live on.

    Args:
        thumbnails: (N, 8, 8, 3).

    Returns:
        (N, 203): values, then mean, spread and range of each channel, saturation and its spread.
    """
    count = len(thumbnails)
    saturation = thumbnails.max(axis=3) - thumbnails.min(axis=3)
    parts = [
        thumbnails.reshape(count, -1),
        thumbnails.mean(axis=(1, 2)),
        thumbnails.std(axis=(1, 2)),
        np.ptp(thumbnails, axis=(1, 2)),
        saturation.mean(axis=(1, 2))[:, None],
        saturation.std(axis=(1, 2))[:, None],
    ]
    return np.concatenate(parts, axis=1)

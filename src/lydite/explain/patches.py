"""Patch-score maps: what a detector says of every place of an image.

The detector looks at square tiles. Here it looks at more of them than a prediction needs, evenly
spaced and overlapping, and each tile's own score stays visible. This is no gradient and no
approximation: every number of the map is an answer of the shipped file to real pixels, as in the
patch heat maps of Chai et al. 2020 ("What makes fake images detectable?", arXiv 2008.10588).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lydite.card import Preprocess, ScoreMeaning
from lydite.data.preprocess import (
    Float32,
    UInt8,
    check_size,
    grow,
    normalize,
    prepare,
    probability,
    tile_offsets,
)
from lydite.errors import ConfigError

Float64 = NDArray[np.float64]
#: pixels between tiles; "card" stands for the tiles of a prediction
Stride = int | Literal["card"]
#: without a wish, tiles stop overlapping where they would be more than this
USUAL_TILES = 2048
#: more tiles than this are refused
MOST_TILES = 65_536
#: input pixels that one batch may hold (64 tiles of 64 px)
BATCH_PIXELS = 64 * 64 * 64


@dataclass(frozen=True, eq=False)
class PatchMap:
    """The scores of an image's tiles, on a grid of R rows and C columns.

    Attributes:
        rows: top edge of each row of tiles in pixels of the upright image. (R,)
        columns: left edge of each column of tiles. (C,)
        tile: height and width of a tile in pixels; it may reach over the edge of an image that is
            smaller, which is mirrored outwards there.
        z: logit(fake) - logit(real) of every tile. (R, C)
        p_fake: what the card makes of each z. It was fitted to scores of whole images, which are
            means of tiles: a single tile is surer of itself than it should be. (R, C)
        height: of the image in pixels.
        width: of the image in pixels.
        stride: "card" for the tiles of a prediction, else the largest distance between neighbors
            in pixels.
        meaning: threshold and temperature of the score.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    tile: tuple[int, int]
    z: Float64
    p_fake: Float64
    height: int
    width: int
    stride: Stride
    meaning: ScoreMeaning

    @property
    def mean(self) -> float:
        """Mean of `z` over tiles; with stride "card" this is the image's own score."""
        return float(self.z.mean())

    def heat(self, shape: tuple[int, int] | None = None) -> Float64:
        """Return the mean z of the tiles that look at each pixel, NaN where none does.

        Args:
            shape: height and width of the result, which then holds the values at the centers of
                larger cells of the image; the image's own unless given.

        Returns:
            (H, W) float64. Its own mean is not the image's score: pixels in the middle are
            looked at more often than those at the edges.
        """
        height, width = shape or (self.height, self.width)
        # the tiles form a product grid, so that the mean over both is the mean along each
        down = _shares(self.rows, self.tile[0], self.height, height)
        across = _shares(self.columns, self.tile[1], self.width, width)
        return np.asarray(down @ self.z @ across.T, dtype=np.float64)

    def log_odds(self, shape: tuple[int, int] | None = None) -> Float64:
        """Return `heat` as the card reads it: 0 where p(fake) is one half, above 0 for fake."""
        values = (self.heat(shape) - self.meaning.threshold) / self.meaning.temperature
        return np.asarray(values, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return the map as JSON values."""
        return {
            "width": self.width,
            "height": self.height,
            "tile": {"height": self.tile[0], "width": self.tile[1]},
            "stride": self.stride,
            "threshold": self.meaning.threshold,
            "temperature": self.meaning.temperature,
            "mean": self.mean,
            "rows": self.rows.tolist(),
            "columns": self.columns.tolist(),
            "z": self.z.tolist(),
            "p_fake": self.p_fake.tolist(),
        }


class TooManyTilesError(ConfigError):
    """A stride that is fine for smaller images makes too many tiles of this one."""


def stride_offsets(length: int, size: int, stride: int) -> list[int]:
    """Return where tiles of `size` start along a side of `length` pixels, at least `size`.

    The first tile begins at one edge, the last one ends at the other, neighbors are at most
    `stride` apart and evenly spaced, and there are no more tiles than that takes.

    >>> stride_offsets(160, 64, 32)
    [0, 32, 64, 96]
    >>> stride_offsets(100, 64, 32)
    [0, 18, 36]
    """
    room = length - size
    steps = -(-room // stride)
    return [round(i * room / steps) for i in range(steps + 1)] if steps else [0]


def fitting_stride(height: int, width: int, size: int, most: int) -> int:
    """Return half a tile, or the smallest multiple of it that makes at most `most` tiles.

    A stride above `size` leaves places at which no tile looks.
    """
    half = stride = size // 2
    sides = (max(height, size), max(width, size))
    while np.prod([len(stride_offsets(side, size, stride)) for side in sides]) > most:
        stride += half
    return stride


def patch_map(
    rgb: UInt8,
    preprocess: Preprocess,
    meaning: ScoreMeaning,
    logits: Callable[[Float32], Float32],
    stride: Stride | None = None,
) -> PatchMap:
    """Return the scores of an image's tiles.

    Args:
        rgb: (H, W, 3) uint8, upright.
        preprocess: out of the card.
        meaning: out of the card.
        logits: the network, (T, 3, S, S) to (T, 2).
        stride: pixels between neighbors at most; "card" for exactly the tiles of a prediction;
            half a tile unless given, a whole one where that would be over `USUAL_TILES` tiles.

    Raises:
        ConfigError: a stride that is not allowed.
        TooManyTilesError: one that makes too many tiles of this image.
        DecodeError: the image is smaller than the card allows.
    """
    check_size(rgb, preprocess)
    chosen = _chosen(rgb.shape[:2], preprocess, stride)
    rows, columns, tile = _grid(rgb.shape[:2], preprocess, chosen)
    if chosen == "card":
        values = logits(prepare(rgb, preprocess))
    else:
        values = _answers(grow(rgb, preprocess.size), preprocess, (rows, columns), logits)
    wide = values.astype(np.float64)
    z = (wide[:, 1] - wide[:, 0]).reshape(len(rows), len(columns))
    return PatchMap(
        rows=np.array(rows),
        columns=np.array(columns),
        tile=tile,
        z=z,
        p_fake=probability(z, meaning),
        height=rgb.shape[0],
        width=rgb.shape[1],
        stride=chosen,
        meaning=meaning,
    )


def _chosen(shape: tuple[int, ...], preprocess: Preprocess, stride: Stride | None) -> Stride:
    """Return the stride to use, or refuse the one that was asked for."""
    if preprocess.fit == "resize":
        if stride not in (None, "card"):
            raise ConfigError(
                f"This detector looks at one scaled copy of the whole image and has no tiles; "
                f"`stride` must be left out. Got {stride!r}."
            )
        return "card"
    if stride == "card":
        return "card"
    if stride is None:
        usual = fitting_stride(shape[0], shape[1], preprocess.size, USUAL_TILES)
        return min(usual, preprocess.size)
    # not every caller checks types
    if isinstance(stride, bool) or not isinstance(stride, Integral) or stride < 1:
        raise ConfigError(f"`stride` must be 1 pixel or more, or 'card'. Got {stride!r}.")
    rows, columns, _ = _grid(shape, preprocess, stride)
    if len(rows) * len(columns) > MOST_TILES:
        raise TooManyTilesError(
            f"`stride` {stride} makes {len(rows) * len(columns):,} tiles of this image; at most "
            f"{MOST_TILES:,} are allowed. Use a larger one."
        )
    return int(stride)


def _grid(
    shape: tuple[int, ...], preprocess: Preprocess, stride: Stride
) -> tuple[list[int], list[int], tuple[int, int]]:
    """Return top edges, left edges, and height and width of the tiles."""
    if preprocess.fit == "resize":
        return [0], [0], (shape[0], shape[1])
    size = preprocess.size
    rows, columns = (
        tile_offsets(max(side, size), size, preprocess.tiles)
        if stride == "card"
        else stride_offsets(max(side, size), size, stride)
        for side in shape[:2]
    )
    return rows, columns, (size, size)


def _answers(
    rgb: UInt8,
    preprocess: Preprocess,
    corners: tuple[Sequence[int], Sequence[int]],
    logits: Callable[[Float32], Float32],
) -> Float32:
    """Return the logits of every tile, row by row, in batches that fit into memory. (R * C, 2)."""
    size = preprocess.size
    places = [(y, x) for y in corners[0] for x in corners[1]]
    batch = max(1, BATCH_PIXELS // size**2)
    found = []
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        tiles = np.stack([rgb[y : y + size, x : x + size] for y, x in some])
        found.append(logits(normalize(tiles, preprocess)))
    return np.concatenate(found)


def _shares(starts: NDArray[np.int64], size: int, length: int, cells: int) -> Float64:
    """Return how much each tile counts at the center of each cell of a side. (cells, tiles)."""
    centers = (np.arange(cells) + 0.5) * length / cells
    inside = (centers[:, None] >= starts) & (centers[:, None] < starts + size)
    count = inside.sum(axis=1, keepdims=True)
    return np.where(count > 0, inside / np.maximum(count, 1), np.nan)

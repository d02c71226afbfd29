"""Find images in different splits that show the same picture: saved again, scaled, flipped, cut.

Two stages: hashes that differ in few bits propose pairs, and the correlation of the aligned
pictures decides, so that the first stage can be generous without accusing unrelated images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lydite.data.audit.hashing import SIDE, WINDOWS, Box, UInt64, cut

MOST_BITS = 14
MOST_CANDIDATES = 100_000
#: correlations of a window that may be off by half a step, on the way, and when it is aligned
ROUGH_CORRELATION = 0.6
HOPEFUL_CORRELATION = 0.85
CERTAIN_CORRELATION = 0.995
LEAST_CORRELATION = 0.97
#: correlation of the slopes, which smooth pictures that only resemble each other do not reach
LEAST_DETAIL = 0.87
#: a window with shorter sides than this is a crop
LEAST_WHOLE = 0.98
_CHUNK = 16
_STEPS = 8
_ACROSS, _DOWN = (axis - (SIDE - 1) / 2 for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))


@dataclass(frozen=True)
class Hashes:
    """Hashes of N images.

    Attributes:
        whole: (N, 2) of the image and of its mirror image.
        views: (N, V) of its windows, the whole image first.
        thumbnails: (N, 64, 64) gray.
        usable: (N,) images with structure to compare.
        splits: (N,) number of each image's split.
    """

    whole: UInt64
    views: UInt64
    thumbnails: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    splits: NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """The image `part` shows the window `box` of the image `whole`."""

    part: int
    whole: int
    flipped: bool
    box: Box
    distance: int
    correlation: float

    @property
    def kind(self) -> str:
        """How the part shows the whole: "same", "flipped", "crop" or "flipped crop"."""
        left, top, right, bottom = self.box
        inside = min(right - left, bottom - top) < LEAST_WHOLE
        return " ".join(["flipped"] * self.flipped + ["crop"] * inside) or "same"


def find_matches(hashes: Hashes) -> tuple[list[Match], bool]:
    """Return the best match of every pair in different splits that shows the same picture.

    Returns:
        The matches, and whether so many pairs were proposed that only the nearest were looked at.
    """
    candidates = np.concatenate([np.empty((0, 5), np.int32), *_propose(hashes)])
    order = np.argsort(candidates[:, 4], kind="stable")
    cut_short = len(order) > MOST_CANDIDATES
    best: dict[tuple[int, int], Match] = {}
    for part, whole, flip, view, distance in candidates[order[:MOST_CANDIDATES]].tolist():
        pair = (min(part, whole), max(part, whole))
        if pair in best:
            continue
        match = _verify(hashes, part, whole, bool(flip), view, distance)
        if match:
            best[pair] = match
    return [best[pair] for pair in sorted(best)], cut_short


def _propose(hashes: Hashes) -> Iterator[NDArray[np.int32]]:
    """Yield (K, 5) rows of part, whole, flipped, window and distance, for pairs across splits."""
    views = np.ascontiguousarray(hashes.views.T)
    for number in np.unique(hashes.splits):
        parts = np.flatnonzero((hashes.splits == number) & hashes.usable)
        others = np.flatnonzero((hashes.splits != number) & hashes.usable)
        if not others.size:
            continue
        windows = views[:, others]
        for start in range(0, len(parts), _CHUNK):
            chunk = parts[start : start + _CHUNK]
            for row, column, flip, view, bits in _near(hashes.whole[chunk], windows):
                same = np.ones_like(row)
                found = (chunk[row], others[column], same * flip, same * view, bits)
                yield np.stack(found, axis=1).astype(np.int32)


def _near(
    whole: UInt64, windows: UInt64
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], int, int, NDArray[np.uint8]]]:
    """Yield where hashes (P, 2) and windows (V, N) differ in few bits.

    The work arrays are reused and small enough for the processor's cache: ten times faster.
    """
    shape = (len(whole), windows.shape[1])
    mixed, bits = np.empty(shape, np.uint64), np.empty(shape, np.uint8)
    few = np.empty(shape, bool)
    for view, hashes in enumerate(windows):
        for flip in (0, 1):
            np.bitwise_xor(whole[:, flip, None], hashes, out=mixed)
            np.bitwise_count(mixed, out=bits)
            np.less_equal(bits, MOST_BITS, out=few)
            row, column = np.divmod(np.flatnonzero(few), shape[1])
            if row.size:
                yield row, column, flip, view, bits[row, column]


def _verify(
    hashes: Hashes, part: int, whole: int, flip: bool, view: int, distance: int
) -> Match | None:
    """Return the match of a proposed pair if the aligned pictures are alike."""
    picture = hashes.thumbnails[part]
    wanted = standardize(cut(Image.fromarray(picture), WINDOWS[0]))
    if flip:
        wanted = wanted[:, ::-1]
    other = Image.fromarray(hashes.thumbnails[whole])
    box = WINDOWS[view]
    correlation = _correlation(wanted, other, box)
    if correlation < ROUGH_CORRELATION:
        return None
    if correlation < CERTAIN_CORRELATION:
        box, correlation = align(wanted, other, box)
    if correlation < LEAST_CORRELATION:
        return None
    if detail_correlation(wanted, standardize(cut(other, box))) < LEAST_DETAIL:
        return None
    return Match(part, whole, flip, box, distance, round(min(correlation, 1.0), 4))


def align(wanted: NDArray[np.float64], other: Image.Image, box: Box) -> tuple[Box, float]:
    """Move and scale a window until it correlates best with a picture.

    Gauss-Newton on position and size of the window (Lucas and Kanade 1981), given up as soon as it
    does not lead to a likeness.

    Args:
        wanted: (32, 32) standardized picture.
        other: the gray thumbnail that the window is cut from.
        box: where to begin, in fractions of the sides.

    Returns:
        The best window and its correlation.
    """
    best, best_correlation = box, -1.0
    for step in range(_STEPS):
        seen = standardize(cut(other, box))
        correlation = float((wanted * seen).mean())
        if correlation > best_correlation:
            best, best_correlation = box, correlation
        if best_correlation > CERTAIN_CORRELATION or (
            step == 2 and best_correlation < HOPEFUL_CORRELATION
        ):
            break
        down, right = np.gradient(seen)
        slopes = np.stack([right, down, right * _ACROSS, down * _DOWN]).reshape(4, -1)
        normal = slopes @ slopes.T + 1e-3 * np.eye(4)
        shift = np.linalg.solve(normal, slopes @ (wanted - seen).ravel()).tolist()
        box = _moved(box, *shift)
    return best, best_correlation


def detail_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of the slopes of two aligned pictures, both (S, S)."""
    one, two = (
        np.concatenate([np.diff(picture, axis=axis).ravel() for axis in (0, 1)])
        for picture in (first, second)
    )
    return float(one @ two / max(float(np.sqrt((one @ one) * (two @ two))), 1e-9))


def _moved(box: Box, x: float, y: float, grow_x: float, grow_y: float) -> Box:
    """Return a window moved by pixels and grown by pixels a pixel, kept inside the image."""
    left, top, right, bottom = box
    width, height = (right - left) / SIDE, (bottom - top) / SIDE
    half = SIDE / 2
    left, right = left + width * (x - half * grow_x), right + width * (x + half * grow_x)
    top, bottom = top + height * (y - half * grow_y), bottom + height * (y + half * grow_y)
    left, top = min(max(left, 0.0), 0.5), min(max(top, 0.0), 0.5)
    return left, top, max(min(right, 1.0), left + 0.4), max(min(bottom, 1.0), top + 0.4)


def _correlation(wanted: NDArray[np.float64], other: Image.Image, box: Box) -> float:
    return float((wanted * standardize(cut(other, box))).mean())


def standardize(picture: Image.Image) -> NDArray[np.float64]:
    """Return a picture with mean 0 and variance 1, so that the mean product is a correlation."""
    values = np.asarray(picture, dtype=np.float64)
    assert values.shape == (SIDE, SIDE)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6))

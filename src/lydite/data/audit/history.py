"""Traces that JPEG compression leaves in pixels: what a file was before it was last saved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

#: where the first nine AC coefficients of a block stand, in zigzag order
_LOW = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
_MOST_LEVEL = 20
_STEPS = np.arange(3, 33)

#: block edges; generators that work on blocks of pixels leave a grid as well
GRID_FEATURES = (
    "grid_horizontal",
    "other_grid_horizontal",
    "grid_vertical",
    "other_grid_vertical",
)
#: earlier quantization
HISTORY_FEATURES = ("double_mean", "double_max", "comb")


def dct_matrix(size: int = 8) -> Float64:
    """Return the orthonormal DCT-II matrix: (size, size)."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi * (2 * n + 1) * k / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float64)


_DCT = dct_matrix()


def block_dct(gray: Float64) -> Float64:
    """Return the DCT of every whole 8x8 block.

    Args:
        gray: (H, W) from 0 to 255, the corner on the grid of blocks.

    Returns:
        (B, 8, 8), as JPEG scales them.
    """
    rows, columns = gray.shape[0] // 8, gray.shape[1] // 8
    blocks = gray[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    return np.asarray(_DCT @ (blocks.reshape(-1, 8, 8) - 128.0) @ _DCT.T, dtype=np.float64)


def grid_strength(gray: Float64) -> tuple[float, float]:
    """Return how strong vertical block edges stand out, on the file's grid and on any other.

    Third differences across a boundary between blocks are larger than inside one (Fan and
    de Queiroz 2003). An edge on another phase than the file's own means that the picture was
    compressed, cropped and saved again.

    Args:
        gray: (H, W) from 0 to 255, the corner on the grid of blocks.

    Returns:
        Mean third difference at phase 0, and the largest away from it (a difference of four pixels
        also sees the edge from both neighbors), both relative to the mean over all phases. 1 means
        no edge.
    """
    jumps = np.abs(gray[:, :-3] - 3 * gray[:, 1:-2] + 3 * gray[:, 2:-1] - gray[:, 3:]).mean(axis=0)
    # The middle of the four pixels from column x is between x + 1 and x + 2.
    phases = np.array([jumps[(phase - 2) % 8 :: 8].mean() for phase in range(8)])
    phases /= max(float(phases.mean()), 1e-6)
    return float(phases[0]), float(phases[2:7].max())


def double_quantization(blocks: Float64, table: Float64) -> tuple[float, float]:
    """Return how periodic the histograms of quantized coefficients are: the mark of two JPEGs.

    Quantizing twice leaves regular gaps and peaks in the histogram of each coefficient (Popescu
    and Farid 2004); they stand as a peak in its spectrum away from frequency zero.

    Args:
        blocks: (B, 8, 8) from `block_dct`.
        table: (8, 8) quantization table of the file.

    Returns:
        Mean and maximum over low frequencies of the spectrum's peak, 0 to 1.
    """
    peaks = []
    for row, column in _LOW:
        if table[row, column] == 0:  # damaged, though it decodes: the coefficient is always 0
            continue
        levels = np.rint(blocks[:, row, column] / table[row, column]).astype(np.int64)
        levels = levels[(np.abs(levels) <= _MOST_LEVEL) & (levels != 0)]
        if levels.size < 32:
            continue
        histogram = np.bincount(levels + _MOST_LEVEL, minlength=2 * _MOST_LEVEL + 1) / levels.size
        smooth = np.convolve(histogram, np.ones(5) / 5, mode="same")
        spectrum = np.abs(np.fft.rfft(histogram - smooth))
        peaks.append(float(spectrum[4:].max()))
    return (float(np.mean(peaks)), max(peaks)) if peaks else (0.0, 0.0)


def comb_strength(blocks: Float64) -> float:
    """Return how strongly coefficients cluster at multiples of a step: a decompressed JPEG.

    Args:
        blocks: (B, 8, 8) from `block_dct`.

    Returns:
        Mean over low frequencies of the best step's mean cosine: near 0 for pixels that were never
        compressed, up to 1 for those that were.
    """
    best = []
    for row, column in _LOW:
        values = blocks[:, row, column]
        values = values[np.abs(values) > _STEPS[0] / 2]
        if values.size < 32:
            continue
        strength = []
        for step in _STEPS:
            far = values[np.abs(values) > step / 2]
            if far.size >= 32:
                strength.append(float(np.cos(2 * np.pi * far / step).mean()))
        best.append(max(strength, default=0.0))
    return float(np.mean(best)) if best else 0.0


def history_features(gray: Float64, table: tuple[int, ...] | None) -> list[float]:
    """Return the values of `GRID_FEATURES` and `HISTORY_FEATURES` for one image.

    Args:
        gray: (H, W) from 0 to 255, the corner on the grid of blocks.
        table: the JPEG luminance table, row by row, or None for other formats.
    """
    if min(gray.shape) < 24:
        return [float("nan")] * len(GRID_FEATURES + HISTORY_FEATURES)
    blocks = block_dct(gray)
    if table is None:
        double, comb = (float("nan"), float("nan")), comb_strength(blocks)
    else:
        steps = np.asarray(table, dtype=np.float64).reshape(8, 8)
        double, comb = double_quantization(blocks, steps), float("nan")
    return [*grid_strength(gray), *grid_strength(gray.T), *double, comb]

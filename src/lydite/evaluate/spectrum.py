"""The power spectrum of one image's noise residual, and its radial profile: functions of arrays.

The residual is the image minus its median, as in Wang et al. 2020 (arXiv 1912.11035);
the radial profile is that of Durall et al. 2020 (arXiv 2003.01826).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
#: power below this is written as this: far under the rounding error of 8 bits, 1.3e-6
FLOOR = 1e-9
_LUMA = np.array([0.299, 0.587, 0.114])


def residual(gray: Float64) -> Float64:
    """Return an image minus its 3x3 median, which keeps noise and drops content.

    Args:
        gray: (H, W); edges are continued.
    """
    windows = sliding_window_view(np.pad(gray, 1, mode="edge"), (3, 3))
    middle = np.median(windows.reshape(*gray.shape, 9), axis=2)
    return np.asarray(gray - middle, dtype=np.float64)


def power_spectrum(values: Float64) -> Float64:
    """Return the power at every frequency, zero frequency in the middle (at S // 2).

    The mean is subtracted, a Hann window keeps the edges of the crop from looking like a cross,
    and the scale is such that white noise has its variance as its power at every frequency.

    Args:
        values: (S, S).

    Returns:
        (S, S); index i stands for the frequency (i - S // 2) / S in cycles a pixel.
    """
    line = np.hanning(len(values) + 1)[:-1]
    window = np.outer(line, line)
    spectrum = np.fft.fft2((values - values.mean()) * window)
    return np.asarray(np.fft.fftshift(np.abs(spectrum) ** 2) / (window**2).sum(), np.float64)


def decibel(power: Float64) -> Float64:
    """Return 10 log10 of a power, `FLOOR` at least."""
    return np.asarray(10 * np.log10(np.maximum(power, FLOOR)), dtype=np.float64)


def radial_profile(spectrum: Float64) -> Float64:
    """Return the mean over each ring of equal frequency, whatever the direction.

    Args:
        spectrum: (S, S), zero frequency at S // 2.

    Returns:
        (floor(S / sqrt(2)) + 1,); entry r is the mean where the distance to zero frequency, in
        steps of 1 / S cycles a pixel, rounds to r. The last entries are the corners.
    """
    size = len(spectrum)
    axis = np.arange(size) - size // 2
    ring = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(np.int64)
    most = int(size / np.sqrt(2))
    total = np.bincount(ring.ravel(), spectrum.ravel(), minlength=most + 1)
    count = np.bincount(ring.ravel(), minlength=most + 1)
    return np.asarray(total / np.maximum(count, 1), dtype=np.float64)[: most + 1]


def image_spectrum(rgb: NDArray[np.uint8], size: int) -> Float64:
    """Return the spectrum in dB of the residual of an image's center crop.

    Args:
        rgb: (H, W, 3) uint8, both sides at least `size`.
        size: side of the crop in pixels.

    Returns:
        (size, size), relative to a power of 1 on the 0..1 scale of the luma.
    """
    top, left = ((side - size) // 2 for side in rgb.shape[:2])
    crop = rgb[top : top + size, left : left + size]
    return decibel(power_spectrum(residual(crop @ _LUMA / 255)))

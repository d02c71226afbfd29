"""Simulated generators: photographs rebuilt by the up-sampling that image generators end in.

After AutoGAN (Zhang, Karaman and Chang 2019, "Detecting and Simulating Artifacts in GAN Fake
Images"): a photograph goes down to a smaller grid and up again, and the up-sampling leaves its
period in the result. A real generator also invents fine detail, as strong as that of the images
it learned from. So does this one: what the smaller grid lost in each place is put back as detail
of the same strength, one part noise that went through the up-sampling, one part grain as of a
camera. Sharpness and noise level then do not tell the two classes apart; the imprint does.
Images are float32 (3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lydite.data.demo.latent import LatentDecoder, fit_latent_decoder
from lydite.data.demo.photographs import LUMA, Float32, demosaic, frequencies

BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
#: of a strided 4x4 convolution
STRIDED = np.array([1, 3, 3, 1]) / 8
#: how much of a generator's own noise is color
CHROMA_NOISE = 0.4
#: from red, green, blue to brightness and two color differences
OPPONENT = np.stack([LUMA, np.array([1, 0, 0]) - LUMA, np.array([0, 0, 1]) - LUMA]).astype(
    np.float32
)
#: rings between zero frequency and the highest along an axis in which power is matched
RINGS = 12


def convolve(planes: Float32, kernel: NDArray[np.floating]) -> Float32:
    """Correlate each (..., H, W) plane with a small (h, w) kernel, wrapping round the edges."""
    height, width = kernel.shape
    rows, columns = planes.shape[-2:]
    # taps -(h - 1) // 2 ... h // 2 around each pixel
    before = ((height - 1) // 2, (width - 1) // 2)
    pad = [(0, 0)] * (planes.ndim - 2) + [(before[0], height // 2), (before[1], width // 2)]
    padded = np.pad(planes, pad, mode="wrap")
    total = np.zeros_like(planes)
    for row, column in np.argwhere(kernel):
        window = padded[..., row : row + rows, column : column + columns]
        total += np.float32(kernel[row, column]) * window
    return total


def separable(planes: Float32, taps: NDArray[np.floating]) -> Float32:
    """Correlate (..., H, W) planes with the outer product of `taps` with itself."""
    return convolve(convolve(planes, taps[None]), taps[:, None])


def high_pass(image: Float32) -> Float32:
    """Return what a binomial 3x3 blur takes out of the brightness: (3, H, W) to (H, W)."""
    luma = np.tensordot(LUMA, image, 1)
    return np.asarray(luma - separable(luma, np.array([0.25, 0.5, 0.25])), dtype=np.float32)


def halve(image: Float32, taps: NDArray[np.floating]) -> Float32:
    """Return (C, H, W) at half the size, as a strided convolution does: blurred, every second."""
    return separable(image, taps)[..., ::2, ::2]


def spread(image: Float32, first: int) -> Float32:
    """Put zeros between the pixels: (C, H, W) to (C, 2H, 2W), pixels at `first`, `first` + 2 ..."""
    channels, height, width = image.shape
    large = np.zeros((channels, 2 * height, 2 * width), np.float32)
    large[:, first::2, first::2] = image
    return large


@dataclass(frozen=True)
class Upsampler:
    """Doubles an image: zeros between the pixels, fixed taps, then a learned convolution.

    Attributes:
        taps: (4,) of the fixed interpolation; empty for a transposed convolution, which has none.
        kernel: (k, k), learned once for the generator.
        jitter: standard deviation by which each fake's kernel departs from it.
    """

    taps: tuple[float, ...]
    kernel: NDArray[np.floating]
    jitter: float

    def encode(self, image: Float32) -> Float32:
        """Return (3, H, W) at half the size."""
        # down and up have to agree where a pixel is: on a pixel, or between two of them
        return halve(image, STRIDED if self.taps else BINOMIAL)

    def decode(self, coarse: Float32, rng: np.random.Generator) -> Float32:
        """Return (C, h, w) at twice the size; every channel with the same kernel."""
        large = spread(coarse, 1 if self.taps else 0)
        if self.taps:
            large = separable(large, np.array(self.taps))
        kernel = self.kernel + rng.normal(0.0, self.jitter, self.kernel.shape)
        # one pixel in four is not zero: without fixed taps the kernel has to make up for that
        return convolve(large, kernel / kernel.sum() * (1 if self.taps else 4))


@dataclass(frozen=True)
class Generator:
    """A simulated generator.

    Attributes:
        network: takes images to a smaller grid and back.
        inner: share of the invented detail's power that goes through the up-sampling, 0 to 1.
        skip: share of the photograph's fine detail that goes round the smaller grid, as skip
            connections carry it; keeps edges sharp.
    """

    network: Upsampler | LatentDecoder
    inner: float
    skip: float = 0.65

    def __call__(self, photograph: Float32, rng: np.random.Generator) -> Float32:
        """Return the photograph as this generator would have made it.

        Args:
            photograph: (3, H, W) in [0, 1], sides multiples of 8.
            rng: decides this fake's small departures and its invented detail.

        Returns:
            (3, H, W) float32 in [0, 1].
        """
        coarse = self.network.encode(photograph)
        noise = rng.standard_normal(coarse.shape, dtype=np.float32) * CHROMA_NOISE
        if isinstance(self.network, Upsampler):
            noise += rng.standard_normal(coarse.shape[1:], dtype=np.float32)
        both = self.network.decode(np.concatenate([coarse, noise]), rng)
        base, through = both[:3], both[3:]
        base = base + self.skip * (photograph - separable(photograph, BINOMIAL))
        side = base.shape[1:]
        grain = demosaic(rng.standard_normal(side, dtype=np.float32))
        detail = np.sqrt(self.inner) * through / high_pass(through).std()
        detail += np.sqrt(1 - self.inner) * grain / high_pass(grain).std()
        wanted = local_power(photograph)
        fake = base + np.sqrt(np.maximum(wanted - local_power(base), 0.0)) * detail
        # the imprint counts as detail too: in smooth places it may not stand above the grain
        low = separable(fake, BINOMIAL)
        change = wanted / np.maximum(local_power(fake), 1e-9)
        fake = low + (fake - low) * np.sqrt(np.clip(change, 0.25, 2.0))
        return np.clip(match_spectrum(fake, photograph), 0.0, 1.0)


def local_power(image: Float32) -> Float32:
    """Return the power of the fine detail around each place of (3, H, W): (H, W)."""
    return separable(high_pass(image) ** 2, BINOMIAL)


def match_spectrum(image: Float32, like: Float32) -> Float32:
    """Give an image another one's power at every distance from zero frequency, whatever the angle.

    In brightness and in both color differences, each for itself.

    Generators that watch their spectrum do this (Durall, Keuper and Keuper 2020, "Watch your
    up-convolution"); where in a ring the power sits, and with which phase, stays the image's own.

    Args:
        image: (3, H, W), of which a copy is changed.
        like: (3, H, W).
    """
    height, width = image.shape[1:]
    rows, columns = frequencies(height, width)
    # zero frequency is alone in the first ring; the corners share the last one
    radius = np.hypot(rows, columns)
    ring = np.minimum(np.ceil(radius * 2 * RINGS), RINGS + 1).astype(np.int64)
    count = np.bincount(ring.ravel())
    ours, theirs = (np.fft.rfft2(np.tensordot(OPPONENT, of, 1)) for of in (image, like))
    for plane, wanted in zip(ours, theirs, strict=True):
        present, target = (
            np.bincount(ring.ravel(), (np.abs(of) ** 2).ravel()) / count for of in (plane, wanted)
        )
        gain = np.clip(np.sqrt(target / np.maximum(present, 1e-12)), 0.5, 2.0)
        plane *= gain.astype(np.float32)[ring]
    matched = np.tensordot(np.linalg.inv(OPPONENT), np.fft.irfft2(ours, s=(height, width)), 1)
    return np.asarray(matched, dtype=np.float32)


def _learned(
    rng: np.random.Generator, start: list[list[float]], departure: float
) -> NDArray[np.float64]:
    """Return a convolution kernel near `start` that sums to 1, as training leaves them."""
    kernel = np.array(start)
    kernel = kernel + rng.normal(0.0, departure, kernel.shape)
    return np.asarray(kernel / kernel.sum(), dtype=np.float64)


def make_generators(
    rng: np.random.Generator, photographs: Callable[[int], list[Float32]]
) -> dict[str, Generator]:
    """Return the simulated generators by name.

    Args:
        rng: decides the kernels that each has "learned".
        photographs: gives so many photographs, for those that have to be fitted to some.
    """
    ramp = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]
    sharpen = [[0.0, -0.1, 0.0], [-0.1, 1.4, -0.1], [0.0, -0.1, 0.0]]
    blur = [[0.02, 0.1, 0.02], [0.1, 0.52, 0.1], [0.02, 0.1, 0.02]]
    return {
        "sim-transposed": Generator(Upsampler((), _learned(rng, ramp, 0.010), 0.002), 0.5, 0.55),
        "sim-nearest": Generator(Upsampler((0, 1, 1, 0), _learned(rng, blur, 0.02), 0.01), 0.5),
        "sim-bilinear": Generator(
            Upsampler((0.25, 0.75, 0.75, 0.25), _learned(rng, sharpen, 0.02), 0.01), 0.5
        ),
        "sim-latent": Generator(fit_latent_decoder(photographs(48)), 0.5),
    }

"""A small latent autoencoder, fitted in closed form: the decoder of latent-diffusion generators.

The encoder is a strided convolution whose kernels are principal components of image patches; the
latent is quantized; the decoder is a strided transposed convolution, fitted by least squares to
give photographs back. Its windows overlap, and it still leaves the period of its stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lydite.data.demo.photographs import Float32

STRIDE = 4
WINDOW = 2 * STRIDE
#: how far apart two levels of a latent channel are, in its standard deviations
STEP = 0.25
#: weight of the penalty on the decoder's size, relative to the latents' mean power
RIDGE = 1e-4


def _windows(image: Float32) -> Float32:
    """Cut (3, H, W) into overlapping windows, one a cell: (H / 4, W / 4, 3 * 8 * 8)."""
    padded = np.pad(image, ((0, 0), (0, STRIDE), (0, STRIDE)), mode="wrap")
    view = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW), axis=(1, 2))
    cells = view[:, ::STRIDE, ::STRIDE].transpose(1, 2, 0, 3, 4)
    return np.ascontiguousarray(cells).reshape(*cells.shape[:2], -1)


def _neighbors(latent: Float32) -> Float32:
    """Stack each cell's latents with those of the windows that overlap it: (h, w, 4 * K)."""
    above, before = np.roll(latent, 1, 0), np.roll(latent, 1, 1)
    return np.concatenate([latent, above, before, np.roll(above, 1, 1)], axis=-1)


def _cells(image: Float32) -> Float32:
    """Cut (3, H, W) into cells side by side: (H / 4, W / 4, 3 * 4 * 4)."""
    _, height, width = image.shape
    split = image.reshape(3, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return split.transpose(1, 3, 0, 2, 4).reshape(height // STRIDE, width // STRIDE, -1)


def _join(cells: Float32) -> Float32:
    """Undo `_cells`."""
    rows, columns, _ = cells.shape
    split = cells.reshape(rows, columns, 3, STRIDE, STRIDE).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(split).reshape(3, rows * STRIDE, columns * STRIDE)


@dataclass(frozen=True)
class LatentDecoder:
    """A fitted autoencoder with a quarter of the sides and a few channels in between.

    Attributes:
        components: (192, K), the encoder: principal components over their standard deviation.
        decoder: (4 * K, 48), from the latents around a cell to its pixels.
        mean: (3,), the photographs' mean color.
        jitter: how much each fake's decoder departs from the fitted one, as a fraction.
    """

    components: Float32
    decoder: Float32
    mean: Float32
    jitter: float = 0.03

    def encode(self, image: Float32) -> Float32:
        """Return the quantized latent of (3, H, W), sides multiples of 4: (K, H / 4, W / 4)."""
        latent = _windows(image - self.mean[:, None, None]) @ self.components
        return np.asarray(np.rint(latent / STEP) * STEP, dtype=np.float32).transpose(2, 0, 1)

    def decode(self, latents: Float32, rng: np.random.Generator) -> Float32:
        """Return the images of several latents, by the same slightly changed decoder.

        Args:
            latents: (N * K, h, w).
            rng: decides the change.

        Returns:
            (N * 3, 4h, 4w); the first has the mean color added, the others not.
        """
        change = rng.normal(1.0, self.jitter, self.decoder.shape).astype(np.float32)
        decoder = self.decoder * change
        count = self.components.shape[1]
        images = []
        for start in range(0, len(latents), count):
            latent = latents[start : start + count].transpose(1, 2, 0)
            images.append(_join(_neighbors(latent) @ decoder))
        images[0] += self.mean[:, None, None]
        return np.concatenate(images)


def fit_latent_decoder(photographs: Sequence[Float32], channels: int = 16) -> LatentDecoder:
    """Fit encoder and decoder to photographs.

    Args:
        photographs: (3, H, W) each, sides multiples of 4.
        channels: of the latent, K; a cell has 48 values.
    """
    colors = np.stack([image.mean(axis=(1, 2)) for image in photographs])
    mean: Float32 = colors.mean(axis=0).astype(np.float32)
    centered: list[Float32] = [image - mean[:, None, None] for image in photographs]
    windows = np.concatenate([_windows(image).reshape(-1, 3 * WINDOW**2) for image in centered])
    power, vectors = np.linalg.eigh(windows.T.astype(np.float64) @ windows / len(windows))
    best = np.argsort(power)[::-1][:channels]
    # an eigenvector's sign is the library's choice; fix it, so that equal seeds give equal files
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    components = ((vectors * signs)[:, best] / np.sqrt(power[best])).astype(np.float32)
    blank = LatentDecoder(components, np.zeros((4 * channels, 3 * STRIDE**2), np.float32), mean)
    inputs = np.concatenate(
        [
            _neighbors(blank.encode(im).transpose(1, 2, 0)).reshape(-1, 4 * channels)
            for im in photographs
        ]
    ).astype(np.float64)
    outputs = np.concatenate([_cells(image).reshape(-1, 3 * STRIDE**2) for image in centered])
    normal = inputs.T @ inputs
    normal[np.diag_indices_from(normal)] += RIDGE * np.trace(normal) / len(normal)
    decoder = np.linalg.solve(normal, inputs.T @ outputs).astype(np.float32)
    return LatentDecoder(components, decoder, mean)

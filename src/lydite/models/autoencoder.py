"""Tiny autoencoders: a photograph goes to a small grid and comes back with the decoder's traces.

What gives generated images away is largely how their decoder enlarges a small grid (Odena et al.
2016, "Deconvolution and Checkerboard Artifacts"; Zhang, Karaman and Chang 2019, AutoGAN). So the
kinds differ in just that: how much smaller the grid is, and how a step of the decoder doubles it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.registry import Registry

#: channels at half, a quarter and an eighth of the image's size
WIDTHS = (32, 48, 64)
#: channels of the decoder at full size
FINAL_WIDTH = 16
#: values of the small grid stay within so much of zero, as in TAESD
LATENT_BOUND = 3.0
#: channels of the small grid for each unit of the factor
LATENT_PER_FACTOR = 2


def _nearest(inputs: int, outputs: int) -> nn.Module:
    """Repeat every pixel, then convolve."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv(inputs, outputs))


def _transposed(inputs: int, outputs: int) -> nn.Module:
    """Put zeros between the pixels and convolve."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def _shuffle(inputs: int, outputs: int) -> nn.Module:
    """Compute the four pixels of a larger one as channels (Shi et al. 2016)."""
    return nn.Sequential(_conv(inputs, 4 * outputs), nn.PixelShuffle(2))


UPSAMPLINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "nearest": _nearest,
    "transposed": _transposed,
    "shuffle": _shuffle,
}


@dataclass(frozen=True)
class TinyKind:
    """One kind of tiny autoencoder.

    Attributes:
        factor: side of the image over side of the small grid, 4 or 8.
        upsampling: how the decoder doubles the grid, a key of `UPSAMPLINGS`.
    """

    factor: int
    upsampling: str

    def build(self, seed: int) -> TinyAutoencoder:
        """Return it untrained; equal seeds give equal weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyAutoencoder(self.factor, self.upsampling)


AUTOENCODERS: Registry[TinyKind] = Registry("autoencoder")
for _factor in (4, 8):
    for _name in UPSAMPLINGS:
        AUTOENCODERS.add(f"tiny-f{_factor}-{_name}")(TinyKind(_factor, _name))


class TinyAutoencoder(nn.Module):
    """Encoder and decoder of 0.2 to 0.5 million parameters.

    `forward` takes (N, 3, H, W) in [-1, 1], sides multiples of the factor, and returns the same
    shape. The decoder is given noise at every size, so that it can make the fine detail that the
    small grid cannot hold (Karras et al. 2019, StyleGAN, section 3.2); it is drawn from torch's
    global generator.

    Args:
        factor: a power of two up to 8.
        upsampling: a key of `UPSAMPLINGS`.
    """

    def __init__(self, factor: int, upsampling: str) -> None:
        super().__init__()
        widths = WIDTHS[: factor.bit_length() - 1]
        latent = LATENT_PER_FACTOR * factor
        down: list[nn.Module] = [nn.PixelUnshuffle(2), _conv(12, widths[0]), _Residual(widths[0])]
        for before, width in zip(widths, widths[1:], strict=False):
            down += [_conv(before, width, stride=2), _Residual(width)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent, 1))
        up: list[nn.Module] = [_conv(latent, widths[-1]), _Residual(widths[-1])]
        for before, width in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [UPSAMPLINGS[upsampling](before, width), _Noise(width), _Residual(width)]
        up += [UPSAMPLINGS[upsampling](widths[0], FINAL_WIDTH), _Noise(FINAL_WIDTH), nn.SiLU()]
        self.decoder = nn.Sequential(*up, _Residual(FINAL_WIDTH), _conv(FINAL_WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, H, W) as the decoder makes it."""
        latent = torch.tanh(self.encoder(x) / LATENT_BOUND) * LATENT_BOUND
        return torch.as_tensor(self.decoder(latent))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; no normalization, which would blur colors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.second(F.silu(self.first(F.silu(x)))))


class _Noise(nn.Module):
    """Adds one map of white noise to all channels, each with a strength that is learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((1, width, 1, 1), 0.05))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        return x + self.strength * noise


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)

"""What a network sees in the place of colors: filters in front of the first layer.

Content is what a network learns first and what says least about where an image comes from. A
filter that takes it away leaves the finest detail, in which generators leave their traces.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrize

Filter = Literal["highpass", "npr", "wavelet", "bayar", "none"]
COLORS = 3
#: side of the constrained kernels in pixels, as in the paper
BAYAR_SIDE = 5


class Residual(nn.Module):
    """A filter on the input, (N, 3, S, S) to (N, C, S, S), C as `channels` says.

    Edges of the image are continued, so that they are no trace.

    - "highpass": each color minus its 3x3 binomial blur (1 2 1 / 2 4 2 / 1 2 1) / 16. Constant
      areas and linear ramps become zero.
    - "npr": each pixel minus the top-left one of its 2x2 cell: x - up(down(x)) with the nearest
      pixel, by two; the neighboring pixel relations of Tan et al. 2024 (arXiv 2312.10461,
      equation 3, without its constant factor).
    - "wavelet": the three detail bands of the Haar transform (differences along x, along y, and
      across), at every position instead of every second (the stationary transform of Nason and
      Silverman 1995), so that the first layer keeps the full resolution; nine channels, the bands
      of red first. Wolter et al. 2022 (arXiv 2106.09369) detect generated images in wavelets.
    - "bayar": a learned 5x5 convolution to three channels that can only predict a pixel from its
      neighbors and give the error, see `Constrained`.
    - "none": the input itself.

    All but "bayar" have nothing to learn, and no stored tensors.

    Args:
        kind: which of them.
    """

    kernel: Tensor

    def __init__(self, kind: Filter) -> None:
        super().__init__()
        self.kind = kind
        self.channels = 3 * COLORS if kind == "wavelet" else COLORS
        kernels = {"highpass": _binomial, "wavelet": _haar}
        # A constant of the program, not a weight: it stays out of the stored tensors.
        kernel = kernels[kind]() if kind in kernels else None
        self.register_buffer("kernel", kernel, persistent=False)
        if kind == "bayar":
            self.conv = _constrained()

    def forward(self, x: Tensor) -> Tensor:
        """Return what the first layer sees of (N, 3, S, S)."""
        if self.kind == "highpass":
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.kernel, groups=COLORS)
        if self.kind == "npr":
            return x - F.interpolate(x[..., ::2, ::2], scale_factor=2.0, mode="nearest")
        if self.kind == "wavelet":
            return F.conv2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), self.kernel, groups=COLORS)
        if self.kind == "bayar":
            around = BAYAR_SIDE // 2
            padded = F.pad(x, (around, around, around, around), mode="replicate")
            return self.conv(padded)  # type: ignore[no-any-return]
        return x


class Constrained(nn.Module):
    """Turns free kernels into the nearest ones whose center is -1 and whose rest sums to 1.

    Bayar and Stamm 2018, "Constrained Convolutional Neural Networks" (IEEE TIFS), for
    every pair of input and output channel. They put the kernels back after every update, dividing
    by the sum; here it is done in the forward pass, so that the constraint holds whatever changes
    the free values, and by a shift, which unlike a division is defined where the sum is zero.

    Args:
        side: of the kernels in pixels, odd.
    """

    others: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        others = torch.ones(side, side)
        others[side // 2, side // 2] = 0
        self.register_buffer("others", others, persistent=False)

    def forward(self, free: Tensor) -> Tensor:
        """Return constrained kernels (O, I, k, k) for free ones."""
        rest = free * self.others
        missing = (1 - rest.sum((2, 3), keepdim=True)) / (free.shape[2] * free.shape[3] - 1)
        return rest + missing * self.others - (1 - self.others)

    def right_inverse(self, kernels: Tensor) -> Tensor:
        """Return free values that become these kernels: themselves, where they are constrained."""
        return kernels


def _constrained() -> nn.Conv2d:
    """Return the constrained convolution; its `weight` is computed from what is learned."""
    conv = nn.Conv2d(COLORS, COLORS, BAYAR_SIDE, bias=False)
    parametrize.register_parametrization(conv, "weight", Constrained(BAYAR_SIDE))
    return conv


def _binomial() -> Tensor:
    """Return the high-pass kernel of every color, (3, 1, 3, 3)."""
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = -torch.outer(line, line) / 16
    kernel[1, 1] += 1
    return kernel.expand(COLORS, 1, 3, 3).contiguous()


def _haar() -> Tensor:
    """Return the kernels of the three detail bands for every color, (9, 1, 2, 2)."""
    low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    bands = [torch.outer(low, high), torch.outer(high, low), torch.outer(high, high)]
    return (torch.stack(bands) / 2).unsqueeze(1).repeat(COLORS, 1, 1, 1)

"""Degraded copies of a crop: what happens to images on their way through the net.

A student that learns from degraded copies what its teacher says of the clean ones becomes robust
without the teacher ever being asked about images it was not made for.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from lydite.config import Fraction, Frozen
from lydite.data.distort import UInt8, blurred, recompressed, rescaled

Quality = Annotated[int, Field(ge=1, le=100)]
Scale = Annotated[float, Field(ge=0.1, le=1)]
LEAST_RADIUS = 0.1


class Degrade(Frozen):
    """How often and how much crops are degraded: scaled, then blurred, then compressed.

    Attributes:
        jpeg: probability of re-compressing a crop at a quality in `jpeg_quality`.
        jpeg_quality: lowest and highest quality.
        blur: probability of a Gaussian blur with a radius up to `blur_radius` pixels.
        blur_radius: largest radius.
        resize: probability of scaling a crop down and back up, by a factor in `resize_scale`.
        resize_scale: smallest and largest factor.
    """

    jpeg: Fraction = 0.0
    jpeg_quality: tuple[Quality, Quality] = (40, 95)
    blur: Fraction = 0.0
    blur_radius: Annotated[float, Field(gt=LEAST_RADIUS, le=10)] = 1.0
    resize: Fraction = 0.0
    resize_scale: tuple[Scale, Scale] = (0.5, 1.0)

    @model_validator(mode="after")
    def _does_something(self) -> Degrade:
        if self.jpeg_quality[0] > self.jpeg_quality[1]:
            raise ValueError(f"jpeg_quality must ascend; got {self.jpeg_quality}")
        if self.resize_scale[0] > self.resize_scale[1]:
            raise ValueError(f"resize_scale must ascend; got {self.resize_scale}")
        if not (self.jpeg or self.blur or self.resize):
            raise ValueError("give at least one of jpeg, blur and resize a probability above 0")
        return self

    def apply(self, crop: UInt8, rng: np.random.Generator) -> UInt8:
        """Return a copy of a crop, (S, S, 3) uint8, degraded as `rng` decides."""
        if rng.random() < self.resize:
            crop = rescaled(crop, float(rng.uniform(*self.resize_scale)))
        if rng.random() < self.blur:
            crop = blurred(crop, float(rng.uniform(LEAST_RADIUS, self.blur_radius)))
        if rng.random() < self.jpeg:
            low, high = self.jpeg_quality
            crop = recompressed(crop, int(rng.integers(low, high + 1)))
        return crop.copy()

"""Degraded copies of a crop: what happens to images on their way through the net.

A network that has to say of a degraded copy what it, or its teacher, says of the clean one becomes
robust. Mild is enough, and better than heavy: what destroys a generator's trace teaches nothing.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lydite.config import Fraction, Frozen
from lydite.data.distort import FILTERS, UInt8, blurred, noisy, recompressed, rescaled, resized

Quality = Annotated[int, Field(ge=1, le=100)]
Scale = Annotated[float, Field(ge=0.1, le=1)]
Factor = Annotated[float, Field(ge=0.25, le=4)]
LEAST_RADIUS = 0.1
#: fields that older entries do not have; left out while unused, so that these read as they did
NEWER = (
    *("noise", "noise_level", "webp", "webp_quality"),
    *("scale", "scale_factor", "scale_place", "jpeg_grid"),
)
#: JPEG transforms blocks of this many pixels
JPEG_BLOCK = 8
#: and of so many where colors are stored at half the size, as most files have them
COLOR_BLOCK = 16


class Degrade(Frozen):
    """How often and how much crops are degraded: scaled, blurred, noisy, compressed, in this order.

    `scale` is what a gallery or a network does to a picture, which stays that size; `resize` goes
    there and back, and so only blurs.

    Attributes:
        jpeg: probability of re-compressing a crop at a quality in `jpeg_quality`.
        jpeg_quality: lowest and highest quality.
        blur: probability of a Gaussian blur with a radius up to `blur_radius` pixels.
        blur_radius: largest radius.
        resize: probability of scaling a crop down and back up, by a factor in `resize_scale`.
        resize_scale: smallest and largest factor.
        noise: probability of Gaussian noise with a deviation up to `noise_level`.
        noise_level: largest standard deviation, in steps of 1/255.
        webp: probability of re-compressing a crop as WebP at a quality in `webp_quality`, after
            JPEG where both happen.
        webp_quality: lowest and highest quality.
        scale: probability of scaling the image by a factor in `scale_factor`, before the crop is
            cut: it shows more of the image, or less of it. With a random one of three filters.
        scale_factor: smallest and largest factor of its sides.
        scale_place: where the clean crop lies in the part of the image that scaled copies may
            need: at its upper left "corner", so that images hardly larger than that part give crops
            of their upper left (or, mirrored, right) alone; or "anywhere" in it, with a scaled copy
            that shows what is around it on all sides.
        jpeg_grid: where the blocks of `jpeg` and `webp` begin: with the "crop", wherever that lies
            in its image; or as in the "image", so that a crop is cut out of what was saved anew
            as a whole, and the new blocks lie on those of an earlier JPEG, which then changes far
            less. Scaled images have blocks of their own in any case, which begin with the crop.
    """

    jpeg: Fraction = 0.0
    jpeg_quality: tuple[Quality, Quality] = (40, 95)
    blur: Fraction = 0.0
    blur_radius: Annotated[float, Field(gt=LEAST_RADIUS, le=10)] = 1.0
    resize: Fraction = 0.0
    resize_scale: tuple[Scale, Scale] = (0.5, 1.0)
    noise: Fraction = 0.0
    noise_level: Annotated[float, Field(gt=0, le=64)] = 4.0
    webp: Fraction = 0.0
    webp_quality: tuple[Quality, Quality] = (60, 95)
    scale: Fraction = 0.0
    scale_factor: tuple[Factor, Factor] = (0.65, 1.0)
    scale_place: Literal["corner", "anywhere"] = "corner"
    jpeg_grid: Literal["crop", "image"] = "crop"

    @model_validator(mode="after")
    def _does_something(self) -> Degrade:
        for name in ("jpeg_quality", "resize_scale", "webp_quality", "scale_factor"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must ascend; got {(low, high)}")
        if not any((self.jpeg, self.blur, self.resize, self.noise, self.webp, self.scale)):
            raise ValueError(
                "give at least one of jpeg, blur, resize, noise, webp and scale a probability "
                "above 0"
            )
        if self.jpeg_grid == "image" and not (self.jpeg or self.webp):
            raise ValueError("`jpeg_grid` is for `jpeg` and `webp`; give one of them a probability")
        if self.scale_place == "anywhere" and not self.scale:
            raise ValueError("`scale_place` is for `scale`; give it a probability")
        return self

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is newer and not used, so that older entries have the same keys."""
        value: dict[str, Any] = handler(self)
        unused = {name for name in NEWER if getattr(self, name) == _default(name)}
        return {name: item for name, item in value.items() if name not in unused}

    def view(self, size: int) -> int:
        """Return how many pixels of each side of the image copies of crops of this size need."""
        return math.ceil(size / min(self.scale_factor[0], 1.0)) if self.scale else size

    def apply(
        self,
        view: UInt8,
        rng: np.random.Generator,
        size: int | None = None,
        offset: tuple[int, int] = (0, 0),
    ) -> UInt8:
        """Return a degraded copy of a crop, as `rng` decides.

        Args:
            view: the crop and what is around it, which begins where blocks of JPEG do and holds as
                much as `view` says, right of and below the crop where `scale_place` is "corner",
                (V, V, 3) uint8; not changed.
            rng: decides.
            size: of the crop, S; V unless given.
            offset: rows and columns of `view` before the crop.

        Returns:
            (S, S, 3) uint8, an array of its own.
        """
        size = len(view) if size is None else size
        crop, (down, right) = self._around(view, size, offset)
        if self.scale and rng.random() < self.scale:
            crop, (down, right) = self._scaled(view, rng, size, offset), (0, 0)
        if rng.random() < self.resize:
            crop = rescaled(crop, float(rng.uniform(*self.resize_scale)))
        if rng.random() < self.blur:
            crop = blurred(crop, float(rng.uniform(LEAST_RADIUS, self.blur_radius)))
        if self.noise and rng.random() < self.noise:
            crop = noisy(crop, float(rng.uniform(0, self.noise_level)), rng)
        if rng.random() < self.jpeg:
            low, high = self.jpeg_quality
            crop = recompressed(crop, int(rng.integers(low, high + 1)))
        if self.webp and rng.random() < self.webp:
            low, high = self.webp_quality
            crop = recompressed(crop, int(rng.integers(low, high + 1)), "WEBP")
        return crop[down : down + size, right : right + size].copy()

    def _around(
        self, view: UInt8, size: int, offset: tuple[int, int]
    ) -> tuple[UInt8, tuple[int, int]]:
        """Return what is saved anew with a crop, and where in it the crop begins."""
        (down, right), reach = offset, size
        if self.jpeg_grid == "image":
            down, right = down % COLOR_BLOCK, right % COLOR_BLOCK
            # whole blocks: one that is cut off is padded, and its colors change
            reach = COLOR_BLOCK * math.ceil((size + max(down, right)) / COLOR_BLOCK)
        else:
            down, right = 0, 0
        top, left = offset[0] - down, offset[1] - right
        return view[top : top + reach, left : left + reach], (down, right)

    def _scaled(
        self, view: UInt8, rng: np.random.Generator, size: int, offset: tuple[int, int]
    ) -> UInt8:
        """Return a crop of the scaled image, at or around the place of the clean one."""
        window = max(1, round(size / float(rng.uniform(*self.scale_factor))))
        if self.scale_place == "corner":
            window = min(len(view) - max(offset), window)
        window = min(len(view), window)
        chosen = FILTERS[int(rng.integers(len(FILTERS)))]
        top, left = offset
        if self.scale_place == "anywhere":
            top, left = (self._start(first, size, window, len(view), rng) for first in offset)
        return resized(view[top : top + window, left : left + window], size, chosen)

    @staticmethod
    def _start(first: int, size: int, window: int, end: int, rng: np.random.Generator) -> int:
        """Return where a window around a crop begins, or within it where that is larger."""
        low, high = sorted((first, first + size - window))
        return int(rng.integers(max(0, low), min(high, end - window) + 1))


def _default(name: str) -> Any:
    """Return what a field of `Degrade` is unless given."""
    return Degrade.model_fields[name].default

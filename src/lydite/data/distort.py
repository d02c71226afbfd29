"""What happens to pixels on their way through the net: compression, scaling, blur, noise, cropping.

Pure functions from pixels to pixels, (H, W, 3) uint8. Training degrades its crops with them, and
an evaluation its whole images.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lydite.data.reasons import MAX_PIXELS
from lydite.errors import DecodeError

UInt8 = NDArray[np.uint8]
#: longest side that a format can hold (JPEG: Pillow's own limit)
MOST_SIDE = {"JPEG": 65500, "WEBP": 16383}
#: what programs scale images with; all anti-alias what becomes smaller
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)


def recompressed(rgb: UInt8, quality: int, file_format: Literal["JPEG", "WEBP"] = "JPEG") -> UInt8:
    """Return an image after lossy compression with Pillow's defaults for a format.

    JPEG halves the resolution of color (4:2:0), as most programs do.

    Args:
        rgb: (H, W, 3) uint8.
        quality: from 1 to 100.
        file_format: what to compress as.

    Raises:
        DecodeError: code "too-many-pixels": a side is longer than the format can hold.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > MOST_SIDE[file_format]:
        raise DecodeError(
            f"An image of {width}x{height} pixels cannot be compressed as {file_format}, whose "
            f"sides have at most {MOST_SIDE[file_format]}.",
            "too-many-pixels",
        )
    buffer = io.BytesIO()
    _image(rgb).save(buffer, file_format, quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"), dtype=np.uint8)


def blurred(rgb: UInt8, radius: float) -> UInt8:
    """Return an image after a Gaussian blur; `radius` is its standard deviation in pixels."""
    return np.asarray(_image(rgb).filter(ImageFilter.GaussianBlur(radius)), dtype=np.uint8)


def scaled(rgb: UInt8, factor: float) -> UInt8:
    """Return an image with its sides times a factor, bicubic; smaller ones are anti-aliased.

    Raises:
        DecodeError: code "too-many-pixels": the result is larger than any image may be.
    """
    height, width = rgb.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return rgb
    if size[0] * size[1] > MAX_PIXELS:
        raise DecodeError(
            f"Scaled to {size[0]}x{size[1]}, the image has more than the {MAX_PIXELS:,} pixels "
            "allowed.",
            "too-many-pixels",
        )
    return np.asarray(_image(rgb).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


def fitted(rgb: UInt8, most: int) -> UInt8:
    """Return an image scaled down until its longest side has `most` pixels, if it has more."""
    longest = max(rgb.shape[:2])
    return rgb if longest <= most else scaled(rgb, most / longest)


def resized(rgb: UInt8, size: int, resampling: Image.Resampling) -> UInt8:
    """Return an image scaled to `size` pixels on each side; the same pixels where it has them."""
    if rgb.shape[:2] == (size, size):
        return rgb
    return np.asarray(_image(rgb).resize((size, size), resampling), dtype=np.uint8)


def rescaled(rgb: UInt8, scale: float) -> UInt8:
    """Return an image scaled by a factor up to 1 and back to its size, bilinear."""
    height, width = rgb.shape[:2]
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = _image(rgb).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)


def cropped(rgb: UInt8, share: float) -> UInt8:
    """Return the middle of an image, with this share of each of its sides."""
    height, width = rgb.shape[:2]
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - tall) // 2, (width - wide) // 2
    return np.ascontiguousarray(rgb[top : top + tall, left : left + wide])


def noisy(rgb: UInt8, sigma: float, rng: np.random.Generator) -> UInt8:
    """Return an image plus Gaussian noise of standard deviation `sigma`, in levels of 0 to 255."""
    noise = rng.standard_normal(rgb.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


def _image(rgb: UInt8) -> Image.Image:
    """Return pixels as Pillow's image."""
    return Image.fromarray(np.ascontiguousarray(rgb))

"""Cut a photograph, and give its twin the same compression history.

A photograph out of a JPEG carries that JPEG's block grid and quantization, and what a decoder makes
of it carries less of both: enough to tell the two apart without looking at the decoder at all (Chen
et al. 2025, "Dual Data Alignment", arXiv 2505.14359, who blend frequencies instead). So crops begin
where a block does, and the twin is compressed once with the very tables of the photograph's own
file before both are saved alike. Then both were: made, compressed with the same tables on the same
grid, saved with the same settings.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError
from pydantic import Field

from lydite.config import Frozen
from lydite.data.decode import decode
from lydite.data.header import read_info
from lydite.data.pixels import as_stored, orientation
from lydite.data.reasons import refuse
from lydite.data.strict import strict_pillow
from lydite.errors import DecodeError

UInt8 = NDArray[np.uint8]

#: pixels of JPEG's largest usual unit: with 4:2:0 a chroma block covers 16x16 pixels
UNIT = 16
#: smallest side of a crop
LEAST_SIDE = 64
#: Pillow's numbers for chroma subsampling
_SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


class Encoding(Frozen):
    """How both twins are saved; nothing of the photograph's metadata is kept.

    Attributes:
        format: "png", without loss, or "jpeg", baseline with 4:2:0 color.
        quality: of JPEG, as IJG's library counts.
    """

    format: Literal["png", "jpeg"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95

    @property
    def suffix(self) -> str:
        """The end of file names."""
        return ".png" if self.format == "png" else ".jpg"

    def encode(self, rgb: UInt8) -> bytes:
        """Return (H, W, 3) pixels as a file."""
        buffer = io.BytesIO()
        if self.format == "png":
            Image.fromarray(rgb).save(buffer, "PNG")
        else:
            Image.fromarray(rgb).save(buffer, "JPEG", quality=self.quality, subsampling=2)
        return buffer.getvalue()


@dataclass(frozen=True)
class LastSave:
    """How a JPEG file was compressed.

    Attributes:
        tables: quantization table of each component, 64 numbers row by row.
        subsampling: of color, in Pillow's numbers.
        turn: EXIF orientation: the blocks lie as the pixels are stored, not as they are seen.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int
    turn: int

    @property
    def gray(self) -> bool:
        """Without color."""
        return len(self.tables) == 1

    def again(self, rgb: UInt8) -> UInt8:
        """Compress upright pixels this way, on this grid, and return what is left of them.

        Args:
            rgb: (S, S, 3), S a multiple of `UNIT`.
        """
        image = Image.fromarray(np.ascontiguousarray(as_stored(rgb, self.turn)))
        buffer = io.BytesIO()
        tables = [list(table) for table in self.tables]
        if self.gray:
            image.convert("L").save(buffer, "JPEG", qtables=tables)
        else:
            image.save(buffer, "JPEG", qtables=tables, subsampling=self.subsampling)
        upright = np.empty_like(rgb)
        as_stored(upright, self.turn)[...] = decode(buffer.getvalue())
        return upright


@dataclass(frozen=True)
class Crop:
    """A square out of a photograph, on the grid of its blocks.

    Attributes:
        rgb: (S, S, 3) uint8, upright.
        saved: how the photograph's file was compressed; None where it was not a JPEG.
    """

    rgb: UInt8
    saved: LastSave | None

    def twin(self, rgb: UInt8) -> UInt8:
        """Return what a decoder made of this crop, with the photograph's own history."""
        if (self.rgb == self.rgb[..., :1]).all():  # colors alone would give it away
            rgb = np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, axis=2)
        return rgb if self.saved is None else self.saved.again(rgb)


def side_of(width: int, height: int, size: int) -> int:
    """Return the side of the crop of a photograph: nothing is ever enlarged.

    >>> side_of(4000, 3000, 256), side_of(250, 300, 256)
    (256, 240)
    """
    return min(size, min(width, height) // UNIT * UNIT)


def take_crop(data: bytes, where: str, size: int, seed: int) -> Crop:
    """Decode a photograph and cut a square whose place follows from seed and size alone.

    Args:
        data: the file.
        where: its name, for messages.
        size: side of the crop, where the photograph has so much.
        seed: of the place.

    Raises:
        DecodeError: the file cannot be read, or is too small.
    """
    rgb = decode(data)
    saved = last_save(data, where)
    height, width = rgb.shape[:2]
    side = side_of(width, height, size)
    if side < LEAST_SIDE:
        raise DecodeError(f"{where}: {width}x{height} pixels are too few.", "too-small")
    turn = 1 if saved is None else saved.turn
    rng = np.random.default_rng(seed)
    y = _place(rng, height, side, flipped=_flips(turn)[0])
    x = _place(rng, width, side, flipped=_flips(turn)[1])
    return Crop(np.ascontiguousarray(rgb[y : y + side, x : x + side]), saved)


def _place(rng: np.random.Generator, length: int, side: int, *, flipped: bool) -> int:
    """Return where a crop starts along a side: where a block does, counted from its first pixel."""
    first = length % UNIT if flipped else 0
    return first + UNIT * int(rng.integers((length // UNIT * UNIT - side) // UNIT + 1))


def _flips(turn: int) -> tuple[bool, bool]:
    """Return whether stored blocks are counted from the upright image's bottom, and its right."""
    corner = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    first = int(as_stored(corner, turn)[0, 0, 0])
    return first in (3, 4), first in (2, 4)


def last_save(data: bytes, where: str) -> LastSave | None:
    """Return how a file that decodes was compressed, or None where it is no JPEG with 1 or 3 parts.

    Args:
        data: the file.
        where: which file, for people.

    Raises:
        DecodeError: a JPEG whose tables cannot be known.
    """
    with strict_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
        except UnidentifiedImageError:
            return None
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
            return None
        found = image.quantization
        if any(layer[3] not in found for layer in image.layer):
            # a table that only comes after the first scan, which Pillow does not keep
            raise refuse("late-tables", where)
        tables = tuple(tuple(int(v) for v in found[layer[3]]) for layer in image.layer)
        subsampling = read_info(image, data).subsampling or ""
        return LastSave(tables, _SUBSAMPLINGS.get(subsampling, 2), orientation(image))

"""What a file says about itself before any pixel is decoded."""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from lydite.data.reasons import MAX_FRAMES

#: IJG's luminance table at quality 50, row by row (ITU-T T.81, table K.1)
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55)
    + (14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62)
    + (18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
    + (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
)
_EXIF_IFD = 0x8769
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II\x2a\0|MM\0\x2a|II\x2b\0|MM\0\x2b|"
    rb"RIFF....WEBP|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6yfF][\s#]|....ftypavi[fs]",
    re.DOTALL,
)
_HEIC = re.compile(rb"....ftyp(hei[cxsm]|hev[cxms]|mif1|msf1)", re.DOTALL)
_VECTOR = re.compile(
    rb"\s*(%PDF|%!PS|\xc5\xd0\xd3\xc6|<svg[\s/>])|\s*<\?xml.{0,2000}?<svg[\s/>]", re.S
)


@dataclass(frozen=True)
class ImageInfo:
    """A header's content.

    Attributes:
        format: "JPEG", "PNG", ... as the content says; None for arrays and images in memory.
        width: in pixels, as stored (before the EXIF orientation).
        height: in pixels, as stored.
        mode: kind of pixels in Pillow's words ("RGB", "L", "P", "I;16", ...).
        size_bytes: of the file; None for arrays and images in memory.
        quality: JPEG quality from 1 to 100 whose IJG luminance table is nearest to the file's;
            None for other formats.
        quantization: the JPEG luminance table, row by row; None for other formats.
        subsampling: JPEG chroma subsampling such as "4:2:0"; None for gray and other formats.
        progressive: a progressive JPEG.
        frames: frames of an animation or pages of a document.
        has_exif: there is an EXIF block.
        has_icc: there is a color profile.
    """

    format: str | None
    width: int
    height: int
    mode: str
    size_bytes: int | None = None
    quality: int | None = None
    quantization: tuple[int, ...] | None = None
    subsampling: str | None = None
    progressive: bool = False
    frames: int = 1
    has_exif: bool = False
    has_icc: bool = False


def read_info(image: Image.Image, data: bytes | None) -> ImageInfo:
    """Return what an opened image's header says; nothing is decoded.

    Args:
        image: as `PIL.Image.open` returned it.
        data: the file's bytes, or None for an image in memory.
    """
    table = luminance_table(image)
    return ImageInfo(
        format=image.format,
        width=image.width,
        height=image.height,
        mode=image.mode,
        size_bytes=None if data is None else len(data),
        quality=None if table is None else nearest_quality(table),
        quantization=table,
        subsampling=_subsampling(image),
        progressive=bool(image.info.get("progressive")) and isinstance(image, JpegImageFile),
        frames=1 if data is None else count_frames(image, data),
        has_exif="exif" in image.info or _EXIF_IFD in getattr(image, "tag_v2", ()),
        has_icc=bool(image.info.get("icc_profile")),
    )


def luminance_table(image: Image.Image) -> tuple[int, ...] | None:
    """Return a JPEG's quantization table of the first component, row by row, else None."""
    if not isinstance(image, JpegImageFile):
        return None
    tables: dict[int, Any] = image.quantization
    if not tables:
        return None
    index = image.layer[0][3] if image.layer else 0
    values = tuple(int(v) for v in tables.get(index, next(iter(tables.values()))))
    return values if len(values) == len(LUMINANCE) else None


@functools.lru_cache(maxsize=1024)  # a data set holds few tables, and the search is slow
def nearest_quality(table: tuple[int, ...]) -> int:
    """Return the IJG quality, 1 to 100, whose luminance table differs least from `table`.

    Tables that IJG's library (and nearly every camera and program that uses its scaling) wrote
    give their quality exactly; others give the nearest.
    """

    def distance(quality: int) -> int:
        return sum(abs(a - b) for a, b in zip(ijg_table(quality), table, strict=True))

    return min(range(100, 0, -1), key=distance)


def ijg_table(quality: int) -> tuple[int, ...]:
    """Return libjpeg's baseline luminance table at a quality from 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(255, max(1, (base * scale + 50) // 100)) for base in LUMINANCE)


def sniff(data: bytes) -> str:
    """Return the reason code for content that no reader of ours knew."""
    start = data[:4096]
    if _MAGIC.match(start):
        return "damaged-header"
    if _HEIC.match(start):
        return "heic"
    return "vector" if _VECTOR.match(start.removeprefix(b"\xef\xbb\xbf")) else "not-an-image"


def count_frames(image: Image.Image, data: bytes) -> int:
    """Return how many frames a file holds; counting stops at one more than are allowed.

    Pillow counts by parsing, for GIF and TIFF, every frame; here only the chain of blocks is
    followed, so that a file of a million pages costs no more than one of a thousand.
    """
    if image.format == "GIF":
        return _gif_frames(data)
    if image.format == "TIFF":
        return _tiff_frames(data)
    return int(getattr(image, "n_frames", 1))


def _subsampling(image: Image.Image) -> str | None:
    if not isinstance(image, JpegImageFile) or len(image.layer) != 3:
        return None
    (_, h0, v0, _), (_, h1, v1, _) = image.layer[:2]
    if not h1 or not v1 or h0 % h1 or v0 % v1 or v0 // v1 > 2:
        return None
    width = h0 // h1
    return (
        f"4:{4 // width}:{0 if v0 // v1 == 2 and width > 1 else 4 // width}"
        if (v0 == v1 or width > 1)
        else "4:4:0"
    )


def _gif_frames(data: bytes) -> int:
    position = 13
    if len(data) > 10 and data[10] & 0x80:
        position += 3 << ((data[10] & 7) + 1)
    frames = 0
    while position < len(data) and frames <= MAX_FRAMES:
        kind = data[position]
        if kind == 0x2C and position + 10 <= len(data):
            frames += 1
            flags = data[position + 9]
            position += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        elif kind == 0x21:
            position += 2
        else:
            break
        while position < len(data) and data[position]:
            position += data[position] + 1
        position += 1
    return max(frames, 1)


def _tiff_frames(data: bytes) -> int:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\x00", b"\x00\x2b")
    count_format, offset_format, entry = ("Q", "Q", 20) if big else ("H", "L", 12)
    count_size, position = struct.calcsize(count_format), 8 if big else 4
    seen: set[int] = set()
    while len(seen) <= MAX_FRAMES:
        try:
            (directory,) = struct.unpack_from(order + offset_format, data, position)
            if not directory or directory in seen:
                break
            (entries,) = struct.unpack_from(order + count_format, data, directory)
        except (struct.error, OverflowError, IndexError):
            break
        seen.add(directory)
        position = directory + count_size + entries * entry
    return max(len(seen), 1)

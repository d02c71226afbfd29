"""The one strict decoder: whatever the source, upright RGB bytes or a reason why not.

Strict means: pixels first, metadata after; a file that ends early or is damaged is refused, also
where the process allows Pillow to load truncated files; the content decides what a file is, not
its name; only the formats of `FORMATS` are opened, none of which starts a helper program; bombs,
huge texts and thousands of frames are refused from the header. Of an animation or a document the
first frame counts. No file is ever written.

Memory is about seven bytes a pixel beside the file itself (Pillow's image and the result);
progressive JPEG, AVIF and WebP need their decoder's own buffers on top.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from lydite.data.header import ImageInfo, count_frames, read_info, sniff
from lydite.data.pixels import UInt8, mend_key, upright_rgb
from lydite.data.reasons import (
    MAX_FILE_BYTES,
    MAX_FRAMES,
    MAX_PIXELS,
    REASONS,
    printable,
    refuse,
)
from lydite.data.strict import strict_pillow
from lydite.data.whole import ends, png_has_all_rows
from lydite.errors import DecodeError

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "REASONS",
    "ImageInfo",
    "Source",
    "decode",
    "describe",
    "inspect",
    "printable",
    "read_source",
]

Source = str | Path | bytes | Image.Image | NDArray[Any]

#: importing a plugin registers its format with Pillow
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
#: formats that are opened, by Pillow's names
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: what Pillow calls a JPEG that has further pictures behind it
_JPEG_WITH_MORE = "MPO"


def decode(source: Source) -> UInt8:
    """Decode an image.

    Args:
        source: a path, a file's bytes, a PIL image (the frame it stands at), or an array of
            upright pixels, (H, W, 3) RGB or (H, W) gray, uint8.

    Returns:
        (H, W, 3) uint8, RGB, upright, C-contiguous. An array that is already so is returned as it
        is, not copied.

    Raises:
        DecodeError: whatever is wrong; its code is a key of `REASONS`.
    """
    where = describe(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, where)
    with strict_pillow():
        image, data = _open(source, where)
        try:
            image.load()
            if data is not None:
                _require_whole(image, data, where)
                mend_key(image, data)
            return upright_rgb(image, where)
        except DecodeError:
            raise
        except MemoryError as error:
            raise refuse("out-of-memory", where) from error
        except Exception as error:
            raise _refusal(error, where) from error


def _require_whole(image: Image.Image, data: bytes, where: str) -> None:
    """Refuse a loaded file of whose pixels a part is missing, as far as its format tells."""
    kind = "JPEG" if image.format == _JPEG_WITH_MORE else image.format
    if kind in ("JPEG", "PNG") and not ends(data, kind):
        raise refuse("truncated", where, "the end of the file is empty")
    if kind == "PNG" and not png_has_all_rows(image, data):
        raise refuse("truncated", where, "rows are missing")


def inspect(source: Source) -> ImageInfo:
    """Return what an image's header says, without decoding its pixels.

    Raises:
        DecodeError: not an image that is read here, or its header is damaged or over a limit.
    """
    where = describe(source)
    if isinstance(source, np.ndarray):
        height, width = _from_array(source, where).shape[:2]
        return ImageInfo(format=None, width=width, height=height, mode="RGB")
    with strict_pillow():
        image, data = _open(source, where)
        try:
            return read_info(image, data)
        except Exception as error:
            raise refuse("damaged-header", where, _words(error)) from error


def describe(source: object) -> str:
    """Return a name for an image source: its path, or what kind of object it is."""
    if isinstance(source, str | Path):
        return printable(str(source))
    kinds = {bytes: "<bytes>", np.ndarray: "<array>"}
    return kinds.get(type(source), "<image>")


def read_source(path: str | Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        DecodeError: missing, not a regular file, unreadable, or over `MAX_FILE_BYTES`.
    """
    where = describe(path)
    if str(path) == "":
        raise refuse("missing", "''")
    try:
        path = Path(path)
        if not stat.S_ISREG(path.stat().st_mode):
            raise refuse("not-a-file", where)
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise refuse("missing", where) from error
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise refuse("unreadable", where, detail) from error
    return data


def _open(source: Source, where: str) -> tuple[Image.Image, bytes | None]:
    """Open a source, check its header against the limits, and return the image and its bytes."""
    data: bytes | None = None
    if isinstance(source, ImageFile.ImageFile):
        source = _unread_bytes(source) or source
    if isinstance(source, Image.Image):
        image = source
        if image.format is not None and image.format not in (*FORMATS, _JPEG_WITH_MORE):
            raise refuse("not-an-image", where, f"format {image.format}")
    elif isinstance(source, str | Path | bytes):
        data = source if isinstance(source, bytes) else read_source(source)
        if len(data) > MAX_FILE_BYTES:
            raise refuse("file-too-large", where)
        image = _open_bytes(data, where)
    else:
        raise refuse("bad-source", where, f"got {type(source).__name__}")
    width, height = image.size
    if min(width, height) < 1:
        raise refuse("damaged-header", where, f"{width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise refuse("too-many-pixels", where, f"{width}x{height}")
    if data is not None and count_frames(image, data) > MAX_FRAMES:
        raise refuse("too-many-frames", where)
    return image, data


def _unread_bytes(image: ImageFile.ImageFile) -> bytes | None:
    """Return the file behind an image that was opened and nothing more, else None.

    Such an image is decoded from its file, by the same rules as a path and without touching the
    user's object. One that was loaded (and perhaps changed), moved to another frame or drafted to
    another size is taken as it is.
    """
    if getattr(image, "_im", image) is not None or image.fp is None or image.tell() != 0:
        return None
    try:
        place = image.fp.tell()
        image.fp.seek(0)
        data = image.fp.read(MAX_FILE_BYTES + 1)
        image.fp.seek(place)
        with Image.open(io.BytesIO(data), formats=[image.format or ""]) as again:
            same = (again.size, again.mode) == (image.size, image.mode)
    except Exception:
        return None
    return data if same else None


def _open_bytes(data: bytes, where: str) -> Image.Image:
    if not data:
        raise refuse("empty", where)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise refuse(sniff(data), where) from error
    except MemoryError as error:
        raise refuse("out-of-memory", where) from error
    except Image.DecompressionBombError as error:
        raise refuse("too-many-pixels", where) from error
    except Exception as error:
        raise refuse("damaged-header", where, _words(error)) from error


def _refusal(error: Exception, where: str) -> DecodeError:
    """Return our error for one of Pillow's while it decoded pixels."""
    if isinstance(error, Image.DecompressionBombError):
        return refuse("too-many-pixels", where)
    words = _words(error)
    short = "truncated" in words or "not enough image data" in words
    return refuse("truncated" if short else "corrupt", where, words)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _from_array(array: NDArray[Any], where: str) -> UInt8:
    shape = array.shape
    fits = array.ndim == 2 or (array.ndim == 3 and shape[2] == 3)
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise refuse("bad-array", where, f"got {array.dtype} of shape {shape}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise refuse("too-many-pixels", where, f"{shape[1]}x{shape[0]}")
    rgb = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    return np.ascontiguousarray(rgb)

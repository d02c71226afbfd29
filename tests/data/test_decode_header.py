"""What a header says, read without decoding."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from lydite.data.decode import decode, inspect
from lydite.data.header import count_frames, ijg_table, nearest_quality

PHOTO = np.random.default_rng(5).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def encode(fmt: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(PHOTO)).save(stream, fmt, **options)
    return stream.getvalue()


def test_every_ijg_quality_is_recognized() -> None:
    for quality in range(1, 101):
        info = inspect(encode("JPEG", quality=quality))
        assert info.quantization == ijg_table(quality)
        assert info.quality == quality


def test_a_foreign_table_gives_the_nearest_quality() -> None:
    table = tuple(v + (i == 5) for i, v in enumerate(ijg_table(75)))
    assert nearest_quality(table) == 75


@pytest.mark.parametrize(("option", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_chroma_subsampling(option: int, name: str) -> None:
    assert inspect(encode("JPEG", subsampling=option)).subsampling == name


@pytest.mark.parametrize(
    ("sampling", "name"),
    [(0x12, "4:4:0"), (0x41, "4:1:1"), (0x42, "4:1:0"), (0x11, "4:4:4"), (0x13, None)],
)
def test_rare_chroma_subsampling(sampling: int, name: str | None) -> None:
    data = bytearray(encode("JPEG", subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = sampling
    assert inspect(bytes(data)).subsampling == name


def test_gray_jpeg_has_no_subsampling() -> None:
    info = inspect(encode("JPEG", Image.fromarray(PHOTO[..., 0]), quality=60))
    assert (info.mode, info.subsampling, info.quality) == ("L", None, 60)


def test_fields() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode("JPEG", exif=exif.tobytes(), icc_profile=b"x" * 200, progressive=True)
    info = inspect(data)
    assert (info.format, info.width, info.height, info.mode) == ("JPEG", 50, 30, "RGB")
    assert (info.size_bytes, info.frames) == (len(data), 1)
    assert info.has_exif and info.has_icc and info.progressive
    plain = inspect(encode("PNG"))
    assert (plain.format, plain.quality, plain.quantization) == ("PNG", None, None)
    assert not (plain.has_exif or plain.has_icc or plain.progressive)


def test_sizes_are_as_stored_and_decoding_turns_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encode("PNG", exif=exif.tobytes())
    assert (inspect(data).width, inspect(data).height) == (50, 30)
    assert decode(data).shape == (50, 30, 3)


def test_sources_in_memory() -> None:
    array = inspect(PHOTO)
    assert (array.format, array.width, array.height, array.size_bytes) == (None, 50, 30, None)
    assert inspect(Image.fromarray(PHOTO)).format is None


@pytest.mark.parametrize("offset", [0, 5, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("big", [False, True])
def test_chains_of_pages_that_lead_nowhere_end(offset: int, big: bool) -> None:
    image = Image.new("L", (2, 2))
    if big:
        data = b"II\x2b\0\x08\0\0\0" + offset.to_bytes(8, "little") + bytes(40)
    else:
        data = b"II\x2a\0" + (offset % 2**32).to_bytes(4, "little") + bytes(40)
    image.format = "TIFF"
    assert count_frames(image, data) == 1


@pytest.mark.parametrize("end", range(10, 60, 3))
def test_a_gif_cut_anywhere_is_counted_without_an_error(end: int) -> None:
    data = encode("GIF", Image.new("P", (9, 9)))
    image = Image.open(io.BytesIO(data))
    assert count_frames(image, data[:end]) == 1


def test_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", forbidden)
    for fmt in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"):
        assert inspect(encode(fmt)).format == fmt

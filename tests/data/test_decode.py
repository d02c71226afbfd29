"""The strict decoder on files made here: what is refused, why, and that nothing else happens."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lydite.data import pixels
from lydite.data.decode import MAX_FRAMES, MAX_PIXELS, REASONS, decode, inspect
from lydite.errors import DecodeError

RNG = np.random.default_rng(7)
PHOTO = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "PPM": {}}
LOSSY = {"JPEG": {"quality": 90}, "WEBP": {"quality": 80}, "AVIF": {}, "JPEG2000": {}}


def encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def photo(fmt: str = "PNG", **options: object) -> bytes:
    return encode(Image.fromarray(PHOTO), fmt, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(width: int, height: int, *more: bytes) -> bytes:
    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x00\x00\x00\x00"
    rows = zlib.compress(b"\0" * (min(width, 100) + 1) * min(height, 4))
    body = b"".join([chunk(b"IHDR", header), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


def refused(source: object) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(source)  # type: ignore[arg-type]
    assert caught.value.code in REASONS
    assert REASONS[caught.value.code] in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_lossless_formats_give_the_pixels_that_went_in(fmt: str) -> None:
    out = decode(photo(fmt, **LOSSLESS[fmt]))
    assert out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, PHOTO)


@pytest.mark.parametrize("fmt", LOSSY)
def test_lossy_formats_give_what_pillow_gives(fmt: str) -> None:
    data = photo(fmt, **LOSSY[fmt])
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_path_string_bytes_and_pil_image_are_equal(fmt: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = photo(fmt, **({} if fmt == "GIF" else {"exif": exif.tobytes()}))
    file = tmp_path / "photo"
    file.write_bytes(data)
    first = decode(file)
    with Image.open(file) as opened:
        for source in (str(file), data, opened, Image.open(io.BytesIO(data))):
            np.testing.assert_array_equal(decode(source), first)
    assert first.shape == ((40, 56, 3) if fmt == "GIF" else (56, 40, 3))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.97])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_files_are_refused_whatever_pillow_was_told(
    fmt: str, share: float, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = photo(fmt)
    assert refused(data[: int(len(data) * share)]) in {"truncated", "corrupt", "damaged-header"}
    assert lenient is ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_lazily_opened_image_is_loaded_strictly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = photo("JPEG")
    assert refused(Image.open(io.BytesIO(data[: len(data) // 2]))) == "truncated"


def test_an_image_that_was_changed_in_memory_is_taken_as_it_is() -> None:
    opened = Image.open(io.BytesIO(photo("PNG")))
    opened.putpixel((0, 0), (1, 2, 3))
    assert decode(opened)[0, 0].tolist() == [1, 2, 3]
    drafted = Image.open(io.BytesIO(encode(Image.new("RGB", (64, 64)), "JPEG")))
    drafted.draft("RGB", (32, 32))
    assert decode(drafted).shape == (32, 32, 3)


def test_decoding_leaves_an_opened_image_usable() -> None:
    opened = Image.open(io.BytesIO(photo("PNG")))
    first = decode(opened)
    np.testing.assert_array_equal(decode(opened), first)
    np.testing.assert_array_equal(np.asarray(opened), PHOTO)


def test_threads_stay_strict_and_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    good = photo("JPEG")
    bad = good[: len(good) // 2]
    accepted: list[bytes] = []
    decoded: list[int] = []

    def work() -> None:
        for _ in range(30):
            decoded.append(decode(good).shape[0])
            try:
                decode(bad)
            except DecodeError:
                continue
            accepted.append(bad)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not accepted
    assert decoded == [40] * 180
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_bad_checksum_behind_the_pixels_is_found_although_exif_stands_there() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = bytearray(photo("PNG", exif=exif.tobytes()))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    assert refused(bytes(data)) == "corrupt"


def test_damaged_exif_does_not_refuse_sound_pixels() -> None:
    data = photo("JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12broken")
    np.testing.assert_array_equal(decode(data), decode(photo("JPEG")))


@pytest.mark.parametrize("size", [(20_000, 20_000), (8193, 6144), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    assert refused(png(*size)) == "too-many-pixels"
    with pytest.raises(DecodeError, match="pixels allowed"):
        inspect(png(*size))


def test_the_pixel_limit_holds_when_the_process_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert refused(png(20_000, 20_000)) == "too-many-pixels"
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_header_that_promises_more_pixels_than_follow_is_refused() -> None:
    assert refused(png(64, 5000)) == "truncated"


def test_a_png_whose_stream_ends_early_but_properly_is_refused_from_any_source() -> None:
    data = png(64, 5000)
    for source in (data, Image.open(io.BytesIO(data))):
        assert refused(source) == "truncated"
    assert decode(png(64, 4)).sum() == 0


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_files_whose_end_is_still_empty_are_refused(fmt: str, share: float) -> None:
    """As a download leaves them that was given its full size at once."""
    photo = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, fmt)
    data = stream.getvalue()
    kept = round(share * len(data))
    assert refused(data[:kept] + bytes(len(data) - kept)) in ("corrupt", "truncated")
    # some cameras fill their files up
    np.testing.assert_array_equal(decode(data + bytes(5000)), decode(data))


def interlaced(width: int, height: int, missing: int) -> bytes:
    """Return a black 8-bit gray PNG with Adam7, built from the standard's 8x8 pattern."""
    pattern = ["16462646", "77777777", "56565656", "77777777"]
    pattern += ["36463646", "77777777", "56565656", "77777777"]
    rows: dict[tuple[int, int], int] = {}
    for y in range(height):
        for x in range(width):
            place = (int(pattern[y % 8][x % 8]), y)
            rows[place] = rows.get(place, 0) + 1
    stream = b"".join(b"\0" * (1 + count) for _, count in sorted(rows.items()))
    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\0\0\0\x01"
    pixels_chunk = chunk(b"IDAT", zlib.compress(stream[: len(stream) - missing]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels_chunk + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (13, 17), (3, 1), (1, 9)])
def test_interlaced_pngs_are_counted_by_pass(size: tuple[int, int]) -> None:
    assert decode(interlaced(*size, 0)).shape == (size[1], size[0], 3)
    assert refused(interlaced(*size, 1)) == "truncated"


def test_huge_compressed_text_is_refused() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 30_000_000))
    assert len(text) < 100_000
    assert refused(png(4, 4, text)) in {"damaged-header", "corrupt"}


def gif(frames: int) -> bytes:
    frame = b"\x2c" + bytes(4) + b"\x01\0\x01\0\0" + b"\x02\x02\x4c\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b"\x3b"


def tiff(pages: int, *, loop: bool = False) -> bytes:
    page = encode(Image.new("L", (2, 2)), "TIFF")
    # further directories without entries: enough to be counted
    out = bytearray(page)
    start = int.from_bytes(page[4:8], "little")
    link = start + 2 + 12 * int.from_bytes(page[start : start + 2], "little")
    first = len(out)
    out[link : link + 4] = (start if loop else first).to_bytes(4, "little")
    for index in range(pages - 1):
        following = first + 6 * (index + 1) if index < pages - 2 else 0
        out += b"\0\0" + following.to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("make", [gif, tiff])
def test_frames_are_counted_up_to_the_limit(make: object) -> None:
    assert callable(make)
    assert inspect(make(3)).frames == 3
    assert inspect(make(MAX_FRAMES)).frames == MAX_FRAMES
    assert refused(make(MAX_FRAMES + 1)) == "too-many-frames"
    assert refused(make(5000)) == "too-many-frames"


def test_pages_linked_in_a_loop_are_counted_once() -> None:
    assert inspect(tiff(2, loop=True)).frames == 1
    assert decode(tiff(2, loop=True)).shape == (2, 2, 3)


def test_a_png_that_announces_thousands_of_frames_is_refused() -> None:
    assert refused(png(4, 4, chunk(b"acTL", (5000).to_bytes(4) + bytes(4)))) == "too-many-frames"


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(fmt: str) -> None:
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (255, 100, 0)]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert inspect(data).frames == 3
    assert (decode(data) == (255, 0, 0)).all()


OTHER_CONTENT = {
    "vector": [
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xc5\xd0\xd3\xc6" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg width='9'/>",
    ],
    "heic": [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1" + bytes(16)],
    "not-an-image": [b"hello", b"\0" * 300, b"PK\x03\x04", b"import os\n", b"8BPS\0\x01"],
    "damaged-header": [b"\x89PNG\r\n\x1a\nnonsense", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM\0\0"],
    "empty": [b""],
}


@pytest.mark.parametrize("code", OTHER_CONTENT)
def test_other_content_is_refused_with_its_own_reason(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_args: object, **_options: object) -> None:
        raise AssertionError("a helper program was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    assert {refused(data) for data in OTHER_CONTENT[code]} == {code}


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo("PNG"))
    np.testing.assert_array_equal(decode(file), PHOTO)
    assert inspect(file).format == "PNG"
    file.with_suffix(".png").write_bytes(b"<svg/>")
    assert refused(file.with_suffix(".png")) == "vector"


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refused(tmp_path) == "not-a-file"
    assert refused(pipe) == "not-a-file"
    assert refused("/dev/zero") == "not-a-file"
    assert refused(tmp_path / "absent.png") == "missing"
    assert refused(str(tmp_path / ("x" * 5000))) == "unreadable"
    assert refused(loop) == "unreadable"
    assert refused("a\0b") == "unreadable"


def test_a_link_to_an_image_is_followed(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo())
    (tmp_path / "link").symlink_to("photo.png")
    np.testing.assert_array_equal(decode(tmp_path / "link"), PHOTO)


def test_a_file_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.write(photo())
        stream.truncate(100_000_001)
    assert refused(file) == "file-too-large"


def test_arrays() -> None:
    assert decode(PHOTO) is PHOTO
    gray = PHOTO[..., 0]
    np.testing.assert_array_equal(decode(gray), np.dstack([gray, gray, gray]))
    np.testing.assert_array_equal(decode(PHOTO[:, ::-1]), PHOTO[:, ::-1].copy())
    shapes = [(4, 4, 4), (4, 4, 1), (1, 4, 4, 3), (0, 4, 3), (4,), ()]
    for bad in [np.zeros(shape, np.uint8) for shape in shapes]:
        assert refused(bad) == "bad-array"
    assert refused(PHOTO.astype(np.float32)) == "bad-array"
    assert refused(np.broadcast_to(np.uint8(0), (8193, 6144))) == "too-many-pixels"


@pytest.mark.parametrize("source", [None, 3, ["a.png"], {"path": "a.png"}])
def test_other_objects_are_refused(source: object) -> None:
    assert refused(source) == "bad-source"


def test_pil_images_of_formats_that_are_not_read_are_refused() -> None:
    assert refused(Image.open(io.BytesIO(photo("TGA")))) == "not-an-image"
    np.testing.assert_array_equal(decode(Image.open(io.BytesIO(photo("TGA"))).copy()), PHOTO)


def test_decoding_reads_and_writes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo("JPEG"))
    before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_size)
    monkeypatch.chdir(tmp_path)
    decode(file)
    inspect(file)
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_size) == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("fmt", [*LOSSY, "PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_random_damage_ends_in_pixels_or_in_a_reason(fmt: str) -> None:
    rng = np.random.default_rng(len(fmt))
    sound = np.frombuffer(photo(fmt), dtype=np.uint8)
    outcomes = set()
    for _ in range(60):
        data = sound.copy()
        places = rng.integers(0, min(len(data), 400), rng.integers(1, 6))
        data[places] = rng.integers(0, 256, len(places))
        end = int(rng.integers(1, len(data) + 1)) if rng.random() < 0.3 else len(data)
        try:
            out = decode(data[:end].tobytes())
            outcomes.add("pixels")
            assert out.ndim == 3 and out.shape[2] == 3 and out.dtype == np.uint8
        except DecodeError as error:
            outcomes.add(error.code)
    assert outcomes <= {*REASONS, "pixels"}
    assert len(outcomes) > 1


def test_an_unexpected_error_of_pillow_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((MemoryError(), "out-of-memory"), (SyntaxError("odd"), "corrupt")):

        def fail(*_args: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert refused(photo("PNG")) == code


def test_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    sources = [photo("PNG"), encode(Image.fromarray(PHOTO).convert("P"), "PNG")]
    for turn in range(1, 9):
        exif[0x0112] = turn
        sources.append(photo("PNG", exif=exif.tobytes()))
    whole = [decode(data) for data in sources]
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 56 * 7)
    for data, expected in zip(sources, whole, strict=True):
        np.testing.assert_array_equal(decode(data), expected)

"""Every kind of pixel follows its stated rule."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lydite.data.decode import decode
from lydite.errors import DecodeError

T = Image.Transpose
RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
#: from the stored pixels to the upright ones, as the EXIF standard words it
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}


def encode(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", UPRIGHT)
def test_exif_orientation_equals_the_upright_twin(fmt: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(PHOTO)
    stored = decode(encode(image, fmt))
    turned = decode(encode(image, fmt, exif=exif.tobytes()))
    np.testing.assert_array_equal(turned, UPRIGHT[turn](stored))


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    image = Image.fromarray(PHOTO)
    np.testing.assert_array_equal(decode(encode(image, exif=exif.tobytes())), PHOTO)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_tiff_orientation_is_applied_once(turn: int) -> None:
    stored = decode(encode(Image.fromarray(PHOTO), "TIFF"))
    turned = decode(encode(Image.fromarray(PHOTO), "TIFF", tiffinfo={0x0112: turn}))
    np.testing.assert_array_equal(turned, UPRIGHT[turn](stored))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256, 32768, 40000, 65279, 65535]], dtype=np.uint16)
    expected = np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=2)
    assert expected[0, :, 0].tolist() == [0, 0, 1, 128, 156, 254, 255]
    image = Image.fromarray(values)
    pgm = b"P5 7 1 65535\n" + values.astype(">u2").tobytes()
    big = Image.fromarray(values.astype(">u2"))
    assert big.mode == "I;16B"
    for data in (encode(image), encode(image, "TIFF"), encode(big, "TIFF"), pgm):
        np.testing.assert_array_equal(decode(data), expected)


def gray_tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """Return an uncompressed TIFF of one row of gray values, packed as TIFF 6.0 says."""
    data = values.astype("<u2").tobytes()
    if bits < 16:
        packed = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
        data = np.packbits(packed[:, 16 - bits :].ravel()).tobytes()
    tags = {256: values.size, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1}
    tags |= {278: 1, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())
    )
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 0), (16, 1)])
def test_gray_of_many_bits_keeps_its_black_and_white(bits: int, photometric: int) -> None:
    most = 2**bits - 1
    values = np.array([0, most // 2, most, 1 << (bits - 8)], dtype=np.uint16)
    expected = (values >> (bits - 8)).astype(np.uint8)
    if photometric == 0:
        expected = 255 - expected
    assert decode(gray_tiff(values, bits, photometric))[0, :, 0].tolist() == expected.tolist()


def test_a_transparent_value_of_sixteen_bits_is_white() -> None:
    values = np.array([[0, 1000, 1001, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), transparency=1000)
    assert decode(data)[0, :, 0].tolist() == [0, 255, 3, 255]


def test_one_bit_is_black_and_white() -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    out = decode(encode(Image.fromarray(bits)))
    np.testing.assert_array_equal(out, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_gray_is_repeated() -> None:
    gray = PHOTO[..., 0]
    out = decode(encode(Image.fromarray(gray)))
    np.testing.assert_array_equal(out, np.repeat(gray[..., None], 3, axis=2))


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.floor(color * share + 255 * (1 - share) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(fmt: str) -> None:
    alpha = np.resize(np.arange(256, dtype=np.uint8), PHOTO.shape[:2])
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    data = encode(Image.fromarray(np.dstack([PHOTO, alpha])), fmt, **options)
    np.testing.assert_array_equal(decode(data), over_white(PHOTO, alpha))


def test_gray_with_alpha_is_laid_over_white() -> None:
    gray, alpha = PHOTO[..., 0], PHOTO[..., 1]
    data = encode(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)]))
    expected = over_white(np.repeat(gray[..., None], 3, axis=2), alpha)
    np.testing.assert_array_equal(decode(data), expected)


def test_fully_transparent_is_white_whatever_hides_below() -> None:
    hidden = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    assert (decode(encode(Image.fromarray(hidden))) == 255).all()


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return image


def test_palette_and_its_transparency() -> None:
    plain = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert decode(encode(palette_image()))[0].tolist() == plain
    one = decode(encode(palette_image(), transparency=1))[0].tolist()
    assert one == [plain[0], [255, 255, 255], plain[2]]
    graded = decode(encode(palette_image(), transparency=bytes([255, 0, 51])))[0].tolist()
    assert graded == [plain[0], [255, 255, 255], [218, 220, 222]]
    assert decode(encode(palette_image(), "GIF", transparency=2))[0].tolist() == [
        *plain[:2],
        [255, 255, 255],
    ]


def test_a_transparent_color_is_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert decode(encode(image, transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [9] * 3]
    gray = Image.fromarray(np.array([[5, 6]], dtype=np.uint8))
    assert decode(encode(gray, transparency=6))[0].tolist() == [[5] * 3, [255] * 3]


def deep_png(values: np.ndarray, key: tuple[int, int, int]) -> bytes:
    """Return a PNG of 16 bits a color, which Pillow does not write, with a transparent color."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return raw_png(rows, (width, height), (16, 2), struct.pack(">HHH", *key))


def raw_png(rows: bytes, size: tuple[int, int], kind: tuple[int, int], key: bytes) -> bytes:
    """Return a PNG of these rows, each after a 0; `kind` is bits a value and color type."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", *size, *kind, 0, 0, 0),
        b"tRNS": key,
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


def test_a_transparent_color_of_sixteen_bits_is_white() -> None:
    key = (0x1234, 0x00FF, 0x9ABC)
    data = deep_png(np.array([[key, (0x2234, 0x00FF, 0x9ABC)]], dtype=np.uint16), key)
    assert decode(data)[0].tolist() == [[255] * 3, [0x22, 0x00, 0x9A]]


def test_a_dark_transparent_color_of_sixteen_bits_is_no_color_of_eight() -> None:
    key = (200, 100, 50)
    data = deep_png(np.array([[key, (200 << 8, 100 << 8, 50 << 8)]], dtype=np.uint16), key)
    for source in (data, Image.open(io.BytesIO(data))):
        assert decode(source)[0].tolist() == [[255] * 3, [200, 100, 50]]


@pytest.mark.parametrize(("bits", "row"), [(4, 0x5A), (2, 0b01_10_00_00)])
def test_a_transparent_gray_of_few_bits_is_white(bits: int, row: int) -> None:
    values = [row >> (8 - bits), (row >> (8 - 2 * bits)) % 2**bits]
    data = raw_png(bytes([0, row]), (2, 1), (bits, 0), struct.pack(">H", values[0]))
    assert decode(data)[0, :, 0].tolist() == [255, values[1] * 255 // (2**bits - 1)]


def test_a_transparent_color_of_eight_bits_goes_by_its_low_bytes() -> None:
    rows = bytes([0, 10, 20, 30, 1, 1, 1])
    data = raw_png(rows, (2, 1), (8, 2), struct.pack(">HHH", 0x010A, 0x0114, 0x011E))
    assert decode(data)[0].tolist() == [[255] * 3, [1] * 3]


def test_cmyk_is_converted_like_pillow_does() -> None:
    data = encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


def test_lab_comes_back_as_srgb() -> None:
    flat = Image.new("RGB", (8, 8), (200, 120, 60))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(flat, srgb, lab, outputMode="LAB")
    assert converted is not None
    out = decode(encode(converted, "TIFF")).astype(int)
    assert np.abs(out - (200, 120, 60)).max() <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_fixed_white_are_refused(dtype: type) -> None:
    image = Image.fromarray(np.ones((4, 4), dtype=dtype))
    for source in (encode(image, "TIFF"), image):
        with pytest.raises(DecodeError) as caught:
            decode(source)
        assert caught.value.code == "unsupported-mode"
    pfm = b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes()
    with pytest.raises(DecodeError, match="mode F"):
        decode(pfm)


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "RGBX", "RGBa", "La", "PA"])
def test_other_modes_in_memory_are_converted(mode: str) -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    if mode == "RGBa":
        image = image.convert("RGBA")
    if mode == "La":
        image = image.convert("LA")
    if mode == "PA":
        image = image.convert("P")
    out = decode(image.convert(mode)).astype(int)
    expected = (76, 76, 76) if mode == "La" else (255, 0, 0)
    assert np.abs(out - expected).max() <= 1

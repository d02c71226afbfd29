"""Crops and their twins: the grid of blocks, the compression history, encoding, and photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data.align.crop import UNIT, Crop, Encoding, last_save, side_of, take_crop
from lydite.data.align.make import psnr
from lydite.data.align.photographs import find_photographs
from lydite.data.audit.history import block_dct, comb_strength
from lydite.data.decode import decode, inspect
from lydite.data.manifest import Manifest
from lydite.errors import ConfigError, DataError, DecodeError

TURNS = range(1, 9)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photograph-like picture: smooth color and grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 220, (6, 6, 3), dtype=np.uint8))
    fields = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return np.clip(fields + rng.normal(0, 9, fields.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 60, turn: int = 1, subsampling: int = 2) -> bytes:
    """A file as a camera writes it, held so that EXIF has to turn it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", quality=quality, subsampling=subsampling, exif=exif
    )
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return Encoding().encode(pixels)


def comb(rgb: np.ndarray) -> float:
    """How strongly pixels remember a JPEG whose blocks begin at their corner."""
    return comb_strength(block_dct(rgb.astype(float) @ np.array([0.299, 0.587, 0.114])))


@pytest.mark.parametrize("turn", TURNS)
def test_crops_begin_where_a_block_of_the_stored_file_does(turn: int) -> None:
    # sides that are no multiples of a block: counted from the wrong edge, the grid would be off
    data = jpeg(picture(203, 181), turn=turn)
    crop = take_crop(data, "x", 96, seed=5)
    strengths = {
        (y, x): comb(crop.rgb[y : y + 80, x : x + 80]) for y in range(0, 16, 3) for x in (0, 3, 5)
    }
    assert max(strengths, key=lambda at: strengths[at]) == (0, 0)
    assert strengths[0, 0] > 0.5


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_twin_has_the_history_of_its_photograph(turn: int, subsampling: int) -> None:
    crop = take_crop(jpeg(picture(203, 181), 60, turn, subsampling), "x", 96, seed=5)
    assert crop.saved is not None
    other = picture(96, 96, seed=1)  # never compressed
    assert comb(other) < 0.3
    assert comb(crop.twin(other)) > 0.5
    # what has this history already is hardly changed by it once more, and more by another grid
    again = psnr(crop.rgb, crop.twin(crop.rgb))
    off = psnr(np.roll(crop.rgb, 3, 1), crop.twin(np.roll(crop.rgb, 3, 1)))
    assert again > off + 3


def test_the_tables_are_the_photographs_own_and_not_scaled() -> None:
    data = jpeg(picture(96, 96), quality=37)
    saved = last_save(data, "x")
    with Image.open(io.BytesIO(data)) as image:
        found = image.quantization
    assert saved is not None
    assert saved.tables == (tuple(found[0]), tuple(found[1]), tuple(found[1]))
    assert (saved.subsampling, saved.turn, saved.gray) == (2, 1, False)
    assert last_save(png(picture(96, 96)), "x") is None


def test_tables_that_only_come_after_the_first_scan_are_refused_by_name() -> None:
    """A valid file: one scan a channel, the second table right before the second scan."""
    channels = []
    for number in range(3):
        buffer = io.BytesIO()
        Image.fromarray(picture(32, 32, seed=number)[..., 0]).save(buffer, "JPEG", quality=80)
        channels.append(segments(buffer.getvalue()))
    tables = next(part for marker, part in channels[0][0] if marker == 0xDB)
    huffman = b"".join(part for marker, part in channels[0][0] if marker == 0xC4)
    frame = b"\xff\xc0\x00\x11\x08\x00\x20\x00\x20\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01"
    scans = [
        b"\xff\xda\x00\x08\x01" + bytes([number + 1]) + b"\x00\x00\x3f\x00" + pixels
        for number, (_, pixels) in enumerate(channels)
    ]
    late = tables[:4] + b"\x01" + tables[5:]
    data = b"".join([b"\xff\xd8", tables, frame, huffman, scans[0], late, *scans[1:], b"\xff\xd9"])
    assert decode(data).shape == (32, 32, 3)
    with pytest.raises(DecodeError, match=r"photo\.jpg.*only comes after its first scan") as caught:
        last_save(data, "photo.jpg")
    assert caught.value.code == "late-tables"


def segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the segments of a JPEG of one scan, by marker, and what follows them."""
    found, at = [], 2
    while not found or found[-1][0] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append((data[at + 1], data[at:end]))
        at = end
    return found, data[at:-2]


def test_gray_photographs_have_gray_twins() -> None:
    gray = np.repeat(picture(96, 96)[..., :1], 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(gray[..., 0]).save(buffer, "JPEG", quality=70)
    for data in (png(gray), buffer.getvalue()):
        twin = take_crop(data, "x", 96, 0).twin(picture(96, 96, seed=3))
        assert (twin == twin[..., :1]).all()


def test_without_a_jpeg_the_twin_is_left_as_it_was_made() -> None:
    made = picture(64, 64, seed=2)
    assert (Crop(picture(64, 64), None).twin(made) == made).all()


def test_crops_follow_from_the_seed_and_are_never_enlarged() -> None:
    data = png(picture(300, 210))
    one, same, other = (take_crop(data, "x", 128, seed).rgb for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()
    assert take_crop(data, "x", 256, 0).rgb.shape == (208, 208, 3)
    assert side_of(4000, 3000, 256) == 256
    assert side_of(250, 300, 256) % UNIT == 0
    with pytest.raises(DecodeError, match="too few") as caught:
        take_crop(png(picture(63, 300)), "x", 256, 0)
    assert caught.value.code == "too-small"


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_both_sides_are_encoded_alike(kind: str) -> None:
    encoding = Encoding.model_validate({"format": kind, "quality": 90})
    files = [encoding.encode(picture(64, 64, seed)) for seed in (0, 1)]
    one, two = (inspect(data) for data in files)
    assert (one.format, one.mode, one.quality, one.quantization, one.subsampling) == (
        two.format,
        two.mode,
        two.quality,
        two.quantization,
        two.subsampling,
    )
    assert one.quality == (90 if kind == "jpeg" else None)
    assert not (one.has_exif or one.has_icc or one.progressive)
    if kind == "png":
        assert (decode(files[0]) == picture(64, 64, 0)).all()


def test_photographs_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.png", "copy.png", "<b>\n'x'.png", "test/c.png"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(80, 70, seed=len(name.replace("copy", "a")))))
    (tmp_path / "mine" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "mine" / "small.png").write_bytes(png(picture(40, 400)))
    found = find_photographs(tmp_path / "mine")
    assert sorted(found.manifest.column("path")) == ["<b>\n'x'.png", "a.png", "test/c.png"]
    assert found.copies == 1
    assert {item.path: item.code for item in found.skipped} == {
        "broken.jpg": "damaged-header",
        "small.png": "too-small",
    }
    splits = dict(zip(found.manifest.column("path"), found.manifest.column("split"), strict=True))
    assert splits["test/c.png"] == "test"
    one = find_photographs(tmp_path / "mine", limit=1)
    assert len(one) == 1
    assert one.digest == find_photographs(tmp_path / "mine", limit=1).digest
    assert set(find_photographs(tmp_path / "mine", split="val").manifest.column("split")) == {"val"}


def test_photographs_of_a_manifest_are_its_real_images(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "m.parquet"
    tiny_manifest.write(path)
    every = find_photographs(path)
    assert set(every.manifest.column("label")) == {"real"}
    assert set(every.manifest.column("split")) == {"train", "val", "test"}
    some = find_photographs(path, split="val", domains=("two",)).manifest
    assert set(some.column("domain")) == {"two"}
    assert set(some.column("split")) == {"val"}
    with pytest.raises(ConfigError, match="Did you mean 'two'"):
        find_photographs(path, domains=("twoo",))
    with pytest.raises(ConfigError, match="one split of a manifest"):
        find_photographs(path, split="0.7,0.1,0.2")


def test_what_is_no_set_of_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder or manifest"):
        find_photographs(tmp_path / "absent")
    with pytest.raises(DataError, match="no photograph of at least 64"):
        find_photographs(tmp_path)
    with pytest.raises(ConfigError, match="`limit`"):
        find_photographs(tmp_path, limit=0)
    with pytest.raises(ConfigError, match="`domain`"):
        find_photographs(tmp_path, domains=("a",))
    (tmp_path / "set" / "1_fake").mkdir(parents=True)
    (tmp_path / "set" / "1_fake" / "x.png").write_bytes(png(picture(80, 80)))
    with pytest.raises(DataError, match="looks generated"):
        find_photographs(tmp_path / "set")
    (tmp_path / "set" / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="Name the manifest instead"):
        find_photographs(tmp_path / "set")

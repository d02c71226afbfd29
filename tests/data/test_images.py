"""The store of decoded images: same pixels, a limit that holds, refusals remembered, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data import images
from lydite.data.decode import decode
from lydite.data.images import ImageStore
from lydite.data.manifest import Row
from lydite.errors import DecodeError
from lydite.files import sha256_file


def make_row(folder: Path, number: int, side: int = 20) -> Row:
    file = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return Row(file, file.name, sha256_file(file), "real", "g", "d", "test", str(number))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that fills with the files that were really decoded."""
    seen: list[Path] = []

    def spy(file: Path) -> np.ndarray:
        seen.append(file)
        return decode(file)

    monkeypatch.setattr(images, "decode", spy)
    return seen


def test_an_image_is_decoded_once_and_cannot_be_changed(
    tmp_path: Path, decoded: list[Path]
) -> None:
    store, row = ImageStore(), make_row(tmp_path, 1)
    first = store.get(row)
    assert np.array_equal(first, np.asarray(Image.open(row.file)))
    assert store.get(row) is first
    assert decoded == [row.file]
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0


def test_a_file_that_is_not_the_scanned_one_is_refused(tmp_path: Path) -> None:
    store, row = ImageStore(), make_row(tmp_path, 1)
    make_row(tmp_path, 2).file.replace(row.file)
    for _ in range(2):
        with pytest.raises(DecodeError, match="not the one whose digest is on record") as caught:
            store.get(row)
        assert caught.value.code == "digest"
    now = replace(row, sha256=sha256_file(row.file))
    assert ImageStore().get(now).shape == (20, 20, 3)


def test_the_limit_holds_and_what_is_kept_stays(tmp_path: Path, decoded: list[Path]) -> None:
    store = ImageStore(limit_bytes=3 * 1200)
    rows = [make_row(tmp_path, n) for n in range(5)]
    for _ in range(2):
        for row in rows:
            store.get(row)
    assert len(store) == 3
    assert store.used_bytes == 3600
    assert decoded == [row.file for row in [*rows, *rows[3:]]]


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    store = ImageStore(0)
    store.get(make_row(tmp_path, 1))
    assert (len(store), store.used_bytes) == (0, 0)


def test_refusals_keep_their_code_and_are_not_tried_again(
    tmp_path: Path, decoded: list[Path]
) -> None:
    store, row = ImageStore(), make_row(tmp_path, 1)
    row.file.write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    codes = set()
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            store.get(row)
        codes.add((caught.value.code, str(caught.value)))
    assert len(codes) == 1
    assert len(decoded) == 1


def test_many_threads_get_the_same_images(tmp_path: Path) -> None:
    store = ImageStore(limit_bytes=10 * 1200)
    rows = [make_row(tmp_path, n) for n in range(20)]
    expected = [decode(row.file) for row in rows]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(store.get, rows * 10))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 10, strict=True))
    assert store.used_bytes <= store.limit_bytes
    assert store.used_bytes == 1200 * len(store)

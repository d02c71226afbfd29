"""The built-in data as files: whole, repeatable, with pure splits and no confound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from lydite.data import demo
from lydite.data.demo import DEMO_DOMAINS, contact_sheet, make_demo
from lydite.data.manifest import Manifest
from lydite.errors import DataError, FileError

COUNT = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """One demo that several tests look at and none changes."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    return folder, make_demo(folder, count=COUNT, seed=3)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def images_of(folder: Path) -> dict[str, bytes]:
    """Only the images: the manifest also records where they are."""
    return {name: data for name, data in files_of(folder).items() if name.endswith(".jpg")}


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    first = make_demo(tmp_path / "a", size=32, count=8, seed=1)
    second = make_demo(tmp_path / "b", size=32, count=8, seed=1)
    other = make_demo(tmp_path / "c", size=32, count=8, seed=2)
    assert images_of(tmp_path / "a") == images_of(tmp_path / "b")
    assert first.digest == second.digest
    assert not set(first.column("sha256")) & set(other.column("sha256"))


def test_a_second_call_reuses_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    first = make_demo(folder, size=32, count=8)
    before = files_of(folder)

    def never(*_: object) -> None:
        raise AssertionError("the demo was made a second time")

    monkeypatch.setattr(demo, "_build", never)
    seen: list[tuple[int, int]] = []
    second = make_demo(
        folder, size=32, count=8, progress=lambda _w, done, total, _n: seen.append((done, total))
    )
    assert second.table.equals(first.table)
    assert files_of(folder) == before
    assert seen == [(64, 64)]


@pytest.mark.parametrize("damage", ["image", "record"])
def test_a_damaged_demo_is_made_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "demo"
    first = make_demo(folder, size=32, count=8)
    before = files_of(folder)
    if damage == "image":
        next(first.rows()).file.unlink()
    else:
        (folder / "demo.json").write_text("[]")
    make_demo(folder, size=32, count=8)
    assert files_of(folder) == before


def test_other_parameters_replace_a_demo(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", size=32, count=8)
    manifest = make_demo(tmp_path / "demo", size=32, count=9)
    assert len(manifest) == 2 * 9 * len(DEMO_DOMAINS)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["count"] == 9


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    def stop(_what: str, done: int, _total: int, _note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo", size=32, count=8, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["holiday.jpg", "train"])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match=name):
        make_demo(tmp_path, size=32, count=8)
    assert files_of(tmp_path) == {name: b"mine"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        make_demo(tmp_path / "demo", size=32, count=8)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"size": 31}, "size"), ({"count": 7}, "count"), ({"seed": -1}, "seed")]
)
def test_parameters_out_of_range_are_refused(
    tmp_path: Path, wrong: dict[str, int], named: str
) -> None:
    with pytest.raises(DataError, match=f"`{named}`"):
        make_demo(tmp_path / "demo", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "demo").exists()


def test_labels_splits_and_groups_are_pure(made: tuple[Path, Manifest]) -> None:
    _, manifest = made
    assert set(manifest.column("domain")) == set(DEMO_DOMAINS)
    for domain in DEMO_DOMAINS:
        for label, generator in (("real", "procedural"), ("fake", domain)):
            part = manifest.select(domain=domain, label=label)
            assert set(part.column("generator")) == {generator}
            counts = [len(part.select(split=split)) for split in ("train", "val", "test")]
            assert counts == [19, 5, 8]
    # every photograph is in one file alone: as itself or as a fake
    assert len(set(manifest.column("group"))) == len(manifest)
    assert len(set(manifest.column("sha256"))) == len(manifest)
    for row in manifest.rows():
        assert row.path.split("/")[:2] == [row.split, row.domain]
        assert row.path.split("/")[2] == {"real": "0_real", "fake": "1_fake"}[row.label]


def test_every_file_is_what_the_manifest_says(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    stored = Manifest.read(folder / "manifest.parquet")
    assert stored.root == folder.resolve()
    assert stored.table.equals(manifest.table)
    for row, size in zip(manifest.rows(), manifest.table["bytes"].to_pylist(), strict=True):
        assert row.file.stat().st_size == size
        with Image.open(row.file) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
            # two by two pixels share a color sample, in both classes
            assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_no_simple_number_tells_real_from_fake(made: tuple[Path, Manifest]) -> None:
    _, manifest = made
    pixels = np.stack([np.asarray(Image.open(row.file)) for row in manifest.rows()])
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    numbers = {
        "bytes": manifest.table["bytes"].to_numpy(),
        "quality": manifest.table["quality"].to_numpy(),
        "brightness": luma.mean(axis=(1, 2)),
        "contrast": luma.std(axis=(1, 2)),
        "sharpness": np.abs(np.diff(luma, axis=2)).mean(axis=(1, 2)),
        "laplacian": np.diff(luma, n=2, axis=2).std(axis=(1, 2)),
        "colorfulness": pixels.std(axis=3).mean(axis=(1, 2)),
    }
    # 128 of each class: by chance alone an AUC departs from 0.5 by 0.036 (standard error)
    for name, values in numbers.items():
        auc = roc_auc_score(manifest.targets, values)
        assert max(auc, 1 - auc) < 0.63, name


def test_contact_sheet_puts_photographs_left_and_fakes_right(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    sheet = np.asarray(contact_sheet(folder, columns=3, scale=1))
    assert sheet.shape == (4 * 68 - 4, 6 * 68 + 8, 3)
    test = manifest.select(split="test", domain=DEMO_DOMAINS[1])
    real = next(test.select(label="real").rows()).file
    fake = next(test.select(label="fake").rows()).file
    np.testing.assert_array_equal(sheet[68:132, :64], np.asarray(Image.open(real)))
    np.testing.assert_array_equal(sheet[68:132, 216:280], np.asarray(Image.open(fake)))


def test_contact_sheet_says_what_it_lacks(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 real test images"):
        contact_sheet(made[0], columns=11)
    with pytest.raises(DataError, match="at least 1"):
        contact_sheet(made[0], columns=0)
    with pytest.raises(FileError, match="no manifest"):
        contact_sheet(tmp_path)


def test_files_of_others_inside_a_demo_are_never_deleted(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", size=32, count=8)
    inside = tmp_path / "demo" / "train" / "sim-nearest"
    for name in ("notes.txt", "0_real/mine.jpg", "0_real/link.jpg"):
        mine = inside / name
        mine.symlink_to(tmp_path) if "link" in name else mine.write_bytes(b"mine")
        with pytest.raises(DataError, match=f"train/sim-nearest/{name}"):
            make_demo(tmp_path / "demo", size=32, count=8, seed=1)
        assert mine.exists()
        make_demo(tmp_path / "demo", size=32, count=8)  # the one that is there; nothing is made
        mine.unlink()
    make_demo(tmp_path / "demo", size=32, count=8, seed=1)

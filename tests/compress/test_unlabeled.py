"""Where unlabeled images come from, and which are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from lydite.compress.unlabeled import TransferSet
from lydite.data.manifest import Manifest
from lydite.errors import DataError


@pytest.fixture
def folder(tiny_manifest: Manifest, tmp_path: Path) -> Path:
    place = tmp_path / "extra"
    (place / "below").mkdir(parents=True)
    for number, row in enumerate(tiny_manifest.select(split="train", domain="two").rows()):
        shutil.copy(row.file, place / ("below" if number % 2 else "") / row.path)
    return place


def test_a_folder_and_a_manifest_of_the_same_images_are_one(
    tiny_manifest: Manifest, folder: Path, tmp_path: Path
) -> None:
    tiny_manifest.write(tmp_path / "all.parquet")
    of_folder = TransferSet(folder=folder).images()
    chosen = TransferSet(manifest=tmp_path / "all.parquet", domains=("two",)).images()
    assert len(of_folder.rows) == 24
    assert of_folder.digest == chosen.digest
    assert [r.sha256 for r in of_folder.rows] == [r.sha256 for r in chosen.rows]


def test_doubles_count_once_and_content_makes_the_digest(folder: Path) -> None:
    before = TransferSet(folder=folder).images()
    file = before.rows[0].file
    shutil.copy(file, folder / "copy.jpg")
    assert TransferSet(folder=folder).images().digest == before.digest
    (folder / "copy.jpg").unlink()
    file.unlink()
    assert TransferSet(folder=folder).images().digest != before.digest


def test_test_images_are_refused(tiny_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="splits"):
        TransferSet.model_validate({"manifest": "x.parquet", "splits": ["test"]})
    columns = {name: tiny_manifest.column(name) for name in tiny_manifest.table.column_names}
    train, test = columns["split"].index("train"), columns["split"].index("test")
    for shared in ("sha256", "group"):
        from lydite.data.manifest import from_columns

        leak = {name: list(values) for name, values in columns.items()}
        leak[shared][train] = leak[shared][test]
        from_columns(leak, tiny_manifest.root).write(tmp_path / "leak.parquet")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="also stands in the test split"):
            TransferSet(manifest=tmp_path / "leak.parquet").images()


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        TransferSet(folder=tmp_path / "gone").images()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        TransferSet(folder=tmp_path / "empty").images()
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes\.txt, which cannot be used"):
        TransferSet(folder=folder).images()


@pytest.mark.parametrize("value", [{}, {"manifest": "a.parquet", "folder": "b"}])
def test_exactly_one_source(value: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        TransferSet.model_validate(value)

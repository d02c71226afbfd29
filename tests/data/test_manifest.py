"""Manifests put together: whose rows come first, and what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lydite.cli.target import require_target
from lydite.data.manifest import SCHEMA, Manifest, from_columns
from lydite.errors import DataError


def test_joined_manifests_keep_every_row_in_order(tiny_manifest: Manifest) -> None:
    one, two = (tiny_manifest.select(domain=name) for name in ("one", "two"))
    both = two.joined(one)
    assert both.column("path") == two.column("path") + one.column("path")
    assert both.digest == tiny_manifest.digest
    assert len(two) == len(one) == len(both) / 2


def test_images_of_two_folders_are_found_from_above_both(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    first = next(tiny_manifest.rows())
    columns = {name: [getattr(first, name, None)] for name in SCHEMA.names}
    columns |= {"path": ["deep/copy.jpg"], "bytes": [1], "group": ["copy"]}
    other = from_columns(columns, tmp_path / "other")
    for one, two in ((tiny_manifest, other), (other, tiny_manifest)):
        both = one.joined(two)
        assert files(both) == files(one) + files(two)
        assert both.root in (tmp_path, *tmp_path.parents)
        assert both.column("group") == one.column("group") + two.column("group")


def files(manifest: Manifest) -> list[Path]:
    return [row.file for row in manifest.rows()]


def test_folders_with_nothing_above_them_are_refused(
    tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drives(_paths: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("os.path.commonpath", drives)
    moved = Manifest(tiny_manifest.table, Path("elsewhere"))
    with pytest.raises(DataError, match="and of elsewhere do not fit"):
        tiny_manifest.joined(moved)


def test_a_folder_whose_name_is_no_text_comes_back(tmp_path: Path, tiny_manifest: Manifest) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system takes text alone")
    for path in (tmp_path / "m.parquet", root / "m.parquet"):
        Manifest(tiny_manifest.table, root).write(path)
        assert Manifest.read(path).root == root
        require_target(path, "manifest", option="out")  # an older one


def test_a_version_of_many_digits_is_none(tmp_path: Path, tiny_manifest: Manifest) -> None:
    table = tiny_manifest.table.replace_schema_metadata({"lydite.manifest": "9" * 5000})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataError, match="is no manifest"):
        Manifest.read(tmp_path / "m.parquet")


def test_one_task_is_chosen_where_there_are_several() -> None:
    columns = {name: [None] * 4 for name in SCHEMA.names}
    columns |= {n: list("abcd") for n in ("path", "sha256", "domain", "group", "generator")}
    columns |= {"label": ["real", "cat", "fake", "dog"], "split": ["train"] * 4, "bytes": [1] * 4}
    images = from_columns(columns, Path())
    kept, others = images.of_one_task()
    assert (kept.column("path"), others) == (["a", "c"], 2)
    pets = images.select(label=["cat", "dog"])
    assert pets.of_one_task() == (pets, 0)
    assert kept.in_split("val").column("split") == ["val", "val"]

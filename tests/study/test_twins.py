"""Twins in a study: learned where their photographs are, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lydite.data.align.photographs import NAME_DIGITS
from lydite.data.manifest import SCHEMA, Manifest, from_columns
from lydite.errors import DataError, FileError
from lydite.recipe import Recipe
from lydite.study.images import load_data
from lydite.study.spec import DataSpec


def align_like(photographs: Manifest, folder: Path, name: str) -> Path:
    """Write what `lydite data align` would make of photographs, without an autoencoder."""
    columns: dict[str, list[object]] = {column: [] for column in SCHEMA.names}
    facts = photographs.table.to_pylist()
    for row, values in zip(photographs.rows(), facts, strict=True):
        for label in ("real", "fake"):
            path = f"{label}/{row.sha256[:NAME_DIGITS]}.jpg"
            (folder / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(row.file, folder / path)
            given = {"path": path, "label": label, "group": row.sha256[:NAME_DIGITS]}
            given |= {"domain": f"align-{name}", "generator": name, "split": "val"}
            for column in SCHEMA.names:
                columns[column].append((values | given)[column])
    from_columns(columns, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def spec(manifest: Manifest, folder: Path, seen: list[str], *twins: Path) -> DataSpec:
    manifest.write(folder / "all.parquet")
    return DataSpec(manifest=folder / "all.parquet", seen=tuple(seen), twins=twins)


@pytest.mark.parametrize("seen", [["one"], ["two"], ["one", "two"]])
def test_twins_are_learned_where_their_photographs_are(
    tiny_manifest: Manifest, tmp_path: Path, seen: list[str]
) -> None:
    photographs = tiny_manifest.select(label="real")
    twins = align_like(photographs, tmp_path / "made", "it")
    plain = load_data(spec(tiny_manifest, tmp_path, seen), tmp_path)
    data = load_data(spec(tiny_manifest, tmp_path, seen, twins), tmp_path)
    train = data.learning.train
    made = train.select(domain="align-it")
    learned = photographs.select(split="train", domain=seen)
    names = sorted(sha256[:NAME_DIGITS] for sha256 in learned.column("sha256"))
    for label in ("real", "fake"):
        assert sorted(made.select(label=label).column("group")) == names
    assert set(made.column("split")) == {"train"}
    assert all(row.file.is_file() for row in train.rows())
    assert train.digest != plain.learning.train.digest
    assert train.select(domain=seen).digest == plain.learning.train.digest
    assert data.learning.val.digest == plain.learning.val.digest
    assert data.test.digest == plain.test.digest


def test_few_images_are_chosen_before_their_twins_join_them(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    photographs = tiny_manifest.select(label="real")
    twins = align_like(photographs, tmp_path / "made", "it")
    learning = load_data(spec(tiny_manifest, tmp_path, ["one", "two"], twins), tmp_path).learning
    plain = load_data(spec(tiny_manifest, tmp_path, ["one", "two"]), tmp_path).learning
    start = {"network": "lydite-small"}
    recipe = Recipe.model_validate({"name": "few", "start": start, "shots": 8, "steps": []})
    own, alone = learning.of(recipe), plain.of(recipe)
    assert own.val.digest == alone.val.digest
    assert own.train.select(domain=["one", "two"]).digest == alone.train.digest
    learned = {sha[:NAME_DIGITS] for sha in alone.train.select(label="real").column("sha256")}
    assert set(own.train.select(domain="align-it").column("group")) == learned


def test_what_are_no_twins_is_refused(tiny_manifest: Manifest, tmp_path: Path) -> None:
    photographs = tiny_manifest.select(label="real")
    twins = align_like(photographs, tmp_path / "made", "it")
    foreign = align_like(photographs.select(domain="two"), tmp_path / "other", "it")
    tests = align_like(photographs.select(split="test"), tmp_path / "tests", "it")

    def load(*paths: Path) -> None:
        load_data(spec(tiny_manifest, tmp_path, ["one"], *paths), tmp_path)

    with pytest.raises(DataError, match="no manifest of `lydite data align`; it has the domain"):
        load(tmp_path / "all.parquet")
    with pytest.raises(DataError, match="'align-it' of .* is there already"):
        load(twins, twins)
    for nothing in (foreign, tests):
        with pytest.raises(DataError, match="holds nothing of the photographs"):
            load(nothing)
    with pytest.raises(FileError):
        load(tmp_path / "gone.parquet")

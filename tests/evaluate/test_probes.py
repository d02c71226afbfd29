"""Leakage probes find what was planted, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from helpers.leaks import leaky
from lydite.data.decode import decode, inspect
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.evaluate.metrics import auc
from lydite.evaluate.probes import PROBES, SHUFFLED, Probe, run_probes
from lydite.evaluate.probes.looks import HEADER_COLUMNS, content, look_at, thumbnail
from lydite.evaluate.probes.shuffle import pictures, shuffled
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.files import sha256_file

KEY = "a" * 64


def probe(manifest: Manifest, **options: object) -> dict[str, Probe]:
    made = run_probes(
        manifest.select(split="train", domain="one"),
        manifest.select(split="test"),
        key=KEY,
        **options,  # type: ignore[arg-type]
    )
    assert [p.name for p in made] == list(PROBES)
    return {p.name: p for p in made}


def area(scores: pa.Table | None, domain: str = "one") -> float:
    assert scores is not None
    table = scores.filter(pa.compute.equal(scores["domain"], domain))
    value = auc(table["z"].to_numpy(), table["target"].to_numpy())
    assert value is not None
    return value


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return leaky(tmp_path_factory.mktemp("plain"))


def test_without_a_leak_all_probes_are_at_chance(tmp_path: Path) -> None:
    """The mean of eight areas of 100 images each has a standard error of 0.02."""
    areas: dict[str, list[float]] = {name: [] for name in PROBES}
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        for name, found in probe(leaky(tmp_path / str(seed), seed=seed)).items():
            areas[name] += [area(found.scores, domain) for domain in ("one", "two")]
    for name, values in areas.items():
        assert np.mean(values) == pytest.approx(0.5, abs=0.08), name


@pytest.mark.parametrize(
    ("leak", "finder", "other"),
    [("format", "format-size", "low-frequency"), ("bright", "low-frequency", None)],
)
def test_a_planted_leak_is_found_by_the_probe_that_can_see_it(
    tmp_path: Path, leak: str, finder: str, other: str | None
) -> None:
    made = probe(leaky(tmp_path, leak))
    for domain in ("one", "two"):
        assert area(made[finder].scores, domain) > 0.95
    if other is not None:
        assert area(made[other].scores) < 0.7
    assert 0.3 < area(made[SHUFFLED].scores) < 0.7


def test_copies_across_splits_lift_shuffled_labels(tmp_path: Path) -> None:
    made = probe(leaky(tmp_path, copies=0.3))
    assert area(made[SHUFFLED].scores) == pytest.approx(0.8, abs=0.1)
    assert area(made["low-frequency"].scores, "two") < 0.7


def test_a_group_in_two_splits_lifts_shuffled_labels(plain: Manifest, tmp_path: Path) -> None:
    """The test images are those of training, saved again."""
    train = plain.select(split="train", domain="one")
    files = [tmp_path / f"{number}.png" for number in range(len(train))]
    for row, file in zip(train.rows(), files, strict=True):
        Image.fromarray(decode(row.file)).save(file)
    copies = train.table
    for name, values in (
        ("path", [file.name for file in files]),
        ("sha256", [sha256_file(file) for file in files]),
    ):
        place = copies.schema.get_field_index(name)
        copies = copies.set_column(place, copies.schema.field(name), pa.array(values))
    test = Manifest(copies, tmp_path)
    made = run_probes(train, test, key=KEY)
    assert area(made[-1].scores) == 1.0


def test_a_store_that_is_still_empty_is_filled_with_the_test_images(plain: Manifest) -> None:
    test = Manifest(plain.select(split="test", domain="one").table.slice(0, 8), plain.root)
    train = Manifest(plain.select(split="train", domain="one").table.slice(0, 8), plain.root)
    store = ImageStore()
    run_probes(train, test, key=KEY, images=store)
    assert len(store) == 8


def test_scores_are_those_of_the_test_images_in_their_order(plain: Manifest) -> None:
    test = plain.select(split="test")
    for name, found in probe(plain).items():
        assert found.images == 120
        table = found.scores
        assert table is not None
        assert table.schema == SCORES_SCHEMA
        assert table["path"].to_pylist() == test.column("path")
        assert set(table["detector"].to_pylist()) == {f"probe:{name}"}
        assert set(table["key"].to_pylist()) == {KEY}
        assert table["error"].null_count == len(test)
        p_fake, z = table["p_fake"].to_numpy(), table["z"].to_numpy()
        np.testing.assert_allclose(p_fake, 1 / (1 + np.exp(-z)), atol=1e-9)
        if name != SHUFFLED:
            assert table["label"].to_pylist() == test.column("label")


def test_equal_seeds_give_equal_scores_and_others_draw_other_labels(plain: Manifest) -> None:
    first, again, other = (probe(plain, seed=seed) for seed in (1, 1, 2))
    for name in PROBES:
        assert first[name].scores == again[name].scores
    assert first["format-size"].scores == other["format-size"].scores
    assert first[SHUFFLED].scores != other[SHUFFLED].scores


def test_an_image_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    manifest = leaky(tmp_path)
    rows = list(manifest.select(split="test").rows())
    rows[3].file.write_bytes(b"no image")
    next(manifest.select(split="train", domain="one").rows()).file.unlink()
    for found in probe(manifest).values():
        assert found.scores is not None
        assert found.images == 119
        assert found.scores["error"].to_pylist()[3] == "not-an-image"
        assert found.scores["z"].null_count == 1


def test_one_class_is_nothing_to_learn_from(plain: Manifest) -> None:
    found = probe(plain.select(label="real"))
    assert found["format-size"].scores is None
    assert "not of two classes" in found["low-frequency"].note
    assert found[SHUFFLED].scores is not None  # labels drawn at random are of two


def test_only_so_many_training_images_are_looked_at(
    plain: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lydite.evaluate.probes.MOST_IMAGES", 50)
    seen: list[tuple[int, str]] = []
    found = probe(plain, progress=lambda _what, done, _total, note: seen.append((done, note)))
    assert {p.images for p in found.values()} == {50}
    assert max(done for done, note in seen if note == "training images") == 50
    assert max(done for done, note in seen if note == "test images") == 200


def test_a_thumbnail_holds_no_grain() -> None:
    rng = np.random.default_rng(0)
    smooth = np.full((64, 96, 3), 120, dtype=np.uint8)
    checks = smooth + (20 * (np.indices((64, 96)).sum(axis=0) % 2)[..., None]).astype(np.uint8)
    noise = np.clip(120 + rng.normal(0, 30, smooth.shape), 0, 255).astype(np.uint8)
    assert np.ptp(thumbnail(checks)) == 0
    assert np.ptp(thumbnail(noise)) < 0.15
    np.testing.assert_allclose(thumbnail(smooth), 120 / 255)
    assert thumbnail(np.zeros((1, 3, 3), np.uint8)).shape == (8, 8, 3)
    assert content(np.stack([thumbnail(smooth)] * 2)).shape == (2, 203)


def test_the_header_probe_sees_no_pixel(plain: Manifest) -> None:
    row = next(plain.rows())
    looks = look_at([row], ImageStore(0))
    values = dict(zip(HEADER_COLUMNS, looks.header[0], strict=True))
    info = inspect(row.file)
    assert values["width"] == info.width == 32
    assert values["quality"] == info.quality
    assert values["bytes"] == row.file.stat().st_size
    assert not {"red", "green", "blue"} & values.keys()


def row(name: str, split: str, *, group: str = "", sha256: str = "", domain: str = "d") -> Row:
    return Row(Path(name), name, sha256 or name, "real", "g", domain, split, group or name)


def test_labels_go_with_the_picture_whatever_its_split() -> None:
    rows = [row(f"n{i}", "train" if i % 2 else "test") for i in range(40)]
    rows += [
        row("copy", "test", sha256="n1"),
        row("related", "test", group="n1"),
        row("far", "train", sha256="x", group="copy"),
    ]
    names = pictures(rows)
    assert len({names[i] for i in (1, 40, 41, 42)}) == 1
    assert len(set(names)) == 40
    made = shuffled(rows, ("real", "fake"), 3)
    assert len({made[i].label for i in (1, 40, 41, 42)}) == 1
    assert [replace(r, label="real") for r in made] == rows


def test_shuffled_labels_are_balanced_and_do_not_depend_on_the_order_of_rows() -> None:
    rows = [row(f"{d}{i}", s, domain=d) for d in "ab" for s in ("train", "test") for i in range(9)]
    rows = [replace(r, path=r.path + r.split, sha256=r.path + r.split, group="") for r in rows]
    rows = [replace(r, group=r.path) for r in rows]
    made = shuffled(rows, ("cat", "dog"), 0)
    for domain in "ab":
        for split in ("train", "test"):
            dogs = [r.label == "dog" for r in made if (r.domain, r.split) == (domain, split)]
            assert sum(dogs) in (4, 5)
    order = np.random.default_rng(0).permutation(len(rows))
    again = shuffled([rows[i] for i in order], ("cat", "dog"), 0)
    assert {r.path: r.label for r in again} == {r.path: r.label for r in made}

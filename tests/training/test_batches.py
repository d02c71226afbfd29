"""Batches are a pure function of the step: same data for any resume, order of calls or device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lydite.card import Preprocess
from lydite.data.images import ImageStore
from lydite.data.manifest import SCHEMA, Manifest, from_columns
from lydite.errors import DataError
from lydite.files import sha256_file
from lydite.training.batches import Batches
from lydite.training.settings import TrainSettings


def make(manifest: Manifest, seed: int = 3, **options: object) -> Batches:
    settings = TrainSettings.model_validate({"batch": 8, **options})
    return Batches(manifest, Preprocess(size=64), settings, seed, ImageStore())


def test_batches_do_not_depend_on_what_was_loaded_before(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    one, other = make(train), make(train)
    for step in range(5):
        one.load(one.positions(step))
    crops, targets = one.load(one.positions(5))
    again, wanted = other.load(other.positions(5))
    np.testing.assert_array_equal(crops, again)
    np.testing.assert_array_equal(targets, wanted)


def test_devices_share_one_global_batch(tiny_manifest: Manifest) -> None:
    batches = make(tiny_manifest.select(split="train"))
    parts = [batches.positions(4, rank, 2) for rank in range(2)]
    assert sorted([*parts[0], *parts[1]]) == list(batches.positions(4)) == list(range(32, 40))
    for part in parts:
        targets = [batches.row_at(position).target for position in part]
        assert sorted(targets) == [0, 0, 1, 1]


def test_classes_and_domains_are_balanced_and_every_image_is_seen(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    batches = make(train)
    rows = [batches.row_at(p) for p in range(8 * len(train))]
    labels = Counter(row.label for row in rows)
    assert labels["real"] == labels["fake"]
    domains = Counter((row.label, row.domain) for row in rows)
    assert max(domains.values()) - min(domains.values()) <= 1
    assert {row.sha256 for row in rows} == set(train.column("sha256"))


@pytest.mark.parametrize("balance", ["class", "pairs"])
@pytest.mark.parametrize("paired", ["both", "large", "neither"])
def test_a_domain_of_few_images_counts_as_much_as_a_large_one(balance: str, paired: str) -> None:
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for domain, count in (("large", 60), ("few", 3)):
        for number in range(count):
            for label in ("real", "fake"):
                group = f"{domain}{number}"
                if paired not in ("both", domain):
                    group += label
                row = {"label": label, "group": group, "domain": domain, "split": "train"}
                row |= {"path": group + label, "sha256": group, "generator": "g", "bytes": 1}
                for name in SCHEMA.names:
                    columns[name].append(row.get(name))
    batches = make(from_columns(columns, Path()), balance=balance)
    rows = [batches.row_at(position) for position in range(480)]
    assert set(Counter((row.domain, row.label) for row in rows).values()) == {120}


def test_an_epoch_visits_each_image_once(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    batches = make(train, balance="none")
    rows = [batches.row_at(p).path for p in range(len(train))]
    assert sorted(rows) == sorted(train.column("path"))


def test_pairs_share_group_and_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for number in range(6):
        photograph = rng.integers(0, 256, (90, 100, 3), dtype=np.uint8)
        for label, image in (
            ("real", photograph),
            ("fake", photograph ^ 1),
            ("other", photograph ^ 2),
        ):
            path = tmp_path / f"{label}-{number}.png"
            Image.fromarray(image).save(path)
            row = {
                "path": path.name,
                "sha256": sha256_file(path),
                "label": "real" if label == "real" else "fake",
                "generator": "g",
                "domain": "d",
                "split": "train",
                "group": str(number),
                "bytes": path.stat().st_size,
            }
            for name in SCHEMA.names:
                columns[name].append(row.get(name))
    batches = make(from_columns(columns, tmp_path), balance="pairs")
    for step in range(4):
        crops, targets = batches.load(batches.positions(step))
        assert targets.tolist() == [0, 1] * 4
        for real, fake in zip(crops[0::2], crops[1::2], strict=True):
            assert np.unique(real ^ fake).tolist() in ([1], [2])


def named(images: list[tuple[str, str, str]]) -> Manifest:
    """Return a manifest of (label, domain, group), without files."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for number, (label, domain, group) in enumerate(images):
        row = {"label": label, "group": group, "domain": domain, "split": "train", "bytes": 1}
        row |= {"path": str(number), "sha256": str(number), "generator": "g"}
        for name in SCHEMA.names:
            columns[name].append(row.get(name))
    return from_columns(columns, Path())


@pytest.mark.parametrize("open_", [True, False])
def test_fakes_without_a_photograph_come_beside_paired_ones(open_: bool) -> None:
    """Their domains' turns fall on photographs that have fakes of their own."""
    images = [(label, "a", f"a{n}") for n in range(8) for label in ("real", "fake")]
    images += [("fake", d, f"{d}{n}") for n in range(8) for d in "cde"]
    if open_:
        images += [("real", "c", f"photograph{n}") for n in range(8)]
    batches = make(named(images), balance="pairs")
    rows = [batches.row_at(position) for position in range(8000)]
    seen = Counter(row.domain for row in rows[1::2])
    assert min(seen[domain] for domain in "acde") > 800
    assert len({row.path for row in rows}) == len(images)
    ours = [
        fake.group == real.group
        for real, fake in zip(rows[::2], rows[1::2], strict=True)
        if fake.domain == "a" and real.domain == "a"
    ]
    assert all(ours)


def test_fakes_of_a_domain_whose_photographs_are_all_paired_come_too() -> None:
    images = [(label, "a", f"a{n}") for n in range(8) for label in ("real", "fake")]
    images += [("fake", "a", f"alone{n}") for n in range(24)]
    batches = make(named(images), balance="pairs")
    fakes = [batches.row_at(position) for position in range(1, 8000, 2)]
    alone = np.mean([row.group.startswith("alone") for row in fakes])
    assert alone == pytest.approx(0.75, abs=0.05)
    assert len({row.path for row in fakes}) == 32


def test_seeds_differ(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    one, other = make(train, seed=1), make(train, seed=2)
    assert not np.array_equal(one.load(one.positions(0))[0], other.load(other.positions(0))[0])


def test_tile_crops_are_tiles_of_the_image(tiny_manifest: Manifest) -> None:
    from lydite.data.preprocess import cut_tiles

    train = tiny_manifest.select(split="train")
    batches = make(train, crop="tiles", flip=False)
    crops, _ = batches.load(batches.positions(0))
    store = ImageStore()
    for position, crop in zip(batches.positions(0), crops, strict=True):
        tiles = cut_tiles(store.get(batches.row_at(position)), batches.preprocess)
        assert any(np.array_equal(crop, tile) for tile in tiles)


def test_degradations_change_crops_but_little(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    plain, degraded = make(train), make(train, jpeg=1.0, blur=1.0)
    one = plain.load(plain.positions(0))[0].astype(float)
    other = degraded.load(degraded.positions(0))[0].astype(float)
    assert 0 < np.abs(one - other).mean() < 40


def test_one_class_is_refused(tiny_manifest: Manifest) -> None:
    with pytest.raises(DataError, match="both classes"):
        make(tiny_manifest.select(label="real"))


def test_an_unreadable_image_is_named(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    batches = make(train)
    row = batches.row_at(0)

    class Broken(ImageStore):
        def get(self, row):  # type: ignore[no-untyped-def]
            from lydite.errors import DecodeError

            raise DecodeError("cut short", "truncated")

    batches.store = Broken()
    with pytest.raises(DataError, match=row.path.split("/")[-1]):
        batches.load(batches.positions(0))


def test_grid_crops_begin_where_a_jpeg_block_does(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    batches = make(train, crop="grid", flip=False, batch=64)
    crops, _ = batches.load(batches.positions(0))
    store, found = ImageStore(), set()
    for position, crop in zip(batches.positions(0), crops, strict=True):
        rgb = store.get(batches.row_at(position))
        places = [(y, x) for y in range(9) for x in range(9)]
        places = [p for p in places if (rgb[p[0] : p[0] + 64, p[1] : p[1] + 64] == crop).all()]
        found |= set(places)
    assert found == {(0, 0), (0, 8), (8, 0), (8, 8)}


def unlike(count: dict[str, int]) -> Manifest:
    """Return a manifest with so many photographs of each domain, and as many fakes of "new"."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for domain, images in count.items():
        for number in range(images):
            for label in ("real", "fake") if domain == "new" else ("real",):
                name = f"{domain}{number}{label}"
                row = {"label": label, "group": name, "domain": domain, "split": "train"}
                row |= {"path": name, "sha256": name, "generator": "g", "bytes": 1}
                for column in SCHEMA.names:
                    columns[column].append(row.get(column))
    return from_columns(columns, Path())


def test_a_domain_gets_its_share_evenly_spread_and_every_image_once_an_epoch() -> None:
    batches = make(unlike({"new": 8, "old": 5, "other": 8}), domain_shares={"old": 0.2})
    rows = [batches.row_at(position) for position in range(2000)]
    photographs = [row.domain for row in rows if row.label == "real"]
    # every fifth photograph is old, the other domains divide the rest
    assert Counter(photographs) == {"old": 200, "new": 400, "other": 400}
    for first in range(0, 1000, 10):
        assert photographs[first : first + 10].count("old") == 2
    old = Counter(row.path for row in rows if row.domain == "old")
    assert len(old) == 5
    assert set(old.values()) == {40}


def test_shares_of_absent_domains_change_nothing_and_classes_stay_equal() -> None:
    manifest = unlike({"new": 8, "old": 5})
    plain, shared = make(manifest), make(manifest, domain_shares={"gone": 0.3})
    both = [[b.row_at(p).path for p in range(300)] for b in (plain, shared)]
    assert both[0] == both[1]
    rows = [make(manifest, domain_shares={"old": 0.1}).row_at(p) for p in range(400)]
    assert Counter(row.label for row in rows) == {"real": 200, "fake": 200}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"domain_shares": {"a": 0.5, "b": 0.5}}, "leave something to other domains; they add up"),
        ({"domain_shares": {"a": 0.5}, "balance": "none"}, "needs `balance: class` or `pairs`"),
        ({"domain_shares": {"a": 20}}, "less than 1"),
        ({"domain_shares": {"a": 0.0001}}, "greater than or equal to 0.001"),
    ],
)
def test_impossible_shares_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainSettings.model_validate(options)


def test_no_domain_is_starved_however_small_its_share() -> None:
    sources = {f"s{number:02d}": 3 for number in range(13)}
    small = {name: 0.2 / 13 for name in sources}
    for count, shares in (({"new": 8} | sources, small), ({"new": 8, "old": 3}, {"old": 0.004})):
        batches = make(unlike(count), domain_shares=shares)
        drawn = Counter(batches.row_at(position).domain for position in range(0, 20_000, 2))
        for name, share in shares.items():
            assert drawn[name] == pytest.approx(10_000 * share, rel=0.1)


def test_shares_hold_for_the_fakes_of_a_photograph_and_for_those_that_have_none() -> None:
    images = [("real", "p", f"g{n}") for n in range(20)]
    images += [("fake", d, f"g{n}") for n in range(20) for d in "aab"]  # two of a, one of b

    def drawn(extra: list[tuple[str, str, str]], **shares: float) -> Counter[str]:
        batches = make(named(images + extra), balance="pairs", domain_shares=shares)
        rows = [batches.row_at(position) for position in range(1, 8000, 2)]
        return Counter(row.domain for row in rows)

    assert drawn([], a=0.2)["a"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert drawn([])["a"] / 4000 == pytest.approx(2 / 3, abs=0.03)  # each fake as often
    alone = [("fake", "c", f"alone{n}") for n in range(20)]
    assert drawn(alone, c=0.1)["c"] / 4000 == pytest.approx(0.1, abs=0.03)

"""Every layout on a tiny tree: labels come from names with a meaning, never from their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data.manifest import Manifest
from lydite.data.scan import plan_scan, scan
from lydite.errors import ConfigError, DataError


def put(root: Path, *names: str) -> None:
    """Write a different small image at each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(name.encode()) % 2**32
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        suffix = path.suffix.lower().lstrip(".")
        Image.fromarray(pixels).save(path, {"png": "PNG", "tif": "TIFF"}.get(suffix, "JPEG"))


def facts(manifest: Manifest, *names: str) -> dict[str, tuple[str, ...]]:
    """Return chosen columns of every image by its path."""
    columns = zip(*(manifest.column(name) for name in names), strict=True)
    return dict(zip(manifest.column("path"), columns, strict=True))


def test_forensynths_with_splits_generators_and_classes(tmp_path: Path) -> None:
    put(
        tmp_path,
        "train/airplane/0_real/1.png",
        "train/airplane/1_fake/1.png",
        "val/airplane/1_fake/1.png",
        "test/progan/cat/0_real/1.png",
        "test/StarGAN/0_REAL/1.PNG",
        "test/StarGAN/1_Fake/1.PNG",
    )
    assert facts(scan(tmp_path, "forensynths"), "label", "generator", "domain", "split") == {
        "train/airplane/0_real/1.png": ("real", "photographs", "progan", "train"),
        "train/airplane/1_fake/1.png": ("fake", "progan", "progan", "train"),
        "val/airplane/1_fake/1.png": ("fake", "progan", "progan", "val"),
        "test/progan/cat/0_real/1.png": ("real", "photographs", "progan", "test"),
        "test/StarGAN/0_REAL/1.PNG": ("real", "photographs", "stargan", "test"),
        "test/StarGAN/1_Fake/1.PNG": ("fake", "stargan", "stargan", "test"),
    }


def test_forensynths_without_splits(tmp_path: Path) -> None:
    put(tmp_path, *(f"{side}/{n}.jpg" for side in ("0_real", "1_fake") for n in range(40)))
    manifest = scan(tmp_path)
    found = facts(manifest, "label", "domain", "split", "group")
    assert {path[:6]: row[:2] for path, row in found.items()} == {
        "0_real": ("real", tmp_path.name.lower()),
        "1_fake": ("fake", tmp_path.name.lower()),
    }
    for number in range(40):  # the same name on both sides is one photograph
        assert found[f"0_real/{number}.jpg"][2:] == found[f"1_fake/{number}.jpg"][2:]
    assert set(manifest.column("split")) == {"train", "val", "test"}


def test_the_class_train_of_lsun_is_not_a_split(tmp_path: Path) -> None:
    names = [
        f"{kind}/{side}/1.png" for kind in ("train", "tvmonitor") for side in ("0_real", "1_fake")
    ]
    put(tmp_path, *names)
    plan = plan_scan(tmp_path, "forensynths", seed=1)
    splits = {entry.group: entry.split for entry in plan.entries}
    assert sorted(splits) == ["progan//train/1", "progan//tvmonitor/1"]
    assert {entry.domain for entry in plan.entries} == {"progan"}


def test_names_of_numbered_files_mean_nothing_in_another_split(tmp_path: Path) -> None:
    put(tmp_path, "train/x/0_real/1.png", "test/x/0_real/1.png")
    groups = facts(scan(tmp_path, "forensynths"), "group")
    assert len(set(groups.values())) == 2


@pytest.mark.parametrize("photos", ["RAISE", "raise-1k", "Raise_Tiff"])
@pytest.mark.parametrize("above", ["", "Synthbuster/"])
def test_synthbuster(tmp_path: Path, photos: str, above: str) -> None:
    put(tmp_path, f"{photos}/r01.tif", f"{above}DALLE2/r01.png", f"{above}glide/r01.png")
    manifest = scan(tmp_path)
    found = facts(manifest, "label", "generator", "domain", "group")
    assert found == {
        f"{photos}/r01.tif": ("real", photos.lower(), "synthbuster", "r01"),
        f"{above}DALLE2/r01.png": ("fake", "dalle2", "synthbuster", "r01"),
        f"{above}glide/r01.png": ("fake", "glide", "synthbuster", "r01"),
    }
    assert len(set(manifest.column("split"))) == 1  # one photograph, one split


def test_synthbuster_with_named_photographs(tmp_path: Path) -> None:
    put(tmp_path, "Camera/a.png", "zebra/a.png")
    found = facts(scan(tmp_path, "synthbuster", real=["Camera"]), "label")
    assert found == {"Camera/a.png": ("real",), "zebra/a.png": ("fake",)}
    with pytest.raises(DataError, match="--real FOLDER"):
        scan(tmp_path, "synthbuster")


def test_synthbuster_with_photographs_that_lie_deeper(tmp_path: Path) -> None:
    put(tmp_path, "camera/dslr/a.png", "camera/phone/b.png", "zebra/a.png")
    named = ["camera/dslr", "camera/phone"]
    assert facts(scan(tmp_path, "synthbuster", real=named), "label", "generator") == {
        "camera/dslr/a.png": ("real", "dslr"),
        "camera/phone/b.png": ("real", "phone"),
        "zebra/a.png": ("fake", "zebra"),
    }
    only_one = facts(scan(tmp_path, "synthbuster", real=["camera/dslr"]), "label")
    assert only_one["camera/phone/b.png"] == ("fake",)  # not named
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image lies there"):
        scan(tmp_path, "synthbuster", real=["empty"])


def test_a_fake_joins_its_photograph_where_one_class_alone_has_splits(tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(40)]
    put(tmp_path, *(f"real/train/{name}" for name in names), "real/test/other.png")
    put(tmp_path, *(f"fake/{name}" for name in names), "fake/alone.png")
    found = facts(scan(tmp_path, "folders", real=["real"], fake=["fake"]), "split", "group")
    for name in names:
        assert found[f"fake/{name}"] == found[f"real/train/{name}"]
        assert found[f"fake/{name}"][0] in ("train", "val")
    assert found["fake/alone.png"][1] == "alone"


def test_a_name_in_several_splits_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "real/train/1.png", "real/test/1.png", "fake/1.png")
    found = facts(scan(tmp_path, "folders", real=["real"], fake=["fake"]), "group")
    assert found["fake/1.png"] == ("1",)


@pytest.mark.parametrize("split_above", [False, True])
def test_genimage(tmp_path: Path, split_above: bool) -> None:
    def place(generator: str, split: str, name: str) -> str:
        folders = (split, generator) if split_above else (generator, split)
        return f"{folders[0]}/{folders[1]}/{name}"

    fake, photo = place("ADM", "train", "ai/1.png"), place("ADM", "train", "nature/n01.jpeg")
    fake_val, photo_val = place("glide", "val", "AI/1.png"), place("glide", "val", "nature/n02.png")
    put(tmp_path, fake, photo, fake_val, photo_val)
    found = facts(scan(tmp_path, split=(0.8, 0.0, 0.2)), "label", "generator", "domain", "split")
    assert found == {
        fake: ("fake", "adm", "adm", "train"),
        photo: ("real", "imagenet", "adm", "train"),
        # what the benchmark calls val is what it tests on
        fake_val: ("fake", "glide", "glide", "test"),
        photo_val: ("real", "imagenet", "glide", "test"),
    }
    test = place("glide", "test", "ai/9.png")
    put(tmp_path, test)
    splits = facts(scan(tmp_path), "split")
    assert (splits[fake_val], splits[test]) == (("val",), ("test",))


def test_forensynths_with_splits_below_the_generator(tmp_path: Path) -> None:
    names = [
        f"stylegan/{split}/{kind}/{side}/1.png"
        for split in ("train", "val", "test")
        for kind in ("bedroom", "train", "car")  # where `train` is a class of LSUN
        for side in ("0_real", "1_fake")
    ]
    put(tmp_path, *names)
    found = facts(scan(tmp_path, "forensynths"), "domain", "split", "group")
    for name in names:
        _, split, kind, *_ = name.split("/")
        assert found[name] == ("stylegan", split, f"stylegan/{split}/{kind}/1")


def test_validation_is_divided_off_where_folders_say_train_and_test_alone(tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(200)]
    put(tmp_path, *(f"train/{side}/{name}" for side in ("0_real", "1_fake") for name in names))
    put(tmp_path, "test/0_real/1.png", "test/1_fake/1.png")
    found = facts(scan(tmp_path, "forensynths"), "split")
    splits = [found[f"train/0_real/{name}"][0] for name in names]
    assert splits == [found[f"train/1_fake/{name}"][0] for name in names]  # groups stay whole
    assert set(splits) == {"train", "val"}
    assert 10 < splits.count("val") < 45  # an eighth of 200
    assert found["test/1_fake/1.png"] == ("test",)
    none = facts(scan(tmp_path, "forensynths", split=(0.8, 0.0, 0.2)), "split")
    assert {row[0] for row in none.values()} == {"train", "test"}
    table = "path,label,split\n" + "".join(
        f"train/{side}/{name},{label},train\n"
        for side, label in (("0_real", "real"), ("1_fake", "fake"))
        for name in names
    )
    (tmp_path / "t.csv").write_text(f"{table}test/0_real/1.png,real,test\n", "utf-8")
    meant = facts(scan(tmp_path / "t.csv", "csv"), "split")
    assert {row[0] for row in meant.values()} == {"train", "test"}


def test_dogs_vs_cats_in_both_forms(tmp_path: Path) -> None:
    put(tmp_path / "a", "train/cat.0.jpg", "train/Dog.7.JPG", "test/1.jpg")
    put(tmp_path / "b", "PetImages/Cat/0.jpg", "PetImages/Dog/7.jpg", "PetImages/Dog/666.jpg")
    first, second = scan(tmp_path / "a"), scan(tmp_path / "b")
    assert facts(first, "label", "group") == {
        "train/cat.0.jpg": ("cat", "cat.0"),
        "train/Dog.7.JPG": ("dog", "dog.7"),
    }
    assert facts(second, "label", "group") == {
        "PetImages/Cat/0.jpg": ("cat", "cat.0"),
        "PetImages/Dog/7.jpg": ("dog", "dog.7"),
        "PetImages/Dog/666.jpg": ("dog", "dog.666"),
    }
    assert plan_scan(tmp_path / "a").left_out == ("test/1.jpg",)


@pytest.mark.parametrize(("real", "fake"), [("a", "z"), ("z", "a")])
def test_folders_are_what_the_user_says_in_either_order(
    tmp_path: Path, real: str, fake: str
) -> None:
    put(tmp_path, "a/cls/1.png", "a/cls/2.png", "z/cls/1.png", "other/1.png")
    found = facts(scan(tmp_path, real=[real], fake=[fake]), "label", "generator", "group")
    assert {path: row[0] for path, row in found.items()} == {
        f"{real}/cls/1.png": "real",
        f"{fake}/cls/1.png": "fake",
        "a/cls/2.png": "real" if real == "a" else "fake",
    }
    assert found["a/cls/1.png"][2] == found["z/cls/1.png"][2] == "cls/1"


def test_folders_with_splits_in_their_paths(tmp_path: Path) -> None:
    put(tmp_path, "train/p/1.png", "train/g/1.png", "test/p/1.png", "test/g/1.png")
    manifest = scan(tmp_path, "folders", real=["train/p", "test/p"], fake=["train/g", "test/g"])
    found = facts(manifest, "label", "generator", "split")
    assert found["test/g/1.png"] == ("fake", "g", "test")
    assert found["train/p/1.png"][:2] == ("real", "p")
    assert found["train/p/1.png"][2] in ("train", "val")


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (["a"], ["a/b"], "overlap"),
        (["a"], ["a"], "overlap"),
        (["a"], [], "needs both classes"),
        (["a"], ["nowhere"], "no such folder"),
        (["a"], [".."], "below"),
    ],
)
def test_folders_refuses(tmp_path: Path, real: list[str], fake: list[str], message: str) -> None:
    put(tmp_path, "a/1.png", "a/b/1.png")
    with pytest.raises(DataError, match=message):
        scan(tmp_path, "folders", real=real, fake=fake)


def test_auto_needs_exactly_one_layout(tmp_path: Path) -> None:
    put(tmp_path / "none", "x/1.png", "y/1.png")
    with pytest.raises(DataError, match="fits no layout.*--layout folders"):
        scan(tmp_path / "none")
    put(tmp_path / "two", "adm/train/ai/1.png", "adm/train/nature/1.png", "b/0_real/1.png")
    put(tmp_path / "two", "b/1_fake/1.png")
    with pytest.raises(DataError, match=r"several layouts: forensynths \(1 images.*genimage \("):
        scan(tmp_path / "two")


def test_unknown_layout_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'genimage'"):
        scan(tmp_path, "genimages")


def test_a_layout_that_finds_nothing_says_what_it_expects(tmp_path: Path) -> None:
    put(tmp_path, "x/1.png")
    with pytest.raises(DataError, match="expects folders 0_real and 1_fake"):
        scan(tmp_path, "forensynths")


def splits_of(root: Path, *begin: str) -> set[tuple[str, str | None]]:
    """Return (path, split) of the images whose path begins so."""
    return {(e.path, e.split) for e in plan_scan(root).entries if e.path.startswith(begin)}


def test_an_unrelated_folder_leaves_the_splits_of_others_alone(tmp_path: Path) -> None:
    names = [
        f"{maker}/{split}/{kind}/{maker}{number}.png"
        for maker in ("sd", "mj")
        for split in ("train", "val")
        for kind in ("ai", "nature")
        for number in range(12)
    ]
    put(tmp_path / "genimage", *names)
    before = splits_of(tmp_path / "genimage", "sd", "mj")
    assert {split for _, split in before} == {"train", "val", "test"}
    put(tmp_path / "genimage", "extra/test/ai/q.png")
    assert splits_of(tmp_path / "genimage", "sd", "mj") == before
    names = [
        f"{split}/g1/{kind}/{number}.png"
        for split in ("train", "test")
        for kind in ("0_real", "1_fake")
        for number in range(12)
    ]
    put(tmp_path / "forensynths", *names)
    before = splits_of(tmp_path / "forensynths", "train/g1", "test/g1")
    assert {split for _, split in before} == {"train", "val", "test"}
    put(tmp_path / "forensynths", "val/g2/0_real/000.png")
    assert splits_of(tmp_path / "forensynths", "train/g1", "test/g1") == before


def test_who_is_tested_on_others_alone_gets_validation_images_too(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/seen/{k}/{n}.png" for k in ("0_real", "1_fake") for n in range(30)))
    trained = splits_of(tmp_path, "train/seen")
    assert {split for _, split in trained} == {"train"}  # the other splits lie elsewhere
    put(tmp_path, *(f"test/other/{k}/{n}.png" for k in ("0_real", "1_fake") for n in range(30)))
    assert {split for _, split in splits_of(tmp_path, "train/seen")} == {"train", "val"}
    assert {split for _, split in splits_of(tmp_path, "test/other")} == {"test"}

"""How a scan walks a disk and divides it: nothing hostile hurts, nothing depends on order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data.scan import parse_split, plan_scan, scan
from lydite.data.scan.splits import split_of
from lydite.data.scan.walk import find_images
from lydite.errors import ConfigError, DataError


def picture(path: Path, value: int = 7, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path, kind)


def tree(root: Path, count: int = 120) -> None:
    for number in range(count):
        for side in ("0_real", "1_fake"):
            path = root / side / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not read by a plan")


def test_hostile_names_are_scanned(tmp_path: Path) -> None:
    names = ["new\nline.png", "-rf.png", "<script>.png", "quo\"te's.png", "日本 ü.png", "a,b.png"]
    for name in names:
        picture(tmp_path / "0_real" / name)
        picture(tmp_path / "1_fake" / name, 9)
    manifest = scan(tmp_path)
    assert sorted(manifest.column("path")) == sorted(
        f"{side}/{name}" for side in ("0_real", "1_fake") for name in names
    )
    assert set(manifest.column("error")) == {None}
    assert all(row.file.is_file() for row in manifest.rows())


def test_a_name_that_is_not_utf8_stays_with_a_reason(tmp_path: Path) -> None:
    picture(tmp_path / "0_real" / "a.png")
    try:
        picture(tmp_path / "1_fake" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    manifest = scan(tmp_path, "forensynths")
    manifest.write(tmp_path / "m.parquet")
    assert dict(zip(manifest.column("path"), manifest.column("error"), strict=True)) == {
        "0_real/a.png": None,
        "1_fake/\\udcff.png": "name",
    }


def test_links_in_a_loop_end_and_count_once(tmp_path: Path) -> None:
    picture(tmp_path / "root/z/1.png")
    (tmp_path / "root/z/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/a").symlink_to(tmp_path / "root/z")
    (tmp_path / "root/self.png").symlink_to("self.png")
    picture(tmp_path / "elsewhere/2.png")
    (tmp_path / "root/other").symlink_to(tmp_path / "elsewhere")
    assert [str(path) for path in find_images(tmp_path / "root")] == ["other/2.png", "z/1.png"]


def test_hidden_files_pipes_and_other_files_are_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / ".b.png")
    picture(tmp_path / ".hidden/c.png")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    picture(tmp_path / "no_suffix", kind="JPEG")
    os.mkfifo(tmp_path / "pipe.png")
    assert [str(path) for path in find_images(tmp_path)] == ["a.png", "no_suffix"]


def test_unreadable_files_stay_and_nothing_is_changed(tmp_path: Path) -> None:
    picture(tmp_path / "0_real/ok.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "1_fake").mkdir()
    Image.fromarray(noise).save(tmp_path / "1_fake/cut.jpg")
    whole = (tmp_path / "1_fake/cut.jpg").read_bytes()
    (tmp_path / "1_fake/cut.jpg").write_bytes(whole[:-400])
    (tmp_path / "1_fake/empty.png").touch()
    before = {path: path.stat() for path in tmp_path.rglob("*.*")}
    quick, full = scan(tmp_path), scan(tmp_path, verify=True)
    after = {path: path.stat() for path in tmp_path.rglob("*.*")}
    assert quick.column("path") == ["0_real/ok.png", "1_fake/cut.jpg", "1_fake/empty.png"]
    assert quick.column("error") == [None, None, "empty"]
    assert full.column("error") == [None, "truncated", "empty"]
    assert full.column("bytes") == [
        (tmp_path / name).stat().st_size for name in full.column("path")
    ]
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in after.items()
    }


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "0_real" / f"{number}.png")
    calls: list[tuple[str, int, int, str]] = []
    scan(tmp_path, "forensynths", progress=lambda *call: calls.append(call))
    assert calls[-1] == ("scan", 3, 3, "")


def test_splits_are_pure_stable_and_near_the_fractions(tmp_path: Path) -> None:
    tree(tmp_path)
    plan = plan_scan(tmp_path, seed=3)
    assert plan == plan_scan(tmp_path, seed=3)
    splits: dict[str, set[str | None]] = {}
    for entry in plan.entries:
        splits.setdefault(entry.group, set()).add(entry.split)
    assert len(splits) == 120
    assert all(len(found) == 1 for found in splits.values())
    shares = [sum(found == {name} for found in splits.values()) / 120 for name in ("train", "val")]
    assert shares == pytest.approx([0.7, 0.1], abs=0.1)
    other = {entry.path: entry.split for entry in plan_scan(tmp_path, seed=4).entries}
    assert any(other[entry.path] != entry.split for entry in plan.entries)


def test_more_files_do_not_move_the_others(tmp_path: Path) -> None:
    tree(tmp_path, 30)
    before = {entry.path: entry.split for entry in plan_scan(tmp_path).entries}
    tree(tmp_path, 60)
    after = {entry.path: entry.split for entry in plan_scan(tmp_path).entries}
    assert before.items() <= after.items()


def test_the_hash_of_groups_is_fixed_for_ever() -> None:
    found = [split_of(f"group {number}", (0.7, 0.1, 0.2), 0) for number in range(12)]
    assert found == [
        "test",
        "train",
        "train",
        "train",
        "train",
        "train",
        "test",
        "train",
        "train",
        "test",
        "val",
        "test",
    ]


def test_named_split_and_own_fractions(tmp_path: Path) -> None:
    tree(tmp_path, 40)
    assert plan_scan(tmp_path, split="test").count("split") == {"test": 80}
    assert set(plan_scan(tmp_path, split=(0.5, 0.5, 0.0)).count("split")) == {"train", "val"}


@pytest.mark.parametrize(
    "text", ["0.7,0.2", "a,b,c", "0.7,0.7,-0.4", "1,1,1", "holdout", "nan,0,1"]
)
def test_bad_splits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"0\.7,0\.1,0\.2"):
        parse_split(text)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        scan(tmp_path / "nothing")

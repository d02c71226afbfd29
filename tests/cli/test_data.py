"""`lydite data`: what is printed, what is written, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lydite.cli import main
from lydite.data.manifest import Manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in the layout forensynths, with one broken file and one that fits nothing."""
    rng = np.random.default_rng(0)
    for side in ("0_real", "1_fake"):
        (tmp_path / "set" / side).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / side / f"{side}{number}.png")
    (tmp_path / "set/1_fake/broken.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "<b>\nstray.png")
    return tmp_path / "set"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def run_json(capsys: Capture, *words: object) -> tuple[int, Any]:
    status = run(*words, "--json")
    return status, json.loads(capsys.readouterr().out)


def test_scan_writes_a_manifest(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.parquet"
    assert run("data", "scan", folder, "-o", out, "--split", "test") == 0
    text = capsys.readouterr().out
    assert "layout forensynths (6 images in 0_real and 7 images in 1_fake)" in text
    assert "1 images cannot be used: not-an-image 1" in text
    assert "1 images were left out" in text
    assert "<b>\\nstray.png" in text  # on one line
    manifest = Manifest.read(out)
    assert len(manifest) == 13
    assert set(manifest.column("split")) == {"test"}


def test_scan_as_json(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.parquet"
    status, value = run_json(capsys, "data", "scan", folder, "--out", out)
    assert status == 0
    assert value["label"] == {"fake": 7, "real": 6}
    assert value["layout"] == "forensynths"
    assert value["unreadable"] == {"not-an-image": 1}
    assert value["left_out"] == {"images": 1, "examples": ["<b>\nstray.png"]}
    assert value["digest"] == Manifest.read(out).digest


def test_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.parquet"
    status, value = run_json(capsys, "data", "scan", folder, "-o", out, "--dry-run")
    assert (status, value["dry_run"], value["images"]) == (0, True, 13)
    assert not out.exists()


def test_folders_that_the_user_names(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["--layout", "folders", "--real", "1_fake", "--fake", "0_real", "--dry-run"]
    status, value = run_json(capsys, "data", "scan", folder, *words)
    assert (status, value["label"]) == (0, {"real": 7, "fake": 6})


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--layout", "forensynth"], "config"),
        (["--split", "0.5"], "config"),
        (["--layout", "genimage"], "data"),
        (["--layout", "folders", "--real", "0_real"], "data"),
    ],
)
def test_scan_says_what_is_wrong(
    folder: Path, capsys: Capture, words: list[str], code: str
) -> None:
    status, value = run_json(capsys, "data", "scan", folder, *words, "--dry-run")
    assert status == 2
    assert value["error"]["code"] == code


def test_scan_does_not_write_over_something_else(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    assert run("data", "scan", folder, "-o", notes) == 2
    assert notes.read_text(encoding="utf-8") == "mine"
    assert run("data", "scan", folder, "-o", tmp_path / "m.parquet") == 0
    assert run("data", "scan", folder, "-o", tmp_path / "m.parquet") == 0  # an older manifest
    assert "something else" in capsys.readouterr().err


def test_scan_refuses_a_place_before_it_reads_images(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lydite.data.scan.read.read_facts", lambda *_a, **_k: pytest.fail("read"))
    (tmp_path / "file").write_bytes(b"mine")
    assert run("data", "scan", folder, "-o", tmp_path / "file" / "deep" / "m.parquet") == 2
    assert "file is a file" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run("data", "scan", folder, "-o", tmp_path / "new" / "m.parquet") == 2
    assert "is not writable" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_show_counts(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.parquet"
    run("data", "scan", folder, "-o", out, "--split", "val")
    capsys.readouterr()
    status, value = run_json(capsys, "data", "show", out)
    assert status == 0
    assert value["counts"] == [
        {"domain": "set", "generator": name, "label": label, "train": 0, "val": n, "test": 0}
        for name, label, n in (("photographs", "real", 6), ("set", "fake", 7))
    ]
    assert run("data", "show", out) == 0
    assert "photographs" in capsys.readouterr().out


def test_check_tells_by_its_status(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out, page = tmp_path / "m.parquet", tmp_path / "page.html"
    run("data", "scan", folder, "-o", out, "--split", "test")
    capsys.readouterr()
    assert run("data", "check", out, "--html", page) == 1
    text = capsys.readouterr().out
    assert "warning: 1 of 13 images cannot be used, reason: not-an-image." in text
    assert "Too few images" in text
    assert "not-an-image" in page.read_text(encoding="utf-8")
    (folder / "1_fake/broken.png").unlink()
    run("data", "scan", folder, "-o", out, "--split", "test")
    capsys.readouterr()
    status, value = run_json(capsys, "data", "check", out)
    assert (status, value["clean"], value["findings"]) == (0, True, [])


def test_check_finds_images_that_moved(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.parquet"
    run("data", "scan", folder, "-o", out)
    folder.rename(tmp_path / "moved")
    capsys.readouterr()
    status, value = run_json(capsys, "data", "show", out)
    assert (status, value["error"]["code"]) == (2, "data")
    assert run("data", "show", out, "--root", tmp_path / "moved") == 0


def test_check_without_a_manifest(tmp_path: Path, capsys: Capture) -> None:
    status, value = run_json(capsys, "data", "check", tmp_path / "none.parquet")
    assert (status, value["error"]["code"]) == (2, "file")


def test_demo_makes_data_that_can_be_shown(tmp_path: Path, capsys: Capture) -> None:
    status, value = run_json(capsys, "data", "demo", tmp_path / "demo", "--count", "10")
    assert status == 0
    assert value["images"] == len(Manifest.read(Path(value["manifest"])))


def test_a_scan_that_finds_nothing_usable_says_so_by_its_status(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.csv").write_text("path,label\nim\\1.jpg,real\n")
    assert run("data", "scan", tmp_path, "-o", tmp_path / "out.parquet") == 1
    said = capsys.readouterr().err
    assert "none of these images can be used; their paths hold backslashes" in said

"""`lydite explain` as people and programs call it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.cli import main
from lydite.cli.folder import new_folder, safe_name
from lydite.errors import FileError
from lydite.predictor import Predictor

PHOTO = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
NAMES = [
    "plain.png",
    "plain.jpg",
    "PLAIN.png",
    "new\nline.png",
    "-dash.png",
    "<script>alert(1)<_script>.png",
    "naïve фото 写真.png",
    "right\u202eto left.png",
    "..png",
    "no suffix",
    "x" * 200 + ".png",
    b"caf\xe9.png".decode("utf-8", "surrogateescape"),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_detector: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(["explain", "--detector", str(tiny_detector), *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in NAMES:
        stream = io.BytesIO()
        Image.fromarray(PHOTO).save(stream, "PNG")
        (folder / name).write_bytes(stream.getvalue())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_hostile_names_become_plain_ones_and_images_stay(run: Run, album: Path) -> None:
    before = contents(album)
    out = album.parent / "maps"
    status, said, err = run(str(album), "-o", str(out))
    assert (status, err) == (0, "")
    # "..png" begins with a dot and is left out, as everywhere
    assert len(said.splitlines()) == len(NAMES)
    assert not any(c in said for c in "\x1b\u202e")
    assert contents(album) == before
    files = sorted(p.name for p in out.iterdir())
    assert len(files) == 2 * (len(NAMES) - 1) + 1
    assert all(c.isalnum() or c in "-_." for name in files for c in name)
    assert not any(name.startswith((".", "-")) for name in files)


def test_every_map_agrees_with_its_prediction(run: Run, album: Path, tiny_detector: Path) -> None:
    out = album.parent / "maps"
    status, said, _ = run(str(album), "-o", str(out), "--json", "--stride", "card")
    assert status == 0 and said.isascii()
    value = json.loads(said)
    assert value == json.loads((out / "maps.json").read_text("ascii"))
    assert value["detector"]["name"] == "tiny"
    score = Predictor.open(tiny_detector).score(PHOTO)
    for entry in value["maps"]:
        stored = json.loads((out / entry["scores"]).read_text("ascii"))
        assert stored["prediction"]["score"] == entry["score"] == score
        assert np.mean(stored["map"]["z"]) == pytest.approx(score, abs=1e-6)
        assert np.shape(stored["map"]["z"]) == (2, 2)
        with Image.open(out / entry["picture"]) as picture:
            picture.load()
            assert picture.format == "PNG"


def test_the_mistakes_of_an_album_are_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    Image.fromarray(PHOTO).save(tmp_path / "yes.png")
    out = tmp_path / "maps"
    status, said, err = run(
        str(tmp_path / "no.png"), str(tmp_path / "yes.png"), str(tmp_path / "gone"), "-o", str(out)
    )
    assert status == 1 and len(err.splitlines()) == 2
    assert [line.split()[0] for line in said.splitlines()] == [
        "error",
        json.loads((out / "maps.json").read_text())["maps"][1]["verdict"],
        "error",
        "maps",
    ]
    assert sorted(p.name for p in out.iterdir()) == ["002-yes.json", "002-yes.png", "maps.json"]


@pytest.mark.parametrize("what", ["file", "full folder", "link"])
def test_nothing_of_the_user_is_written_over(run: Run, tmp_path: Path, what: str) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(image)
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    elif what == "link":
        out.symlink_to(tmp_path)
    else:
        out.mkdir()
        (out / "001-a.png").write_text("mine")
    status, _, err = run(str(image), "-o", str(out))
    assert status == 2 and "is there already" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "detector", "out"]
    if what != "link":
        kept = out if what == "file" else out / "001-a.png"
        assert kept.read_text() == "mine"


def test_an_empty_folder_is_used_and_one_that_fills_meanwhile_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out) as folder:
        (folder / "ours").write_text("1")
    assert (out / "ours").read_text() == "1"
    other = tmp_path / "other"
    with pytest.raises(FileError, match="there already"), new_folder(other) as folder:
        other.mkdir()
        (other / "mine").write_text("2")
    assert (other / "mine").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.parametrize("stride", ["0", "half", "-4", "²"])
def test_a_wrong_stride_is_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, stride: str
) -> None:
    status, _, err = run("x.png", "-o", str(tmp_path / "maps"), f"--stride={stride}")
    assert status == 2 and "--stride must be" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "maps").exists()


def test_safe_names_are_short_and_different() -> None:
    names = [safe_name(number, name) for number, name in enumerate(NAMES)]
    assert len({name.casefold() for name in names}) == len(NAMES)
    assert max(len(name.encode()) for name in names) < 200
    assert safe_name(7, "../../etc/passwd") == "007-passwd"


def test_the_folder_that_one_is_in_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (Path(), tmp_path):
        with pytest.raises(FileError, match="folder that you are in"), new_folder(name):
            pytest.fail("no work may begin")
    assert list(tmp_path.iterdir()) == []


def test_a_stride_too_fine_for_one_image_costs_the_others_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "small.png")
    Image.fromarray(np.tile(PHOTO, (4, 4, 1))).save(tmp_path / "large.png")
    monkeypatch.setattr("lydite.explain.patches.MOST_TILES", 400)
    images = [str(tmp_path / name) for name in ("small.png", "large.png")]
    status, said, err = run(*images, "-o", str(tmp_path / "maps"), "--stride", "4", "--json")
    assert status == 1
    small, large = json.loads(said)["maps"]
    assert small["error"] is None
    assert (tmp_path / "maps" / small["picture"]).is_file()
    assert large["error"]["code"] == "too-many-tiles"
    assert run(*images, "-o", str(tmp_path / "again"), "--stride", "4")[2].count("large.png") == 1

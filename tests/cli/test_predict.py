"""`lydite predict` as people and programs call it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.cli import main
from lydite.predictor import Predictor

PHOTO = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
NAMES = [
    "plain.png",
    "new\nline.png",
    "quote\"'`.png",
    "-dash.png",
    "--json",
    "<script>alert(1)<_script>.png",
    "naïve фото 写真.png",
    "\x1b[31mred.png",
    "right\u202eto left.png",
    "%s {0} $(id).png",
    "UPPER.JPG",
    "no suffix",
    " spaces ",
]

Run = Callable[..., tuple[int, str, str]]


def png(shade: int | None = None) -> bytes:
    stream = io.BytesIO()
    rgb = PHOTO if shade is None else np.full_like(PHOTO, shade)
    Image.fromarray(rgb).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def run(tiny_detector: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(["predict", "--detector", str(tiny_detector), *words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(png())
    return folder


def test_one_line_for_each_image(run: Run, tmp_path: Path) -> None:
    for name, shade in (("white.png", 255), ("gray.png", 128), ("near.png", 153)):
        (tmp_path / name).write_bytes(png(shade))
    status, out, err = run(*(str(tmp_path / n) for n in ("white.png", "gray.png", "near.png")))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["fake", "real", "unsure"]
    assert [line[14:] for line in lines] == [
        str(tmp_path / n) for n in ("white.png", "gray.png", "near.png")
    ]
    assert [0 <= float(line.split()[1]) <= 1 for line in lines] == [True] * 3


def test_json_is_one_document_with_the_detector(run: Run, album: Path, tiny_detector: Path) -> None:
    status, out, _ = run("--json", str(album))
    value = json.loads(out)
    assert status == 0 and out.isascii()
    assert value["detector"]["name"] == "tiny"
    assert value["detector"]["digest"] == Predictor.open(tiny_detector).card.digest
    assert sorted(Path(p["source"]).name for p in value["predictions"]) == sorted(NAMES)
    assert {p["score"] for p in value["predictions"]} == {
        Predictor.open(tiny_detector).score(PHOTO)
    }


def test_any_name_is_one_line_of_text(run: Run, album: Path) -> None:
    status, out, _ = run(str(album))
    assert status == 0
    assert len(out.splitlines()) == len(NAMES)
    assert not any(c in out for c in "\x1b\u202e")
    assert "new\\nline.png" in out and "\\x1b[31mred.png" in out and "写真" in out


def test_names_that_look_like_options(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    status, out, _ = run("--", "-dash.png", "--json")
    assert status == 0
    assert [line[14:] for line in out.splitlines()] == ["-dash.png", "--json"]


def test_a_name_that_is_not_unicode(run: Run, tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(png())
    status, out, _ = run(str(tmp_path / name))
    assert (status, out.count("\n")) == (0, 1)
    _, out, _ = run("--json", str(tmp_path / name))
    assert json.loads(out)["predictions"][0]["source"] == str(tmp_path / name)


def test_bad_images_make_status_1_and_stop_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "half.png").write_bytes(png()[:500])
    paths = [str(tmp_path / n) for n in ("half.png", "none.png", "good.png")]
    status, out, err = run(*paths)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()][:2] == ["error", "error"]
    assert len(out.splitlines()) == 3 and len(err.splitlines()) == 2
    assert "half.png: the file ends before its pixels do" in err
    status, out, _ = run("--json", *paths)
    assert status == 1
    codes = [p["error"] and p["error"]["code"] for p in json.loads(out)["predictions"]]
    assert codes == ["truncated", "missing", None]


def test_a_missing_detector_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--detector", str(tmp_path), "x.png"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert main([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "card" and "card.json" in error["message"]


@pytest.mark.parametrize("words", [[], ["--threads", "0", "x"], ["--threads", "two", "x"]])
def test_wrong_arguments_exit_2(run: Run, words: list[str]) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1


def lydite(
    *words: str, stdin: bytes = b"", **options: object
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lydite", *words], input=stdin, capture_output=True, **options
    )


def test_standard_input(tiny_detector: Path) -> None:
    words = ["predict", "--detector", str(tiny_detector), "--json", "-"]
    done = lydite(*words, stdin=png())
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert done.returncode == 0
    assert prediction["source"] == "-"
    assert prediction["score"] == Predictor.open(tiny_detector).score(PHOTO)
    assert lydite(*words, stdin=b"").returncode == 1


def test_a_closed_standard_input_is_an_error_of_that_image(tiny_detector: Path) -> None:
    command = f"{sys.executable} -m lydite predict --detector {tiny_detector} - <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_name_is_no_folder(run: Run, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's variable that is not set must not stand for all that lies around."""
    monkeypatch.chdir(album)
    status, out, err = run("")
    assert status == 1
    assert len(out.splitlines()) == 1
    assert "there is no such file" in err


def test_a_small_image_is_named(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "small.png")
    _, _, err = run(str(tmp_path))
    assert "small.png: The image is 3x3 pixels" in err


def test_no_heavy_package_is_imported(tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    code = f"""
import sys
from lydite.cli import main
assert main(["predict", "--detector", {str(tiny_detector)!r}, {str(tmp_path / "a.png")!r}]) == 0
heavy = {{"torch", "pyarrow", "onnx", "sklearn", "scipy", "matplotlib", "safetensors"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"


def test_a_reader_that_leaves_is_no_error(tiny_detector: Path, album: Path) -> None:
    words = [sys.executable, "-m", "lydite", "predict", "--detector", str(tiny_detector)]
    with subprocess.Popen(
        [*words, *[str(album)] * 40], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 141


def test_a_name_with_a_dash_gets_the_way_to_give_it(
    album: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    status, _, err = run("-dash.png")
    assert status == 2
    assert "lydite predict -- -dash.png" in err
    assert run("--", "-dash.png")[0] == 0

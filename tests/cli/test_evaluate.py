"""`lydite evaluate` and `lydite report` on the smallest of data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.card import Architecture, ConformalBand, Preprocess, ScoreMeaning
from lydite.cli import main
from lydite.data.manifest import Manifest, from_columns
from lydite.detector import Detector
from lydite.evaluate.score import read_scores
from lydite.files import sha256_file


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {}
    for number in range(16):
        name, fake = f"{number}.png", number % 2
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
        row = {
            "path": name,
            "sha256": sha256_file(folder / name),
            "label": ("real", "fake")[fake],
            "generator": "g",
            "domain": "ab"[number // 8],
            "split": "test",
            "group": str(number),
            "bytes": 1,
        }
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    path = folder / "manifest.parquet"
    from_columns(columns, folder).write(path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "tiny"
    Detector.start(Architecture(network="lydite-small", input_size=32), Preprocess(size=32)).save(
        folder
    )
    return folder


def test_json_and_scores_tell_the_same(
    detector: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    words = ["evaluate", str(detector), str(manifest), "--seen", "a", "-o", str(out), "--json"]
    assert main(words) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["images"], value["unreadable"], value["runtime"]) == (16, 0, "torch")
    slices = [figure["slice"] for figure in value["figures"] if figure["metric"] == "auc"]
    assert {"group": "seen", "split": "test"} in slices
    assert {"domain": "b", "generator": "g", "split": "test"} in slices
    scores = read_scores(out)
    assert scores.num_rows == 16
    assert scores["path"].to_pylist() == Manifest.read(manifest).column("path")


def test_people_get_a_table(
    detector: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(detector), str(manifest)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["images", "n", "accuracy"]
    assert [line.split()[0] for line in lines[1:6]] == ["a", "a:", "b", "b:", "unseen-mean"]
    assert lines[-1] == "lydite-small in torch, split test"


def test_the_second_table_is_about_calibration_and_says_what_was_promised(
    detector: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(detector), str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "ECE" in out
    assert "Promised" not in out
    band = ConformalBand(alpha=0.05, low=-9.0, high=9.0, n_real=40, n_fake=30)
    meaning = ScoreMeaning(band=(0.01, 0.99), fitted_on="a" * 64, n=70, conformal=band)
    Detector.load(detector).evolve(score=meaning).save(tmp_path / "fitted")
    assert main(["evaluate", str(tmp_path / "fitted"), str(manifest)]) == 0
    out = capsys.readouterr().out
    headers = next(line for line in out.splitlines() if "ECE" in line)
    columns = ["ECE", "Brier", "log loss", "decided", "wrong of these", "reals called fake"]
    places = [headers.index(name) for name in columns]
    assert places == sorted(places)
    assert "at most 0.05 of each class called wrong. Fitted on 30 groups" in out
    rows = out.split(headers)[1].splitlines()[1:6]
    assert [row.split()[0] for row in rows] == ["a", "a:", "b", "b:", "unseen-mean"]


def test_an_unreadable_image_sets_the_status(
    detector: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in manifest.parent.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "3.png").write_bytes(b"")
    words = ["evaluate", str(detector), str(manifest), "--root", str(tmp_path), "--json"]
    assert main(words) == 1
    assert json.loads(capsys.readouterr().out)["unreadable"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "tset"], "--split must be one of"),
        (["--split", "val"], "no scores of the split"),
        (["--seen", "z"], "No image of the domain 'z'"),
        (["--threads", "0"], "--threads must be 1 or more"),
        (["--runtime", "tpu"], "Unknown runtime"),
        (["-o", "."], "is a folder"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    detector: Path,
    manifest: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(detector), str(manifest), *words]) == 2
    error = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(error) == 1
    assert said in error[0]


def test_report_needs_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a study's folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no results of this study in" in capsys.readouterr().err


def test_degradations_are_scored_kept_and_counted(
    detector: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    words = ["evaluate", str(detector), str(manifest), "--seen", "a", "-o", str(out)]
    words += ["--degrade", "quick", "crop-1.0", "resize-2"]
    assert main([*words, "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    # images of 32 px are too small once they are scaled down, and only then
    assert value["unreadable"] == 0
    assert value["degraded_unreadable"] == {"resize-0.75": {"too-small": 16}}
    names = ["none", "jpeg-75", "resize-0.75", "blur-1", "social", "crop-1", "resize-2"]
    assert read_scores(out)["degradation"].unique().to_pylist() == names
    assert read_scores(out).num_rows == 16 * len(names)
    where = {"group": "seen", "split": "test", "degradation": "crop-1", "against": "clean"}
    (gain,) = [f for f in value["figures"] if f["slice"] == where and f["metric"] == "auc_gain"]
    assert gain["value"] == 0

    assert main(words) == 1
    text = capsys.readouterr().out
    header = next(line for line in text.splitlines() if line.startswith("degraded"))
    assert header.split("  ")[-1].strip() == "flipped"
    assert re.search(r"false alarms\s+fakes found\s+flipped$", header.rstrip())
    # nothing changes where nothing is cut off
    assert len(
        [x for x in text.splitlines() if x.startswith("crop-1 ") and x.count("(+0.000)") == 2]
    )
    rows = [line.split() for line in text.splitlines() if line.startswith("crop-1 ")]
    assert [row[1:3] for row in rows] == [["seen", "8"], ["unseen-mean", "8"]]
    assert "resize-0.75: could not be scored: 16 too-small." in text


def test_an_unknown_degradation_is_answered_with_the_nearest(
    detector: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(detector), str(manifest), "--degrade", "jpg-75"]) == 2
    assert "Did you mean 'jpeg-75'?" in capsys.readouterr().err

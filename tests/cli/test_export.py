"""`lydite export` and `lydite bench` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lydite.card import ONNX_NAME, Architecture, Quantization, load_card
from lydite.cli import main
from lydite.detector import Detector
from lydite.predictor import Predictor

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [2], "blocks": 0})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Detector.start(TINY, name="tiny").save(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_export_then_predict_and_bench(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert main(["export", str(folder), "-o", str(target), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["written"]
    assert value["size_bytes"] == (target / ONNX_NAME).stat().st_size
    assert value["scheme"] == "float32"
    assert value["parity"]["firm_flips"] == 0
    assert load_card(target).files[ONNX_NAME].sha256 == value["sha256"]
    assert ONNX_NAME not in load_card(folder).files
    assert np.isfinite(Predictor.open(target).score(np.zeros((40, 40, 3), dtype=np.uint8)))

    assert main(["bench", str(target), "--repeats", "2", "--warmup", "0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["n"], row["ratio"]) == (str(target), 2, 1.0)
    assert row["size_bytes"] == value["size_bytes"]

    assert main(["bench", str(target), str(target)]) == 2
    assert "named twice" in capsys.readouterr().err


def test_without_a_target_the_folder_itself_is_completed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_card(folder).files["model.safetensors"]
    assert main(["export", str(folder), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("Would write")
    assert ONNX_NAME not in load_card(folder).files
    assert main(["export", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Wrote")
    assert "0 decisions changed" in text
    card = load_card(folder)
    assert ONNX_NAME in card.files
    assert card.files["model.safetensors"] == weights


def test_refusals_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(folder)]) == 2
    assert "lydite export" in capsys.readouterr().err
    assert main(["bench"]) == 2
    assert "at least one exported file" in capsys.readouterr().err
    assert main(["export", str(folder), "--max-flips", "3"]) == 2
    assert "share from 0 to 1. Got 3" in capsys.readouterr().err
    detector = Detector.load(folder)
    ranges = {"conv_99": (0.0, 1.0)}
    detector.evolve(quantization=Quantization(scheme="static-int8", ranges=ranges)).save(folder)
    assert main(["export", str(folder), "--json"]) == 2
    captured = capsys.readouterr()
    assert "conv_99" in captured.out + captured.err
    assert ONNX_NAME not in load_card(folder).files


def test_layers_are_compared_one_by_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--layers"]) == 2
    assert "`--layers` compares a quantized file" in capsys.readouterr().err
    detector = Detector.load(folder)
    detector.evolve(quantization=Quantization(scheme="weight-int8")).save(folder)
    assert main(["export", str(folder), "--layers", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("layer"))
    assert header.split()[:5] == ["layer", "weight", "multiplies", "SQNR", "dB"]
    assert "0 of 3 layers multiply integers in the file" in lines[-1]
    assert main(["export", str(folder), "--layers", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["layer_report"]
    assert [layer["name"] for layer in report["layers"]] == ["conv_0", "conv_1", "conv_2"]
    assert report["layers"][0]["sqnr_db"] is None
    assert report["layers"][1]["sqnr_db"] > 30
    assert report["n"] == 64

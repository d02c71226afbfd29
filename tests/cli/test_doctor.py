"""`lydite doctor` tells what is there, what is missing, and whether prediction works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lydite.cli import doctor, main


@pytest.fixture
def packaged(tiny_detector: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lydite.predictor.packaged_detector", lambda: tiny_detector)
    return tiny_detector


def test_a_sound_installation(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["healthy"] and value["detector"]["works"]
    versions = {p["name"]: p["version"] for p in value["packages"]}
    import numpy

    assert versions["numpy"] == numpy.__version__
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "The detector inside (tiny) works." in shown and "All is well." in shown


def test_a_damaged_detector_is_found(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packaged / "model.onnx").write_bytes(b"broken")
    assert main(["doctor"]) == 1
    assert "does not work" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["healthy"]


def test_missing_extras_come_with_the_line_that_installs_them(
    packaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "data", ("no-such-package-here",))
    assert main(["doctor"]) == 0
    assert "[data] is not complete: pip install 'lydite[data]'" in capsys.readouterr().out


def test_a_missing_base_package_is_a_fault(
    packaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "", ("no-such-package-here",))
    assert main(["doctor"]) == 1
    assert "Something is broken." in capsys.readouterr().out

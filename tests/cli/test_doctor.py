"""`lydite doctor` tells what is there, what is missing, and whether prediction works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lydite.cli import doctor, main
from lydite.session import session_options


@pytest.fixture
def packaged(tiny_detector: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lydite.predictor.packaged_detector", lambda: tiny_detector)
    return tiny_detector


def test_a_sound_installation(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["healthy"] and value["detector"]["works"]
    versions = {p["name"]: p["version"] for p in value["packages"]}
    assert versions["numpy"] == np.__version__
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


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", ["avx2", "avx512f"], True),
        ("AMD64", ["avx2", "avx_vnni"], False),
        ("x86_64", [], None),
        ("aarch64", ["asimddp"], None),
    ],
)
def test_processors_that_cut_int8_sums_off_are_told(
    machine: str,
    features: list[str],
    expected: bool | None,
    packaged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(doctor, "_cpu_features", lambda: features)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cpu"]["int8_saturates"] is expected
    assert main(["doctor"]) == 0
    assert ("has no VNNI" in capsys.readouterr().out) is bool(expected)


def test_what_is_told_of_this_processor_is_so(
    packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["cpu"]["int8_saturates"]
    if told is None:
        pytest.skip("nothing is known of this processor")
    onnx = pytest.importorskip("onnx")
    channels = 64
    spec = (
        "agraph (float[1, 64, 1, 1] x, int8[1, 64, 1, 1] w, float s, float big, uint8 u, int8 z) "
        "=> (float[1, 1, 1, 1] y) { q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) "
        "v = DequantizeLinear(w, s, z) c = Conv(d, v) p = QuantizeLinear(c, big, u) "
        "y = DequantizeLinear(p, big, u) }"
    )
    step, most = 1 / 255, channels * 127 / 255
    constants = {
        "w": np.full((1, channels, 1, 1), 127, np.int8),
        "s": np.float32(step),
        "big": np.float32(most / 255),
        "u": np.uint8(0),
        "z": np.int8(0),
    }
    graph = onnx.parser.parse_graph(spec)
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    kept = [item for item in graph.input if item.name == "x"]
    del graph.input[:]
    graph.input.extend(kept)
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)

    data = model.SerializeToString()

    def answer(options: ort.SessionOptions) -> float:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return float(session.run(None, {"x": np.ones((1, channels, 1, 1), np.float32)})[0].item())

    assert (answer(ort.SessionOptions()) < 0.9 * most) is told
    assert answer(session_options(data)) == pytest.approx(most)

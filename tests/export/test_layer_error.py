"""The error of each layer, on a network small enough to compute by hand, and on real ones."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lydite.card import Architecture, Quantization
from lydite.detector import Detector
from lydite.export.calibrate import calibrate
from lydite.export.layer_error import layer_errors, sqnr_db
from lydite.export.onnx import to_onnx
from lydite.export.parity import synthetic_tiles
from lydite.export.quantized import Ranges, apply_quantization, quantize_static

OURS = Architecture(network="lydite-small", input_size=32, config={"widths": [8, 12]})
VGG = Architecture(network="paper-student-0.44m", input_size=64)


def two_layers() -> bytes:
    """Return conv_0, which doubles, a ReLU, and conv_1, which weighs both channels."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 1, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, 1, 4])
    nodes = [
        helper.make_node("Conv", ["image", "first.weight"], ["conv_0"], name="conv_0"),
        helper.make_node("Relu", ["conv_0"], ["relu_0"], name="relu_0"),
        helper.make_node("Conv", ["relu_0", "second.weight"], ["logits"], name="conv_1"),
    ]
    weights = {"first.weight": [[2.0]], "second.weight": [[1.27]]}
    tensors = [
        numpy_helper.from_array(np.array(value, np.float32).reshape(1, 1, 1, 1), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "two", [image], [logits], tensors)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def test_a_case_by_hand() -> None:
    data = two_layers()
    # one step of relu_0 is 2.55 / 255 = 0.01
    ranges: Ranges = {"relu_0": (0.0, 2.55), "logits": (0.0, 4.0)}
    quantization = Quantization(scheme="static-int8", ranges=ranges)
    batch = np.array([[[[0.5, -1.0, 0.252, 1.5]]]], np.float32)
    report = layer_errors(data, quantize_static(data, ranges), quantization, batch)
    first, second = report.layers
    # conv_0 is float, its ReLU gives 1, 0, 0.504, 3; uint8 makes of that 1, 0, 0.50, 2.55
    outputs, errors = np.array([1, 0, 0.504, 3]), np.array([0, 0, 0.004, 0.45])
    assert first.name == "conv_0"
    assert not first.integer
    assert first.weight_error == 0
    assert "kept float by `float_input`" in first.reason
    assert (second.name, second.weight, second.integer) == ("conv_1", "second.weight", True)
    assert second.reason == ""
    assert second.weight_error == pytest.approx(0, abs=1e-7)
    # conv_1 multiplies by 1.27, and its logits are not rounded
    wanted = 10 * math.log10((outputs**2).sum() / (errors**2).sum())
    assert second.sqnr_db == pytest.approx(wanted, rel=1e-4)
    assert second.relative_error == pytest.approx(errors.sum() / outputs.sum(), rel=1e-4)
    # a convolution whose result is not rounded is one that onnxruntime does not fuse
    assert (report.n, report.kernels) == (1, 0)
    assert report.verdict.startswith(
        "1 of 2 layers multiply integers in the file, and onnxruntime runs 0 in integer kernels."
    )
    assert report.to_json()["layers"][1]["integer"]


def test_sqnr_by_hand() -> None:
    assert sqnr_db(1.0, 0.001) == pytest.approx(30)
    assert sqnr_db(1.0, 0.0) is None
    assert sqnr_db(0.0, 1.0) is None


@pytest.fixture(scope="module")
def ours() -> tuple[bytes, Ranges, np.ndarray]:
    detector = Detector.start(OURS, seed=2)
    data, batch = to_onnx(detector.network, 32), synthetic_tiles(detector, 24)
    return data, calibrate(data, [batch]), batch


def test_every_layer_of_a_real_network(ours: tuple[bytes, Ranges, np.ndarray]) -> None:
    data, ranges, batch = ours
    quantization = Quantization(scheme="static-int8", ranges=ranges)
    report = layer_errors(data, quantize_static(data, ranges), quantization, batch)
    assert [layer.integer for layer in report.layers] == [False, False] + [True] * 6
    assert report.kernels == 6
    assert "a fixed filter" in report.layers[0].reason
    for layer in report.layers[2:]:
        assert layer.sqnr_db is not None
        assert 15 < layer.sqnr_db < 60, layer
        assert layer.weight_error is not None
        assert 0 < layer.weight_error < 0.01
    coarse = {name: (low * 8, high * 8) for name, (low, high) in ranges.items()}
    quantization = Quantization(scheme="static-int8", ranges=coarse)
    worse = layer_errors(
        data,
        quantize_static(data, coarse),
        quantization,
        batch,
    )
    for before, after in zip(report.layers[2:], worse.layers[2:], strict=True):
        assert before.sqnr_db is not None
        assert after.sqnr_db is not None
        # a step eight times as large is eighteen decibels
        assert 10 < before.sqnr_db - after.sqnr_db < 26
        assert after.weight_error == before.weight_error


def test_a_layer_without_ranges_is_named(ours: tuple[bytes, Ranges, np.ndarray]) -> None:
    data, ranges, batch = ours
    graph = onnx.load_from_string(data).graph
    first = next(node for node in graph.node if node.name == "conv_7")
    # the last layer's own output has no range, so it stays float
    part = {name: limits for name, limits in ranges.items() if name != first.output[0]}
    quantization = Quantization(scheme="static-int8", ranges=part)
    report = layer_errors(data, quantize_static(data, part), quantization, batch)
    assert not report.layers[-1].integer
    assert report.layers[-1].reason == "no range for conv_7"
    assert "conv_7 (no range for conv_7)" in report.verdict


@pytest.mark.parametrize(
    ("scheme", "integer", "says"),
    [
        ("linear-int8", 2, "linear-int8 covers linear layers alone"),
        ("weight-int8", 0, "weight-int8 stores small weights"),
        ("float16", 0, "float16 stores small weights"),
        ("bfloat16", 0, "bfloat16 stores small weights"),
    ],
)
def test_the_other_schemes(
    scheme: str, integer: int, says: str, vgg: tuple[bytes, np.ndarray]
) -> None:
    data, batch = vgg
    quantization = Quantization(scheme=scheme)  # type: ignore[arg-type]
    report = layer_errors(data, apply_quantization(data, quantization), quantization, batch)
    assert sum(layer.integer for layer in report.layers) == report.kernels == integer
    assert says in report.verdict
    changed = [layer.weight_error for layer in report.layers if layer.weight_error]
    assert len(changed) == (integer or len(report.layers))
    assert max(changed) < 0.02
    last = report.layers[-1].sqnr_db
    assert last is not None
    assert last > 25


@pytest.fixture(scope="module")
def vgg() -> tuple[bytes, np.ndarray]:
    detector = Detector.start(VGG, seed=2)
    return to_onnx(detector.network, 64), synthetic_tiles(detector, 8)

"""Integer files: from the card alone, really integer, really smaller, refused if foreign."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lydite.card import Architecture, Quantization
from lydite.detector import Detector
from lydite.errors import CardError
from lydite.export.calibrate import calibrate
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export, to_onnx
from lydite.export.quantized import (
    Ranges,
    apply_quantization,
    quantize_linear,
    quantize_static,
    ranged_tensors,
)
from lydite.session import EXACT_INTEGERS, session_options

VGG = Architecture(network="paper-student-0.44m", input_size=64)
WIDE = Architecture(network="lydite-small", input_size=64, config={"widths": [32, 64]})


def tiles(count: int = 8, seed: int = 0) -> np.ndarray:
    """Return tiles of any brightness, contrast and noise."""
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((count, 3, 64, 64), dtype=np.float32)
    slope = np.linspace(-1, 1, 64, dtype=np.float32) * draw.uniform(-1, 1, (count, 3, 1, 1))
    return (noise * draw.uniform(0.01, 0.5, (count, 1, 1, 1)) + slope).astype(np.float32)


def settled(architecture: Architecture, seed: int = 0) -> Detector:
    """Return a detector whose batch norms have seen data, so that activations have a scale."""
    detector = Detector.start(architecture, seed=seed)
    detector.network.train()
    with torch.no_grad():
        for index in range(10):
            detector.network(torch.from_numpy(tiles(8, index)))
    detector.network.eval()
    return detector


@pytest.fixture(scope="module")
def wide() -> Detector:
    return settled(WIDE)


@pytest.fixture(scope="module")
def wide_float(wide: Detector) -> bytes:
    return to_onnx(wide.network, 64)


@pytest.fixture(scope="module")
def vgg_float(vgg: Detector) -> bytes:
    return to_onnx(vgg.network, 64)


@pytest.fixture(scope="module")
def ranges(wide_float: bytes) -> Ranges:
    return calibrate(wide_float, [tiles()])


@pytest.fixture(scope="module")
def vgg() -> Detector:
    return settled(VGG)


def run(data: bytes, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": batch})[0])


def static(detector: Detector, data: bytes, *, float_input: bool = True) -> Detector:
    ranges = calibrate(data, [tiles()], float_input=float_input)
    return detector.evolve(quantization=Quantization(scheme="static-int8", ranges=ranges))


def test_static_int8_is_integer_small_and_close(wide: Detector, wide_float: bytes) -> None:
    data = export(static(wide, wide_float, float_input=False))
    table = inspect_quantized(data)
    assert [layer.operator for layer in table.layers] == ["Conv"] * len(table.layers)
    # the fixed filter reads raw pixels, and float_input=False quantizes even that
    assert table.integer_layers == len(table.layers)
    assert len(wide_float) / len(data) > 3
    reference, answer = run(wide_float, tiles(32, 99)), run(data, tiles(32, 99))
    # eight bits: the error stays well below how much the logits vary between images
    assert np.abs(answer - reference).mean() < 0.25 * reference.std(axis=0).mean()
    assert np.abs(answer - reference).max() > 0


def test_seven_bits_make_narrow_weights_that_add_up_exactly(
    wide_float: bytes, ranges: Ranges
) -> None:
    full, narrow = (quantize_static(wide_float, ranges, bits) for bits in (8, 7))
    assert (largest(full), largest(narrow)) == (127, 64)
    # two products fit in 16 bits, so the runtime's faster kernels answer what the exact ones do
    slow = onnxruntime.SessionOptions()
    slow.add_session_config_entry(*EXACT_INTEGERS)
    batch = 50 * tiles(8, 3)  # activations at the ends of their ranges
    exact = onnxruntime.InferenceSession(narrow, slow, providers=["CPUExecutionProvider"])
    assert np.array_equal(exact.run(None, {"image": batch})[0], run(narrow, batch))
    with pytest.raises(RuntimeError):  # how onnxruntime says that an option was not given
        session_options(narrow).get_session_config_entry(EXACT_INTEGERS[0])
    assert session_options(full).get_session_config_entry(EXACT_INTEGERS[0]) == EXACT_INTEGERS[1]
    reference = run(wide_float, tiles(32, 99))
    error = np.abs(run(narrow, tiles(32, 99)) - reference).mean()
    assert 0 < error < 0.25 * reference.std(axis=0).mean()
    assert not np.array_equal(run(narrow, batch), run(full, batch))


def largest(data: bytes) -> int:
    """Return the largest magnitude of an int8 weight in a file."""
    stored = onnx.load_from_string(data).graph.initializer
    found = [t for t in stored if t.data_type == onnx.TensorProto.INT8]
    return max(int(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max()) for t in found)


def test_the_runtime_fuses_the_layers_to_integer_kernels(
    wide: Detector, wide_float: bytes, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    data = export(static(wide, wide_float))
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == inspect_quantized(data).integer_layers


def test_float_input_keeps_the_first_learned_layer(wide: Detector, wide_float: bytes) -> None:
    layers = inspect_quantized(export(static(wide, wide_float, float_input=True))).layers
    # the fixed filter and the first learned convolution
    assert [layer.integer for layer in layers[:3]] == [False, False, True]
    assert all(layer.integer for layer in layers[2:])


def test_logits_are_not_rounded(vgg_float: bytes) -> None:
    data = quantize_static(vgg_float, calibrate(vgg_float, [tiles()]))
    answers = run(data, tiles(64, 5))
    steps = np.unique(answers[:, 0])
    # rounded to one grid, all differences would be multiples of the smallest one
    ratios = np.diff(steps) / np.diff(steps).min()
    assert np.abs(ratios - np.round(ratios)).max() > 0.05
    last = onnx.load_from_string(data).graph.node[-1]
    assert (last.op_type, list(last.output)) == ("Gemm", ["logits"])


def test_linear_int8_shrinks_linear_layers_alone(vgg: Detector, vgg_float: bytes) -> None:
    plain, data = vgg_float, quantize_linear(vgg_float)
    table = inspect_quantized(data)
    kinds = {layer.operator: layer.integer for layer in table.layers}
    assert kinds == {"Conv": False, "MatMulInteger": True}
    linear = sum(m.weight.numel() for m in vgg.network.modules() if isinstance(m, torch.nn.Linear))
    assert table.weight_bytes["int8"] == pytest.approx(linear, abs=8)
    assert len(plain) - len(data) == pytest.approx(3 * linear, rel=0.05)
    assert np.abs(run(data, tiles()) - run(plain, tiles())).max() < 0.05


def test_linear_int8_of_a_network_without_linear_layers_is_the_float_file(
    wide_float: bytes,
) -> None:
    assert quantize_linear(wide_float) == wide_float
    assert inspect_quantized(wide_float).integer_layers == 0


RELOAD = """
import sys, pathlib
from lydite.detector import Detector
from lydite.export.onnx import export
for name in sys.argv[1:]:
    folder = pathlib.Path(name)
    (folder / "again.onnx").write_bytes(export(Detector.load(folder)))
"""


def test_a_fresh_process_exports_the_same_files_without_data(
    vgg: Detector, vgg_float: bytes, tmp_path: Path
) -> None:
    linear = vgg.evolve(quantization=Quantization(scheme="linear-int8"))
    made = {"linear": linear, "static": static(vgg, vgg_float)}
    folders = [str(tmp_path / name) for name in made]
    for name, detector in made.items():
        detector.save(tmp_path / name)
    subprocess.run([sys.executable, "-c", RELOAD, *folders], check=True)
    for name, detector in made.items():
        assert detector.card.quantization is not None
        here = apply_quantization(vgg_float, detector.card.quantization)
        assert (tmp_path / name / "again.onnx").read_bytes() == here


def test_ranges_decide_the_answer(wide_float: bytes, ranges: Ranges) -> None:
    squeezed = {name: (low / 4, high / 4) for name, (low, high) in ranges.items()}
    right, wrong = quantize_static(wide_float, ranges), quantize_static(wide_float, squeezed)
    reference = run(wide_float, tiles())
    error = [np.abs(run(data, tiles()) - reference).mean() for data in (right, wrong)]
    assert error[1] > 3 * error[0]


def test_minmax_ranges_are_the_extremes(wide_float: bytes) -> None:
    model = onnx.load_from_string(wide_float)
    name = ranged_tensors(wide_float)[-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = session.run([name], {"image": tiles()})[0]
    low, high = calibrate(wide_float, [tiles()[:3], tiles()[3:]])[name]
    assert (low, high) == pytest.approx((values.min(), values.max()), rel=1e-5)


def test_percentile_ranges_lie_inside_the_extremes(wide_float: bytes, ranges: Ranges) -> None:
    extremes = ranges
    found = calibrate(wide_float, [tiles()], "percentile")
    assert found.keys() == extremes.keys()
    widths = {
        name: (high - low) / (extremes[name][1] - extremes[name][0])
        for name, (low, high) in found.items()
    }
    assert max(widths.values()) <= 1.01
    assert min(widths.values()) < 0.95
    assert calibrate(wide_float, [tiles()], "percentile") == found


def test_calibration_prints_nothing(wide_float: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    calibrate(wide_float, [tiles(2)], "percentile")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r | {"conv_77": (0.0, 1.0)}, "'conv_77', which is no tensor"),
        (lambda r: r | {"patch.weight": (0.0, 1.0)}, "'patch.weight', which is no tensor"),
        (lambda r: r | {"relu_1": (1.0, -1.0)}, "low <= high"),
        (lambda r: r | {"relu_1": (0.0, 1e300)}, "in float32"),
        (lambda _: {}, "they cover no layer"),
        (lambda r: {"relu_1": r["relu_1"]}, "'relu_1' stands alone"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(
    wide_float: bytes, ranges: Ranges, change: Callable[[Ranges], Ranges], says: str
) -> None:
    with pytest.raises(CardError, match=says):
        quantize_static(wide_float, change(ranges))


def test_a_foreign_card_is_refused_on_export(vgg: Detector, ranges: Ranges) -> None:
    foreign = Quantization(scheme="static-int8", ranges=ranges)
    with pytest.raises(CardError, match="The ranges belong to another network"):
        export(vgg.evolve(quantization=foreign))


def test_a_range_of_zero_width_is_no_error(wide_float: bytes, ranges: Ranges) -> None:
    data = quantize_static(wide_float, ranges | {"relu_1": (0.0, 0.0)})
    assert np.isfinite(run(data, tiles(2))).all()

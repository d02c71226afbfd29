"""Files with small weights and float arithmetic: their sizes, values, and who may read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lydite.card import Architecture, Quantization, parse_card
from lydite.compress.quantize import Quantize
from lydite.detector import Detector
from lydite.errors import CardError, ConfigError
from lydite.export.inspection import inspect_quantized, integer_kernels
from lydite.export.onnx import to_onnx
from lydite.export.parity import check_parity, require_parity, synthetic_tiles
from lydite.export.quantized import apply_quantization
from lydite.export.weights_only import channel_scales, require_bfloat16, store_weights
from lydite.onnx_guard import check_onnx
from lydite.recipe import Stage

VGG = Architecture(network="paper-student-0.44m", input_size=64)
OURS = Architecture(network="lydite-small", input_size=64, config={"widths": [4], "blocks": 1})
SCHEMES = ("weight-int8", "float16", "bfloat16")
#: bytes of a weight, and its largest error relative to the largest weight of its channel
BYTES = {"weight-int8": 1, "float16": 2, "bfloat16": 2}
ERROR = {"weight-int8": 0.5 / 127, "float16": 2**-11, "bfloat16": 2**-8}


@pytest.fixture(scope="module")
def vgg() -> Detector:
    return Detector.start(VGG, seed=1)


@pytest.fixture(scope="module")
def vgg_float(vgg: Detector) -> bytes:
    return to_onnx(vgg.network, 64)


@pytest.fixture(scope="module")
def ours_float() -> bytes:
    return to_onnx(Detector.start(OURS, seed=1).network, 64)


def values_of(data: bytes, names: list[str]) -> dict[str, np.ndarray]:
    """Return inner tensors of a file as its runtime computes them."""
    model = onnx.load_from_string(data)
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.zeros((1, 3, 64, 64), np.float32)
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_file_is_small_standard_and_not_integer(
    scheme: str, vgg: Detector, vgg_float: bytes
) -> None:
    data = apply_quantization(vgg_float, Quantization(scheme=scheme))  # type: ignore[arg-type]
    check_onnx(data, "it")
    domains = {node.domain for node in onnx.load_from_string(data).graph.node}
    assert domains == {""}
    table = inspect_quantized(data)
    weights = sum(p.numel() for p in vgg.network.parameters() if p.dim() > 1)
    stored = table.weight_bytes["int8" if scheme == "weight-int8" else scheme]
    # with half floats the biases are small too
    biases = sum(
        m.out_channels if isinstance(m, torch.nn.Conv2d) else m.out_features
        for m in vgg.network.modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    )
    assert stored == BYTES[scheme] * (weights + (0 if scheme == "weight-int8" else biases))
    assert table.weight_bytes.get("float32", 0) < 0.05 * 4 * weights
    assert table.integer_layers == integer_kernels(data) == 0
    assert len(data) < (0.3 if scheme == "weight-int8" else 0.53) * 4 * weights


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parity_is_reported_as_of_a_quantized_file(
    scheme: str, vgg: Detector, vgg_float: bytes
) -> None:
    detector = vgg.evolve(quantization=Quantization(scheme=scheme))
    tiles = synthetic_tiles(detector, 16)
    data = apply_quantization(vgg_float, Quantization(scheme=scheme))  # type: ignore[arg-type]
    parity = check_parity(detector, data, tiles)
    assert parity.quantized
    assert 0 < parity.mean_abs < 0.02
    assert require_parity(parity, max_flips=1.0) is parity


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_come_back_to_the_last_bit_they_have(
    scheme: str, vgg_float: bytes, ours_float: bytes
) -> None:
    for data in (vgg_float, ours_float):
        small = store_weights(data, scheme)  # type: ignore[arg-type]
        tensors = {
            t.name: onnx.numpy_helper.to_array(t)
            for t in onnx.load_from_string(data).graph.initializer
            if t.name.endswith(".weight")
        }
        for name, found in values_of(small, list(tensors)).items():
            weight = tensors[name]
            most = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
            error = np.abs(found - weight) / most
            assert 0 < error.max() <= ERROR[scheme] * (1 + 1e-5), name


def test_half_floats_are_those_of_torch(vgg_float: bytes) -> None:
    name = "classifier.fc1.weight"
    weight = next(
        onnx.numpy_helper.to_array(t)
        for t in onnx.load_from_string(vgg_float).graph.initializer
        if t.name == name
    )
    for scheme, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        found = values_of(store_weights(vgg_float, scheme), [name])[name]  # type: ignore[arg-type]
        assert np.array_equal(found, torch.from_numpy(weight.copy()).to(dtype).float().numpy())


def test_a_fixed_filter_keeps_its_exact_values(ours_float: bytes) -> None:
    for scheme in SCHEMES:
        graph = onnx.load_from_string(store_weights(ours_float, scheme)).graph  # type: ignore[arg-type]
        (kernel,) = [t for t in graph.initializer if list(t.dims) == [3, 1, 3, 3]]
        assert onnx.numpy_helper.to_array(kernel)[0, 0, 1, 1] == np.float32(0.75)


def test_scales_by_hand() -> None:
    weight = np.array([[1.27, -2.54], [0, 0], [-0.127, 0]], dtype=np.float32)
    assert channel_scales(weight, 0).tolist() == pytest.approx([0.02, 1.0, 0.001])
    assert channel_scales(weight, 1).tolist() == pytest.approx([0.01, 0.02])


def test_a_weight_beyond_float16_is_refused(ours_float: bytes) -> None:
    model = onnx.load_from_string(ours_float)
    tensor = next(t for t in model.graph.initializer if t.name == "patch.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(CardError, match="patch.weight holds a weight of magnitude 100000"):
        store_weights(model.SerializeToString(), "float16")
    assert store_weights(model.SerializeToString(), "bfloat16")


def test_a_fresh_process_exports_the_same_files(ours_float: bytes, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from lydite.detector import Detector\n"
        "from lydite.export.onnx import export\n"
        "for name in sys.argv[1:]:\n"
        "    folder = pathlib.Path(name)\n"
        "    (folder / 'again.onnx').write_bytes(export(Detector.load(folder)))\n"
    )
    detector = Detector.start(OURS, seed=1)
    for scheme in SCHEMES:
        detector.evolve(quantization=Quantization(scheme=scheme)).save(tmp_path / scheme)
    folders = [str(tmp_path / scheme) for scheme in SCHEMES]
    subprocess.run([sys.executable, "-c", code, *folders], check=True)
    for scheme in SCHEMES:
        here = apply_quantization(ours_float, Quantization(scheme=scheme))  # type: ignore[arg-type]
        assert (tmp_path / scheme / "again.onnx").read_bytes() == here


def test_cards_of_before_load_as_before() -> None:
    card = Detector.start(OURS).card.to_json()
    card["quantization"] = {"scheme": "static-int8", "ranges": {}, "calibration": None, "n": 0}
    assert parse_card(card, "it").quantization == Quantization(scheme="static-int8")
    card["quantization"]["scheme"] = "int4"
    with pytest.raises(CardError, match="scheme"):
        parse_card(card, "it")


def test_a_runtime_without_bfloat16_is_named_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    require_bfloat16()
    stage = Stage("lydite-small", trained=True)
    Quantize(scheme="bfloat16").check(stage)
    assert stage.quantized

    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(
        ConfigError, match="does not read bfloat16 weights .* Use the scheme float16"
    ):
        Quantize(scheme="bfloat16").check(Stage("lydite-small", trained=True))
    Quantize(scheme="float16").check(Stage("lydite-small", trained=True))


def test_the_plan_tells_that_weight_int8_is_not_faster() -> None:
    stage = Stage("lydite-small", trained=True)
    Quantize(scheme="weight-int8").check(stage)
    assert "smaller but not faster" in stage.notes[0]

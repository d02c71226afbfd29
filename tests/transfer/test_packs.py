"""Packs of real adapters: small, exact, for float and integer bases, and trainable again."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from helpers.networks import answer, lived_in_detector, picture
from helpers.transfer import context, trained
from lydite.card import ONNX_NAME, WEIGHTS_NAME, Architecture, Preprocess, Quantization
from lydite.compress.quantize import Quantize
from lydite.data.manifest import Manifest
from lydite.delta import compose, make_delta
from lydite.detector import Detector
from lydite.edits import AdapterKind, AddAdapter
from lydite.errors import CardError, ConfigError, DataError
from lydite.export.calibrate import calibrate
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export, to_onnx
from lydite.export.parity import synthetic_tiles
from lydite.models.surgery import add_adapter_
from lydite.onnx_guard import check_onnx
from lydite.pack import ADAPTER_NAME, Pack
from lydite.pack_folder import load_pack, save_pack
from lydite.predictor import Predictor
from lydite.transfer import packs
from lydite.transfer.adapt import Adapt
from lydite.transfer.packs import as_exported, changed_tensors, make_pack, unpack

SIZE = 32
SMALL = Architecture(network="lydite-small", input_size=SIZE)
PAPER = Architecture(network="paper-student-0.9m", input_size=64, config={"width": 0.5})
SCHEMES = ("float32", "static-int8", "weight-int8")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    """Return lydite-small in several schemes, exported, saved and loaded again."""
    plain = lived_in_detector(SMALL)
    ranges = calibrate(to_onnx(plain.network, SIZE), [synthetic_tiles(plain)])
    made = {
        "float32": plain,
        "static-int8": plain.evolve(quantization=Quantization(scheme="static-int8", ranges=ranges)),
        "weight-int8": plain.evolve(quantization=Quantization(scheme="weight-int8")),
    }
    folder = tmp_path_factory.mktemp("bases")
    for name, detector in made.items():
        replace(detector, files={ONNX_NAME: export(detector)}).save(folder / name)
    return {name: Detector.load(folder / name) for name in made}


def adapted(base: Detector, kind: AdapterKind = "separable", stage: int = -1) -> Detector:
    """Return a detector with an adapter whose weights look trained."""
    network = copy.deepcopy(base.network)
    place = network.stages()[stage]
    rank = 4 if kind in ("bottleneck", "lora") else None
    edit = AddAdapter(after=place, kind=kind, channels=network.channels_after(place), rank=rank)
    add_adapter_(network, edit)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.startswith("adapters."):
                tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
    score = base.card.score.model_copy(update={"threshold": 0.25, "rule": "of the adapted"})
    edits = (*base.card.edits, edit)
    return base.evolve(network=network, edits=edits, score=score, steps=({"adapt": {}},))


def packed(base: Detector, made: Detector, name: str = "new") -> Pack:
    return make_pack(base, made, name, batches=[synthetic_tiles(base)])


def onnx_of(detector: Detector) -> bytes:
    assert detector.files is not None
    return detector.files[ONNX_NAME]


def run(data: bytes, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": batch})[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_pack_may_hold_several_adapters(bases: dict[str, Detector], scheme: str) -> None:
    base = bases[scheme]
    made = adapted(adapted(base, "residual-separable", 0), "residual-separable", 1)
    made = made.evolve(steps=({"adapt": {}},))
    pack = packed(base, made)
    back = unpack(base, pack)
    full = export(as_exported(base.card, made, [synthetic_tiles(base)]))
    batch = synthetic_tiles(base, 6)
    np.testing.assert_array_equal(run(onnx_of(back), batch), run(full, batch))
    assert not np.array_equal(run(onnx_of(back), batch), run(onnx_of(base), batch))
    assert changed_tensors(back, made) == {}


# ------------------------------------------------------------------------ deltas of real files


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_changed_weight_costs_a_few_bytes(bases: dict[str, Detector], scheme: str) -> None:
    base = onnx_of(bases[scheme])
    model = onnx.load_from_string(base)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[7] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    full = model.SerializeToString(deterministic=True)
    delta = make_delta(base, full)
    assert len(delta) < 120
    made = compose(base, delta)
    check_onnx(made, "made")
    batch = synthetic_tiles(bases[scheme], 6)
    np.testing.assert_array_equal(run(made, batch), run(full, batch))
    assert not np.array_equal(run(made, batch), run(base, batch))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_inserted_convolution_costs_itself(bases: dict[str, Detector], scheme: str) -> None:
    base = onnx_of(bases[scheme])
    model = onnx.load_from_string(base)
    graph = model.graph
    weight = np.random.default_rng(0).normal(size=(2, 2, 1, 1)).astype(np.float32)
    last = graph.node[-1]
    before, last.output[0] = last.output[0], "inner"
    shape = numpy_helper.from_array(np.array([-1, 2, 1, 1]), "shape")
    flat = numpy_helper.from_array(np.array([-1, 2]), "flat")
    graph.initializer.extend([numpy_helper.from_array(weight, "new"), shape, flat])
    graph.node.extend(
        [
            helper.make_node("Reshape", ["inner", "shape"], ["wide"], name="to_map"),
            helper.make_node("Conv", ["wide", "new"], ["mixed"], name="new_conv"),
            helper.make_node("Reshape", ["mixed", "flat"], [before], name="to_rows"),
        ]
    )
    full = model.SerializeToString(deterministic=True)
    delta = make_delta(base, full)
    assert len(delta) < 400
    batch = synthetic_tiles(bases[scheme], 6)
    mixed = run(compose(base, delta), batch)
    np.testing.assert_array_equal(mixed, run(full, batch))
    np.testing.assert_allclose(mixed, run(base, batch) @ weight[:, :, 0, 0].T, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize("kind", ["residual-separable", "affine"])
def test_adapters_leave_the_names_around_them(
    bases: dict[str, Detector], kind: AdapterKind
) -> None:
    base = bases["float32"]
    before = onnx.load_from_string(onnx_of(base)).graph
    after = onnx.load_from_string(to_onnx(adapted(base, kind, 1).network, SIZE)).graph
    outside = [node for node in after.node if not node.name.startswith("adapters.body_1.")]
    assert [node.name for node in outside] == [node.name for node in before.node]
    assert [list(node.output) for node in outside] == [list(node.output) for node in before.node]
    weights = {tensor.name: tensor for tensor in before.initializer}
    kept = {t.name: t for t in after.initializer if "adapters." not in t.name}
    assert kept == weights


# ------------------------------------------------------------------------------ real packs


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("float32", "separable"),
        ("static-int8", "separable"),
        ("static-int8", "bottleneck"),
        ("static-int8", "linear"),
        ("weight-int8", "residual-separable"),
    ],
)
def test_packs_are_small_exact_and_come_back_as_detectors(
    bases: dict[str, Detector], scheme: str, kind: AdapterKind, tmp_path: Path
) -> None:
    base = bases[scheme]
    made = adapted(base, kind)
    save_pack(packed(base, made), tmp_path / "pack")
    pack = load_pack(tmp_path / "pack")
    assert pack.size_bytes < 12_500
    card, full = pack.apply(base.card, onnx_of(base))
    assert (card.score, card.edits) == (made.card.score, made.card.edits)
    back = unpack(base, pack)
    assert back.card == card
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], tensor), name
    assert export(back) == full == onnx_of(back)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_integer_base_keeps_its_integer_layers(bases: dict[str, Detector], stage: int) -> None:
    base = bases["static-int8"]
    made = adapted(base, "residual-separable", stage)
    pack = packed(base, made)
    assert len(pack.card.ranges) == 1
    _, full = pack.apply(base.card, onnx_of(base))
    layers = {layer.name: layer.integer for layer in inspect_quantized(full).layers}
    inside = {name for name in layers if name.startswith("adapters.")}
    before = {layer.name: layer.integer for layer in inspect_quantized(onnx_of(base)).layers}
    assert {name: layers[name] for name in layers if name not in inside} == before
    assert len(inside) == 3 and not any(layers[name] for name in inside)
    tiles = synthetic_tiles(base, 32)
    plain, rounded = run(to_onnx(made.network, SIZE), tiles), run(full, tiles)
    price = np.abs(run(onnx_of(base), tiles) - run(onnx_of(bases["float32"]), tiles)).mean()
    assert np.abs(rounded - plain).mean() < 3 * price


def test_ranges_come_from_the_adapted_card_where_it_has_them(bases: dict[str, Detector]) -> None:
    base = bases["static-int8"]
    made = adapted(base)
    with pytest.raises(DataError, match="Pass `batches`"):
        make_pack(base, made, "new")
    ready = as_exported(base.card, made, [synthetic_tiles(base)])
    assert ready.card.quantization is not None and base.card.quantization is not None
    added = ready.card.quantization.ranges.keys() - base.card.quantization.ranges.keys()
    assert added == {"adapters.body_2.relu_0"}
    pack = make_pack(base, ready, "new")
    assert pack.card.ranges.keys() == added
    assert pack.apply(base.card, onnx_of(base))[1] == export(ready)


def test_a_second_adapter_on_an_adapted_base(bases: dict[str, Detector], tmp_path: Path) -> None:
    first = unpack(
        bases["static-int8"], packed(bases["static-int8"], adapted(bases["static-int8"]))
    )
    first.save(tmp_path / "first")
    base = Detector.load(tmp_path / "first")
    pack = packed(base, adapted(base, "bottleneck", 0))
    assert [edit.op for edit in pack.card.edits] == ["add_adapter"]
    assert list(pack.card.ranges) == ["adapters.body_0.add_0"]
    back = unpack(base, pack)
    assert export(back) == onnx_of(back)


def test_a_changed_head_alone_is_a_pack_too(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    network = copy.deepcopy(base.network)
    with torch.no_grad():
        network.get_parameter("patch.bias")[1] += 1.0
    pack = packed(base, base.evolve(network=network))
    assert pack.size_bytes < 2_500
    both = Predictor.from_bytes(base.card, onnx_of(base), packs=[pack])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert both.predict(image).by == "new"
    assert both.predict(image).score == pytest.approx(
        Predictor.from_bytes(base.card, onnx_of(base)).score(image) + 1, abs=1e-4
    )


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_step_of_adapt_on_an_integer_base_of_the_papers_kind(
    tiny_manifest: Manifest, tmp_path: Path, place: str
) -> None:
    run = context(tiny_manifest, tmp_path / "run")
    start = Quantize(images=4).run(trained(PAPER), run)
    replace(start, files={ONNX_NAME: export(start)}).save(tmp_path / "base")
    base = Detector.load(tmp_path / "base")
    step = Adapt(steps=2, batch=4, lr=0.01, place=place, adapter="residual-separable")
    made = step.run(base, run)
    pack = packed(base, made)
    tensors = changed_tensors(base, made)
    assert tensors and all(name.startswith("adapters.") for name in tensors)
    assert pack.size_bytes < 0.2 * len(onnx_of(base))
    _, full = pack.apply(base.card, onnx_of(base))
    inner = inspect_quantized(full).integer_layers
    assert inner == inspect_quantized(onnx_of(base)).integer_layers
    assert torch.equal(
        answer(unpack(base, pack).network, picture()), answer(made.network, picture())
    )


# ---------------------------------------------------------------------------- refusals


def test_changed_tensors_are_found_bit_by_bit(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    made = adapted(base, "affine")
    names = {"adapters.body_2.affine.weight", "adapters.body_2.affine.bias"}
    assert set(changed_tensors(base, made)) == names
    with torch.no_grad():
        made.network.get_parameter("patch.bias")[0] = torch.nextafter(
            base.network.get_parameter("patch.bias")[0], torch.tensor(9.0)
        )
    assert set(changed_tensors(base, made)) == {*names, "patch.bias"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preprocess": Preprocess(size=SIZE, tiles=1)}, "preprocessing differs"),
        ({"quantization": Quantization(scheme="float16")}, "quantization differs"),
        ({"architecture": SMALL.model_copy(update={"network": "other"})}, "architecture differs"),
    ],
)
def test_what_was_not_made_of_the_base_is_refused(
    bases: dict[str, Detector], change: dict[str, Any], reason: str
) -> None:
    base = bases["float32"]
    with pytest.raises(ConfigError, match=reason):
        packed(base, adapted(base).evolve(**change))


def test_a_base_that_was_trained_on_is_refused(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    made = adapted(base)
    with torch.no_grad():
        for tensor in made.network.parameters():
            tensor += 0.01
    with pytest.raises(ConfigError, match="may change 10% of its base; .* would be 9"):
        packed(base, made)


def test_another_network_and_other_edits_are_refused(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    other = adapted(base)
    card = other.card.model_copy(update={"files": base.card.files})
    with pytest.raises(ConfigError, match="list of edits differs"):
        packed(replace(other, card=card, files=base.files), base)
    wide = Architecture(network="lydite-small", input_size=SIZE, config={"widths": [8, 16, 32]})
    with pytest.raises(ConfigError, match="another shape"):
        changed_tensors(base, lived_in_detector(wide))


def test_a_base_without_an_exported_file_is_refused(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    with pytest.raises(ConfigError, match="lydite export"):
        packed(replace(base, files=None), adapted(base))


def test_a_pack_that_could_not_be_loaded_is_not_made(
    bases: dict[str, Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ConfigError, match="would have .* 1,000 bytes .* Save it as a detector"):
        packed(bases["float32"], adapted(bases["float32"]))


@pytest.mark.parametrize("name", ["base", "Up", "a/b", ""])
def test_names_that_are_not_allowed(bases: dict[str, Detector], name: str) -> None:
    with pytest.raises(ConfigError, match="`name`"):
        packed(bases["float32"], adapted(bases["float32"]), name)


def test_weights_that_do_not_fit_are_refused(bases: dict[str, Detector]) -> None:
    base = bases["float32"]
    pack = packed(base, adapted(base, "affine"))
    other = packed(base, adapted(base, "separable"))
    for data, reason in (
        (b"junk", "not valid safetensors"),
        (other.files[ADAPTER_NAME], "do not fit its card"),
    ):
        with pytest.raises(CardError, match=reason):
            unpack(base, Pack(pack.card, pack.files | {ADAPTER_NAME: data}))
    entry = base.card.files[WEIGHTS_NAME].model_copy(update={"sha256": "0" * 64})
    card = base.card.model_copy(update={"files": base.card.files | {WEIGHTS_NAME: entry}})
    with pytest.raises(CardError, match="trained on other weights"):
        unpack(replace(base, card=card), pack)
    with pytest.raises(CardError, match="belongs to the detector"):
        unpack(bases["static-int8"], pack)

"""The step `quantize`: what it refuses, what it records, and that nothing but the card changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lydite.card import Architecture, Quantization
from lydite.compress.quantize import Quantize
from lydite.data.manifest import Manifest, from_columns
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError, DecodeError
from lydite.export.calibration import balanced_sample
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export
from lydite.files import sha256_file
from lydite.recipe import Context, Stage, parse_step

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 8]})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve real and four fake training images, one of them unreadable, two of validation."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    columns: dict[str, list[object]] = {"path": [], "sha256": [], "label": [], "error": []}
    columns |= {"split": [], "group": [], "generator": [], "domain": [], "bytes": []}
    for index in range(18):
        path = folder / f"{index}.png"
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        values = {
            "path": path.name,
            "sha256": sha256_file(path),
            "label": "fake" if index % 4 == 3 else "real",
            "error": "truncated" if index == 0 else None,
            "split": "val" if index >= 16 else "train",
            "group": path.name,
            "generator": "noise",
            "domain": "noise",
            "bytes": path.stat().st_size,
        }
        for name, value in values.items():
            columns[name].append(value)
    return from_columns(columns, folder)


def context(images: Manifest, folder: Path, seed: int = 3) -> Context:
    train, val = images.select(split="train"), images.select(split="val")
    return Context(train, val, seed=seed, folder=folder)


def test_the_sample_is_balanced_readable_and_fixed_by_the_seed(images: Manifest) -> None:
    train = images.select(split="train")
    chosen = balanced_sample(train, 6, seed=0)
    assert sorted(chosen.column("label")) == ["fake"] * 3 + ["real"] * 3
    assert "0.png" not in chosen.column("path")
    backwards = Manifest(train.table.take(list(range(len(train)))[::-1]), train.root)
    assert balanced_sample(backwards, 6, seed=0).digest == chosen.digest
    assert balanced_sample(train, 6, seed=1).digest != chosen.digest


def test_a_small_class_is_taken_whole_and_a_missing_one_refused(images: Manifest) -> None:
    train = images.select(split="train")
    assert sorted(balanced_sample(train, 20, 0).column("label")) == ["fake"] * 4 + ["real"] * 10
    with pytest.raises(DataError, match="lack the positive"):
        balanced_sample(train.select(label="real"), 6, 0)


def test_static_int8_records_what_export_needs(images: Manifest, tmp_path: Path) -> None:
    parent = Detector.start(TINY)
    before = {k: v.clone() for k, v in parent.network.state_dict().items()}
    seen: list[tuple[str, int, int, str]] = []
    base = context(images, tmp_path)
    watched = Context(base.train, base.val, 3, tmp_path, progress=lambda *args: seen.append(args))
    step = Quantize(images=6)
    made = step.run(parent, watched)
    quantization = made.card.quantization
    assert quantization is not None
    assert quantization.scheme == "static-int8"
    assert quantization.n == 6
    assert quantization.calibration == balanced_sample(base.train, 6, 3).digest
    assert quantization.ranges
    assert all(low < high for low, high in quantization.ranges.values())
    assert seen[-1] == ("quantize", 6, 6, "calibrating")
    # the weights are float still, and the parent is as it was
    assert parent.card.quantization is None
    assert all(torch.equal(v, before[k]) for k, v in made.network.state_dict().items())
    assert step.run(parent, base).card == made.card
    # two layers stay float: the fixed filter and the first learned one
    layers = inspect_quantized(export(made)).layers
    assert [layer.integer for layer in layers] == [False, False] + [True] * (len(layers) - 2)


def test_linear_int8_needs_no_images(images: Manifest, tmp_path: Path) -> None:
    empty = images.select(domain="nowhere")
    made = Quantize(scheme="linear-int8").run(Detector.start(TINY), context(empty, tmp_path))
    assert made.card.quantization == Quantization(scheme="linear-int8")


def test_an_unreadable_image_stops_the_step(images: Manifest, tmp_path: Path) -> None:
    elsewhere = Manifest(images.table, tmp_path)
    with pytest.raises(DecodeError):
        Quantize(images=4).run(Detector.start(TINY), context(elsewhere, tmp_path))


def test_order_is_checked() -> None:
    with pytest.raises(ConfigError, match="`quantize` needs a trained network"):
        Quantize().check(Stage("lydite-small"))
    stage = Stage("lydite-small", trained=True)
    Quantize(scheme="linear-int8").check(stage)
    assert stage.quantized
    assert "convolutions stay float32" in stage.notes[0]
    with pytest.raises(ConfigError, match="cannot follow `quantize`"):
        Quantize().check(stage)


def test_a_plan_says_where_there_is_nothing_to_round() -> None:
    step = Quantize(scheme="linear-int8")
    assert "no linear layer" in step.remarks(Detector.start(TINY))[0]
    student = Architecture(network="paper-student-0.44m", input_size=64)
    assert step.remarks(Detector.start(student)) == ()
    assert Quantize().remarks(Detector.start(TINY)) == ()


def test_recipes_know_the_step() -> None:
    assert parse_step("quantize") == Quantize()
    step = parse_step({"quantize": {"scheme": "linear-int8"}})
    assert step.spec()["quantize"]["scheme"] == "linear-int8"
    with pytest.raises(ConfigError, match="`scheme`"):
        parse_step({"quantize": {"scheme": "int4"}})
    # a step that says nothing of bits has the key that it had before there were others
    assert "weight_bits" not in Quantize().spec()["quantize"]
    assert Quantize(weight_bits=7).spec()["quantize"]["weight_bits"] == 7
    with pytest.raises(ConfigError, match="`weight_bits` is for static-int8"):
        parse_step({"quantize": {"scheme": "weight-int8", "weight_bits": 7}})


def test_seven_bits_are_recorded(images: Manifest, tmp_path: Path) -> None:
    made = Quantize(images=4, weight_bits=7).run(Detector.start(TINY), context(images, tmp_path))
    assert made.card.quantization is not None
    assert made.card.quantization.weight_bits == 7

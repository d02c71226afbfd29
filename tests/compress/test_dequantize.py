"""The step `dequantize`: the weights of a quantized detector go on, its rounding does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lydite.card import Architecture
from lydite.compress.dequantize import Dequantize
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export
from lydite.recipe import Context, Recipe, Stage, parse_step
from lydite.study.cache import Cache
from lydite.study.execute import Learning, Options, execute
from lydite.study.plan import make_plan
from lydite.study.spec import Study

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})
LEARN: dict[str, Any] = {"steps": 1, "batch": 4}
ROUNDED = {
    "static-int8": {"quantize": {"images": 4}},
    "float16": {"quantize": {"scheme": "float16"}},
    "qat": {"qat": {"images": 4, **LEARN}},
}


@pytest.fixture(scope="module")
def learning(tiny_manifest: Manifest) -> Learning:
    one = tiny_manifest.select(domain="one")
    return Learning(one.select(split="train"), one.select(split="val"))


@pytest.mark.parametrize("name", ROUNDED)
def test_weights_stay_and_rounding_goes(name: str, learning: Learning, tmp_path: Path) -> None:
    start = Detector.start(TINY, seed=3).evolve(steps=({"train": {}},))
    context = Context(learning.train, learning.val, seed=1, folder=tmp_path, device="cpu")
    rounded = parse_step(ROUNDED[name]).run(start, context)
    assert rounded.card.quantization is not None
    before = export(rounded)
    made = Dequantize().run(rounded, context)
    assert made.card.quantization is None
    assert not made.card.score.n
    state = made.network.state_dict()
    assert all(
        torch.equal(value, state[key]) for key, value in rounded.network.state_dict().items()
    )
    stored = [sum(inspect_quantized(file).weight_bytes.values()) for file in (before, export(made))]
    assert stored[0] < 0.7 * stored[1]
    assert rounded.card.quantization is not None  # the parent is as it was


def test_it_follows_rounding_alone_and_everything_follows_it() -> None:
    stage = Stage("lydite-small", trained=True)
    with pytest.raises(ConfigError, match="needs a quantized detector"):
        Dequantize().check(stage)
    parse_step("quantize").check(stage)
    with pytest.raises(ConfigError, match="or `dequantize` after it"):
        parse_step("finetune").check(stage)
    for entry in ("dequantize", "finetune", "qat", "dequantize", {"prune": {"rate": 0.5}}):
        parse_step(entry).check(stage)
    assert not stage.quantized


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_shipped_detector_is_trained_on(learning: Learning, tmp_path: Path) -> None:
    first = {
        "name": "first",
        "start": {"network": TINY.network, "size": 64, "config": TINY.config},
        "steps": [{"train": LEARN}, {"quantize": {"images": 4}}],
    }
    shipped = execute(
        Recipe.model_validate(first), learning, Cache(tmp_path / "one"), Options()
    ).detector
    shipped.save(tmp_path / "shipped")
    further: list[Any] = ["dequantize", {"finetune": LEARN}, {"quantize": {"images": 4}}]
    on = Recipe.model_validate(
        {"name": "on", "start": {"detector": tmp_path / "shipped"}, "steps": further}
    )
    cache = Cache(tmp_path / "two")
    made = execute(on, learning, cache, Options()).detector
    assert made.card.quantization is not None
    assert [next(iter(step)) for step in made.card.steps] == [
        *("train", "quantize", "dequantize", "finetune", "quantize")
    ]
    # one recipe of all steps gives the same detector, under the same key
    whole = Recipe.model_validate(first | {"name": "on", "steps": first["steps"] + further})
    again = execute(whole, learning, cache, Options())
    assert again.detector.card.key == made.card.key
    assert [step.cached for step in again.steps] == [True] * 5
    assert [step.seconds is None for step in again.steps] == [True, True, False, False, False]


def test_what_is_behind_a_finished_step_is_not_planned(
    tiny_manifest: Manifest, learning: Learning, tmp_path: Path
) -> None:
    steps: list[Any] = [{"train": LEARN}, {"quantize": {"scheme": "float16"}}]
    start = {"network": TINY.network, "size": 64, "config": TINY.config}
    study = Study.model_validate(
        {
            "name": "two",
            "data": {"manifest": "unused.parquet", "seen": ["one"]},
            "recipes": [
                {"name": "half", "start": start, "steps": steps},
                {"name": "whole", "start": start, "steps": steps[:1]},
            ],
        }
    )
    cache = Cache(tmp_path / "cache")
    made = execute(study.runs()[0], learning, cache, Options())
    test = tiny_manifest.select(split="test")

    def planned() -> dict[str, bool]:
        plan = make_plan(study, learning, len(test), cache, tmp_path, estimate=False)
        return {next(iter(step.step)): step.cached for step in plan.steps}

    assert planned() == {"train": True, "quantize": True}
    trained = cache.path(made.steps[0].key)
    trained.rename(tmp_path / "away")
    # the second recipe needs it all the same
    assert planned() == {"train": False, "quantize": True}
    assert [step.cached for step in execute(study.runs()[0], learning, cache, Options()).steps] == [
        True,
        True,
    ]
    assert not trained.exists()
    # a damaged end is not one: what leads to it is done again
    weights = cache.path(made.steps[1].key) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert planned() == {"train": False, "quantize": False}
    again = execute(study.runs()[0], learning, cache, Options())
    assert [step.cached for step in again.steps] == [False, False]
    assert again.detector.card.key == made.detector.card.key

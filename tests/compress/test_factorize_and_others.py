"""`factorize` among other steps: before and behind it, saved, exported, in integers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import answer, lived_in_detector, picture
from lydite.card import Architecture
from lydite.compress.distill import Distill
from lydite.compress.factorize import Factorize
from lydite.compress.mask import Mask
from lydite.compress.prune import Prune, prune_edits
from lydite.compress.quantize import Quantize
from lydite.detector import Detector
from lydite.edits import FactorizeConv
from lydite.errors import ConfigError
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export
from lydite.export.parity import check_parity, require_parity, synthetic_tiles
from lydite.models import build
from lydite.models.cost import count_parameters
from lydite.models.surgery import masks_of, replay_
from lydite.recipe import Context
from lydite.transfer.finetune import Finetune

if TYPE_CHECKING:
    from lydite.data.manifest import Manifest

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [6, 10]})


def context(folder: Path, images: Manifest | None = None, seed: int = 0) -> Context:
    train: Any = images.select(split="train") if images is not None else None
    val: Any = images.select(split="val") if images is not None else None
    return Context(train=train, val=val, seed=seed, folder=folder, device="cpu")


def test_a_fresh_process_gives_equal_scores(tmp_path: Path) -> None:
    parent = Prune(rate=0.2, multiple=2).run(lived_in_detector(TINY), context(tmp_path))
    made = Factorize(rate=0.4).run(parent, context(tmp_path))
    made = Prune(rate=0.2, multiple=1).run(made, context(tmp_path))
    made.save(tmp_path / "made")
    script = (
        "import sys, torch; from pathlib import Path; from lydite.detector import Detector\n"
        "torch.manual_seed(9); network = Detector.load(Path(sys.argv[1])).network\n"
        "print(network(torch.randn(2, 3, 32, 32)).tolist())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    torch.manual_seed(9)
    here = answer(made.network, torch.randn(2, 3, 32, 32))
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), here, atol=1e-6)
    assert {edit.op for edit in made.card.edits} == {"keep_channels", "factorize_conv"}


@pytest.mark.parametrize("name", ["paper-student-1.8m", "lydite-medium"])
def test_prune_after_factorize_removes_what_it_says(name: str, tmp_path: Path) -> None:
    split = Factorize(rate=0.4).run(lived_in_detector(name), context(tmp_path))
    made = Prune(rate=0.5, multiple=2).run(split, context(tmp_path))
    share = count_parameters(made.network) / count_parameters(split.network)
    assert 0.48 < share <= 0.5
    ranks = {e.group for e in prune_edits(split.network, 0.5, multiple=2) if "reduce" in e.group}
    assert ranks
    rebuilt = build(made.card.architecture)
    replay_(rebuilt, made.card.edits)
    rebuilt.load_state_dict(made.network.state_dict())
    assert torch.equal(answer(rebuilt, picture()), answer(made.network, picture()))


def test_a_second_factorize_leaves_factors_alone(tmp_path: Path) -> None:
    once = Factorize(rate=0.3, layers="linear").run(
        lived_in_detector("paper-student-0.44m"), context(tmp_path)
    )
    twice = Factorize(rate=0.1, layers="conv").run(once, context(tmp_path))
    assert len({edit.layer for edit in twice.card.edits if hasattr(edit, "layer")}) == len(
        twice.card.edits
    )
    with pytest.raises(ConfigError, match="finds nothing to split"):
        Factorize(rate=0.1, layers="linear").outline(once)


def test_masks_before_and_after(tmp_path: Path) -> None:
    masked = Mask(rate=0.5).run(lived_in_detector(TINY), context(tmp_path))
    split = Factorize(rate=0.4).run(masked, context(tmp_path))
    left = masks_of(split.network, split.card.edits)
    assert "patch.weight" in left
    layers = {edit.layer for edit in split.card.edits if isinstance(edit, FactorizeConv)}
    assert not {f"{layer}.weight" for layer in layers} & set(left)
    again = Mask(rate=0.5).run(split, context(tmp_path))
    again.save(tmp_path / "again")
    loaded = Detector.load(tmp_path / "again")
    masks = masks_of(loaded.network, loaded.card.edits)
    assert any(".expand." in name or ".row." in name for name in masks)
    for mask in masks.values():
        assert (~mask).float().mean() >= 0.4


def test_finetune_and_distill_after_factorize(tiny_manifest: Manifest, tmp_path: Path) -> None:
    split = Factorize(rate=0.4).run(lived_in_detector(TINY), context(tmp_path))
    todo = context(tmp_path / "tune", tiny_manifest)
    tuned = Finetune(steps=3, batch=4).run(split, todo)
    assert tuned.card.edits == split.card.edits
    shapes = {name: value.shape for name, value in split.network.state_dict().items()}
    assert {name: value.shape for name, value in tuned.network.state_dict().items()} == shapes
    layer = next(edit.layer for edit in split.card.edits if isinstance(edit, FactorizeConv))
    for (name, after), (_, before) in zip(
        tuned.network.get_submodule(layer).named_parameters(),
        split.network.get_submodule(layer).named_parameters(),
        strict=True,
    ):
        assert not torch.equal(after, before), name
    student = Distill(student="lydite-small", config={"widths": [4]}, steps=2, batch=4)
    learned = student.run(split, context(tmp_path / "distill", tiny_manifest))
    assert learned.card.edits == ()


@pytest.mark.parametrize("step", [Factorize(rate=0.5), Factorize(variant="paper")])
@pytest.mark.parametrize("name", ["paper-student-1.34m", "lydite-medium"])
def test_the_exported_file_answers_alike(name: str, step: Factorize, tmp_path: Path) -> None:
    if step.variant == "paper" and name == "lydite-medium":
        with pytest.raises(ConfigError, match="finds nothing to split"):
            step.run(lived_in_detector(name), context(tmp_path))
        return
    made = step.run(lived_in_detector(name), context(tmp_path))
    parity = check_parity(made, export(made), synthetic_tiles(made, 8))
    require_parity(parity)
    assert parity.scale > 0.1


@pytest.mark.parametrize("name", ["paper-student-1.34m", "lydite-small"])
@pytest.mark.parametrize("scheme", ["static-int8", "linear-int8"])
def test_quantize_after_factorize(
    name: str, scheme: Any, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    split = Factorize(rate=0.4).run(lived_in_detector(name), context(tmp_path))
    made = Quantize(scheme=scheme, images=8).run(split, context(tmp_path, tiny_manifest))
    data = export(made)
    found = inspect_quantized(data)
    layers = sum(type(m) in (nn.Conv2d, nn.Linear) for m in made.network.modules())
    fixed_filter = int(name.startswith("lydite"))
    assert len(found.layers) == layers + fixed_filter
    if scheme == "static-int8":
        assert found.integer_layers == layers - 1
    else:
        linear = sum(type(m) is nn.Linear for m in made.network.modules())
        assert found.integer_layers == linear
    parity = check_parity(made, data, synthetic_tiles(made, 8))
    assert np.isfinite(parity.max_abs)
    assert parity.mean_abs < 0.2 * parity.scale

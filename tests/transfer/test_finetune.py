"""The step `finetune`: chosen layers learn, the others keep every bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from helpers.transfer import Killed, changed, context, trained
from lydite.card import Architecture
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.data.preprocess import normalize
from lydite.detector import Detector
from lydite.edits import MaskWeights
from lydite.errors import ConfigError
from lydite.export.parity import network_logits
from lydite.models import Network
from lydite.recipe import Stage, parse_step
from lydite.training.batches import Batches
from lydite.transfer.finetune import Finetune

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})
PAPER = Architecture(network="paper-student-0.9m", input_size=64, config={"width": 0.25})
LEARN: dict[str, Any] = {"steps": 2, "batch": 4, "lr": 0.01}


def test_unused_layers_leave_the_key_of_older_recipes() -> None:
    assert "layers" not in Finetune().spec()["finetune"]
    assert Finetune(layers="head").spec()["finetune"]["layers"] == "head"
    spec = Finetune.model_validate({"layers": {"last": 2}}).spec()
    assert spec["finetune"]["layers"] == {"last": 2}
    assert parse_step(spec).spec() == spec


@pytest.mark.parametrize(
    ("layers", "moves"),
    [
        ("head", {"patch"}),
        ({"first": 1}, {"body.0"}),
        ({"last": 1}, {"body.1", "patch"}),
    ],
)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_others_keep_every_bit(
    tiny_manifest: Manifest, tmp_path: Path, layers: Any, moves: set[str], ema: float
) -> None:
    start = trained(TINY)
    step = Finetune.model_validate({**LEARN, "layers": layers, "ema": ema, "weight_decay": 1.0})
    made = step.run(start, context(tiny_manifest, tmp_path))
    names = {n for n in start.network.state_dict() if n.startswith(tuple(moves))}
    assert changed(start, made) == names
    learned = [p for n, p in made.network.named_parameters() if n in names]
    assert made.card.training["trainable_parameters"] == sum(p.numel() for p in learned)


def test_norms_learn_with_their_statistics(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = trained(PAPER)
    made = Finetune(**LEARN, layers="norms").run(start, context(tiny_manifest, tmp_path))
    assert changed(start, made) == {n for n in start.network.state_dict() if ".bn" in n}


@pytest.mark.parametrize("layers", ["all", {"last": 1}])
@pytest.mark.parametrize("average", [{}, {"ema": 0.5}, {"swa": 0.5}])
def test_frozen_norms_learn_and_keep_their_statistics(
    tiny_manifest: Manifest, tmp_path: Path, layers: Any, average: dict[str, float]
) -> None:
    start = trained(TINY)
    options = {**LEARN, "layers": layers, **average}
    moving = Finetune.model_validate(options)
    step = Finetune.model_validate({**options, "frozen_norms": True})
    free = changed(start, moving.run(start, context(tiny_manifest, tmp_path / "free")))
    kept = changed(start, step.run(start, context(tiny_manifest, tmp_path / "kept")))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert kept == {name for name in free if not name.endswith(statistics)} < free


@pytest.mark.parametrize("batch", [2, 8])
def test_frozen_norms_learn_from_what_prediction_computes(
    tiny_manifest: Manifest, tmp_path: Path, batch: int
) -> None:
    start = trained(TINY)
    step = Finetune(steps=1, batch=batch, frozen_norms=True)
    where = context(tiny_manifest, tmp_path)
    made = step.run(start, where)
    batches = Batches(where.train, start.card.preprocess, step, where.seed, ImageStore())
    loaded = batches.fetch(range(batch))
    tiles = normalize(loaded.crops, start.card.preprocess)
    logits = torch.from_numpy(network_logits(start, [tiles]))
    loss = F.cross_entropy(logits, torch.from_numpy(loaded.targets))
    assert made.card.training["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_norms_cannot_be_frozen_where_none_has_statistics() -> None:
    start = trained(TINY)
    bare = start.evolve(network=without_norms(start.network))
    Finetune(frozen_norms=True).outline(start)
    with pytest.raises(ConfigError, match="no norms with running statistics"):
        Finetune(frozen_norms=True).outline(bare)


def without_norms(network: Network) -> Network:
    bare = copy.deepcopy(network)
    for module in list(bare.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    return bare


def test_unused_frozen_norms_leave_the_key_of_older_recipes() -> None:
    assert "frozen_norms" not in Finetune().spec()["finetune"]
    spec = Finetune(frozen_norms=True).spec()
    assert parse_step(spec).spec() == spec


def test_all_layers_learn_by_default(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = trained(TINY)
    made = Finetune(**LEARN).run(start, context(tiny_manifest, tmp_path))
    assert changed(start, made) == set(start.network.state_dict())
    count = sum(p.numel() for p in made.network.parameters())
    assert made.card.training["trainable_parameters"] == count


def test_what_was_frozen_learns_again_in_the_next_step(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    head = Finetune(**LEARN, layers="head")
    made = head.run(trained(TINY), context(tiny_manifest, tmp_path / "head"))
    assert all(parameter.requires_grad for parameter in made.network.parameters())
    after = Finetune(**LEARN).run(made, context(tiny_manifest, tmp_path / "all"))
    assert changed(made, after) == set(made.network.state_dict())


@pytest.mark.parametrize("layers", ["norms", {"last": 1}])
def test_a_killed_run_ends_with_the_same_weights(
    tiny_manifest: Manifest, tmp_path: Path, layers: Any
) -> None:
    step = Finetune(**{**LEARN, "steps": 5}, layers=layers, checkpoint_s=0.0, ema=0.5)
    start = trained(TINY)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at=3))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    assert changed(whole, resumed) == set()
    assert changed(start, resumed)


def test_masked_weights_stay_zero_where_they_learn(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = trained(TINY)
    with torch.no_grad():
        start.network.get_parameter("patch.weight")[:, :3] = 0
    masked = start.evolve(edits=(MaskWeights(parameters=("patch.weight",)),))
    made = Finetune(**LEARN, layers="head").run(masked, context(tiny_manifest, tmp_path))
    assert not made.network.get_parameter("patch.weight")[:, :3].any()
    assert "patch.weight" in changed(masked, made)


@pytest.mark.parametrize("layers", ["hed", {"frist": 1}, ["head"], 2])
def test_unknown_layers_are_refused(layers: Any) -> None:
    with pytest.raises(ConfigError, match="must be all, head, norms, {first: 2} or {last: 2}"):
        parse_step({"finetune": {"layers": layers}})


def test_too_many_stages_are_refused_before_any_work() -> None:
    step = parse_step({"finetune": {"layers": {"first": 9}}})
    with pytest.raises(ConfigError, match="`first` must be 1 to 2"):
        step.outline(Detector.start(TINY))


def test_an_untrained_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a trained network"):
        Finetune().check(Stage(network="lydite-small"))

"""SWAD: the window of algorithm 1, its mean by hand, an early end, exact resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from helpers.transfer import Killed, context
from lydite.card import Architecture, Preprocess
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import DataError, ResumeError, TrainingError
from lydite.recipe import Stage, parse_step
from lydite.training.device import make_fabric
from lydite.training.feed import Normalizer
from lydite.training.settings import TrainSettings
from lydite.training.swad import Swad, Valley, begin_of, end_of
from lydite.training.train import Train
from lydite.training.watch import Watch

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})
#: falls, stays, rises for good
CURVE = [0.9, 0.5, 0.6, 0.55, 0.6, 0.9, 0.95, 0.5]


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float], every: int) -> list[Any]:
    """Make validation losses follow a script, and return a list that gets every step's weights."""
    seen: list[Any] = []
    add = Valley.add_

    def added(self: Valley, network: nn.Module, steps: int) -> None:
        seen.append({k: v.detach().clone() for k, v in network.named_parameters()})
        add(self, network, steps)

    def loss(_watch: Watch, *_rest: object) -> float:
        return losses[len(seen) // every - 1]

    monkeypatch.setattr(Valley, "add_", added)
    monkeypatch.setattr(Watch, "loss", loss)
    return seen


def test_the_valley_begins_where_the_loss_stops_falling() -> None:
    assert begin_of(CURVE, 3) == 1
    assert begin_of([0.5, 0.5, 0.5], 3) == 0
    assert begin_of([0.9, 0.8, 0.7, 0.75], 3) is None
    assert begin_of([], 1) is None


def test_it_ends_before_losses_that_are_all_above_the_limit() -> None:
    settings = Swad(patience=3, overfit=2, tolerance=1.3)
    # the limit is 1.3 times the mean of 0.5, 0.6 and 0.55; 0.9 and 0.95 are above it
    assert end_of(CURVE, 1, settings) == 4
    assert end_of(CURVE[:6], 1, settings) is None
    assert end_of(CURVE, 1, Swad(patience=3, overfit=3, tolerance=1.3)) is None
    assert end_of(CURVE, 1, Swad(patience=3, overfit=2, tolerance=1.8)) is None


def by_the_book(losses: list[float], settings: Swad) -> tuple[int, int]:
    """Return algorithm 1's window: first and last stretch; the last one where it finds none."""
    begin, limit = None, 0.0
    for now in range(len(losses)):
        if begin is None:
            first = now - settings.patience + 1
            if first >= 0 and min(losses[first : now + 1]) == losses[first]:
                begin, limit = first, settings.tolerance * float(np.mean(losses[first : now + 1]))
        elif now >= settings.overfit and limit < min(losses[now - settings.overfit + 1 : now + 1]):
            return begin, now - settings.overfit
    last = len(losses) - 1
    return (last if begin is None else begin), last


@pytest.mark.parametrize("seed", range(8))
def test_the_mean_is_that_of_the_window_whatever_the_losses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        settings = Swad(
            every=int(rng.integers(1, 4)),
            patience=int(rng.integers(1, 5)),
            overfit=int(rng.integers(1, 5)),
            tolerance=float(rng.uniform(1, 1.5)),
        )
        losses = list(rng.uniform(0.4, 1.0, int(rng.integers(1, 14))))
        valley, layer = Valley(settings, None), nn.Linear(1, 1, bias=False)  # type: ignore[arg-type]
        values: list[list[float]] = []
        for loss in losses:
            values.append(list(rng.normal(size=settings.every)))
            for value in values[-1]:
                layer.weight.data.fill_(value)
                valley.add_(layer, 1)
            valley.close_(loss)
            assert len(valley.waiting) <= max(settings.patience, settings.overfit)
            if valley.end is not None:
                break
        first, last = by_the_book(losses[: len(values)], settings)
        wanted = np.mean([value for stretch in values[first : last + 1] for value in stretch])
        assert valley.weights()["weight"].item() == pytest.approx(wanted, abs=1e-5)
        steps = f"steps {first * settings.every + 1} to {(last + 1) * settings.every}"
        assert valley.summary().startswith(steps)


def test_training_ends_with_the_valley_and_keeps_its_mean(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, CURVE, every=2)
    swad = {"every": 2, "patience": 3, "overfit": 2, "crops": 8}
    step = Train.model_validate({"steps": 40, "batch": 8, "schedule": "constant", "swad": swad})
    made = step.run(Detector.start(TINY, seed=1), context(tiny_manifest, tmp_path))
    # seven looks tell that the valley has ended: stretches 1 to 4 are in it, of two steps each
    assert len(seen) == 14
    for name, value in made.network.named_parameters():
        mean = torch.stack([weights[name] for weights in seen[2:10]]).mean(0)
        assert torch.allclose(value, mean, atol=1e-6), name
        assert not torch.allclose(value, seen[-1][name], atol=1e-6), name
    training = made.card.training
    assert training["swad"] == "steps 3 to 10: then it rose, and training ended"
    assert (training["steps"], training["images"]) == (14, 14 * 8)


# with a patience of 1 the valley begins at once, with 6 not in seven looks
@pytest.mark.parametrize(("patience", "kill_at"), [(1, 1), (1, 4), (1, 11), (6, 9)])
def test_a_killed_run_ends_with_the_same_mean(
    tiny_manifest: Manifest, tmp_path: Path, patience: int, kill_at: int
) -> None:
    swad = {"every": 2, "patience": patience, "overfit": 2, "tolerance": 100, "crops": 8}
    step = Train.model_validate({"steps": 13, "batch": 8, "checkpoint_s": 0.0, "swad": swad})
    start = Detector.start(TINY, seed=1)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    assert whole.card.training["swad"] == resumed.card.training["swad"]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_checkpoint_of_another_kind_is_refused() -> None:
    valley = Valley(Swad(), None)  # type: ignore[arg-type]
    for notes in ("no json", "[]", '{"losses": [1.0], "lengths": [2]}'):
        with pytest.raises(ResumeError, match="begin this step again"):
            valley.restore_({}, notes)


def test_the_loss_is_the_cross_entropy_on_the_same_crops_every_time(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    detector = Detector.start(TINY, seed=1)
    preprocess, val = detector.card.preprocess, tiny_manifest.select(split="val")
    watch = Watch(val, preprocess, TrainSettings(batch=8, flip=True), seed=3, crops=20)
    fabric = make_fabric(context(tiny_manifest, tmp_path), detector.network)
    normalize = Normalizer(watch.batches, fabric.device)
    loss = watch.loss(detector.network, normalize, fabric)
    logits, targets = [], []
    for step in range(3):
        loaded = watch.batches.fetch(watch.batches.positions(step))
        with torch.no_grad():
            logits.append(detector.network(normalize(loaded.crops)))
        targets.append(torch.from_numpy(loaded.targets))
    assert loss == pytest.approx(F.cross_entropy(torch.cat(logits), torch.cat(targets)).item())
    assert watch.loss(detector.network, normalize, fabric) == loss
    assert torch.cat(targets).double().mean() == 0.5


def test_validation_images_of_one_class_cannot_be_watched(tiny_manifest: Manifest) -> None:
    photographs = tiny_manifest.select(split="val", label="real")
    with pytest.raises(DataError, match=r"both classes. Got \d+ real and 0 fake"):
        Watch(photographs, Preprocess(size=64), TrainSettings(), seed=0, crops=8)


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5, float("nan")], every=2)
    step = Train.model_validate({"steps": 6, "batch": 8, "swad": {"every": 2}})
    with pytest.raises(TrainingError, match="loss on validation images became nan at step 4"):
        step.run(Detector.start(TINY, seed=1), context(tiny_manifest, tmp_path))


def test_what_does_not_go_together_is_refused() -> None:
    for other in ({"ema": 0.9}, {"swa": 0.5}):
        with pytest.raises(ValidationError, match="take the others out"):
            Train.model_validate({"swad": {}, **other})
    with pytest.raises(ValidationError, match="takes 150 steps; it has 100"):
        Train.model_validate({"steps": 300, "swad": {"after": 200}})


def test_nothing_counts_before_it_is_time(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, [9.0] * 3 + CURVE, every=2)
    swad = {"after": 6, "every": 2, "patience": 3, "overfit": 2, "crops": 8}
    step = Train.model_validate({"steps": 40, "batch": 8, "swad": swad})
    made = step.run(Detector.start(TINY, seed=1), context(tiny_manifest, tmp_path))
    assert made.card.training["swad"] == "steps 9 to 16: then it rose, and training ended"
    for name, value in made.network.named_parameters():
        mean = torch.stack([weights[name] for weights in seen[8:16]]).mean(0)
        assert torch.allclose(value, mean, atol=1e-6), name


def test_the_plan_warns_of_the_plateau_of_random_weights() -> None:
    for swad, trained, warned in (({}, False, 1), ({"after": 50}, False, 0), ({}, True, 0)):
        stage = Stage("lydite-small", trained=trained)
        Train.model_validate({"steps": 400, "swad": swad}).check(stage)
        assert sum("plateau" in note for note in stage.notes) == warned


@pytest.mark.parametrize("kind", ["train", "finetune", "qat", "adapt"])
def test_older_entries_keep_their_keys(kind: str) -> None:
    options = {"steps": 200, **({"place": 1} if kind == "adapt" else {})}
    assert "swad" not in parse_step({kind: options}).spec()[kind]
    used = parse_step({kind: options | {"swad": {"tolerance": 1.2}}}).spec()[kind]["swad"]
    assert used["tolerance"] == 1.2
    assert used["patience"] == 3


def test_a_short_rest_belongs_to_the_last_stretch() -> None:
    def ends(total: int, after: int = 0) -> list[int]:
        valley = Valley(Swad(every=50, after=after), None)  # type: ignore[arg-type]
        return [step for step in range(1, total + 1) if valley.due(step, total)]

    assert ends(150) == [50, 100, 150]
    assert ends(151) == [50, 100, 151]
    assert ends(174) == [50, 100, 174]
    assert ends(175) == [50, 100, 150, 175]
    assert ends(30) == [30]
    assert ends(160, after=100) == [160]

"""The loop: learns, resumes to the bit, stops on NaN, keeps masks."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lydite.card import Architecture
from lydite.compress.distill import Distill
from lydite.data import images
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import MaskWeights
from lydite.errors import ConfigError, ResumeError, TrainingError
from lydite.memory import forget_peak, resident_bytes
from lydite.recipe import Context
from lydite.training import feed, loop
from lydite.training.checkpoint import CHECKPOINT_NAME
from lydite.training.loop import fit, require_dealt
from lydite.training.objectives import Objective, cross_entropy, soft_target_loss
from lydite.training.settings import TrainSettings
from lydite.training.train import Train

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})


class Killed(Exception):
    """Stands for a kill between two steps."""


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    def progress(_what: str, done: int, _total: int, _note: str) -> None:
        if done == kill_at:
            raise Killed

    return Context(
        manifest.select(split="train"),
        manifest.select(split="val"),
        seed=5,
        folder=folder,
        progress=progress,
        device="cpu",
    )


def weights(detector: Detector) -> dict[str, torch.Tensor]:
    return detector.network.state_dict()


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kill_at", [1, 4, 7])
def test_a_killed_run_ends_with_the_same_weights(
    tiny_manifest: Manifest, tmp_path: Path, kill_at: int, ema: float
) -> None:
    step = Train(steps=8, batch=8, checkpoint_s=0.0, ema=ema)
    start = Detector.start(TINY, seed=1)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize("peaks", [(900, 100), (100, 900)])
def test_a_resumed_run_reports_the_highest_memory_of_its_parts(
    tiny_manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    peaks: tuple[int, int],
) -> None:
    step = Train(steps=3, batch=4, checkpoint_s=0.0)
    start = Detector.start(TINY, seed=1)
    monkeypatch.setattr(loop, "peak_bytes", lambda _device: peaks[0])
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path, 2))
    monkeypatch.setattr(loop, "peak_bytes", lambda _device: peaks[1])
    resumed = step.run(start, context(tiny_manifest, tmp_path))
    assert resumed.card.training["peak_bytes"] == 900


def test_a_checkpoint_of_before_memory_was_noted_resumes(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    step = Train(steps=3, batch=4, checkpoint_s=0.0)
    start = Detector.start(TINY, seed=1)
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path, 2))
    path = tmp_path / CHECKPOINT_NAME
    with safe_open(path, "pt") as stream:
        metadata = stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    notes = json.loads(metadata["notes"])
    del notes["peak_bytes"]
    save_file(tensors, path, metadata | {"notes": json.dumps(notes)})
    resumed = step.run(start, context(tiny_manifest, tmp_path))
    assert int(resumed.card.training["peak_bytes"] or 0) > 0


def test_memory_of_earlier_work_is_not_counted(tiny_manifest: Manifest, tmp_path: Path) -> None:
    if not forget_peak():
        pytest.skip("this system cannot forget a peak")
    step, start = Train(steps=1, batch=4), Detector.start(TINY, seed=1)
    step.run(start, context(tiny_manifest, tmp_path / "first"))
    size = 512_000_000
    filled = np.ones(size, np.uint8)
    before = resident_bytes(peak=False)
    del filled
    assert resident_bytes(peak=True) > before - size // 2
    made = step.run(start, context(tiny_manifest, tmp_path / "second"))
    assert 0 < int(made.card.training["peak_bytes"] or 0) < before - size // 2


def test_dropout_networks_resume_to_the_bit_too(tiny_manifest: Manifest, tmp_path: Path) -> None:
    step = Train(steps=4, batch=4, checkpoint_s=0.0)
    start = Detector.start(Architecture(network="paper-student-0.44m", input_size=64), seed=1)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", 3))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    assert all(torch.equal(v, weights(resumed)[n]) for n, v in weights(whole).items())


def test_training_learns_the_easy_artifact(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.evaluate.metrics import auc
    from lydite.evaluate.score import score_detector

    start = Detector.start(TINY, seed=1)
    made = Train(steps=60, batch=16, lr=5e-3).run(start, context(tiny_manifest, tmp_path))
    scores = score_detector(made, tiny_manifest.select(split="test"))
    value = auc(scores["z"].to_numpy(), scores["target"].to_numpy())
    assert value is not None
    assert value > 0.9


def test_the_parent_is_left_alone(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = Detector.start(TINY, seed=1)
    before = {name: value.clone() for name, value in weights(start).items()}
    Train(steps=2, batch=4).run(start, context(tiny_manifest, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in weights(start).items())


def spoiled(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Objective:
    """Return cross-entropy whose fourth answer is changed, given itself and the logits."""
    calls = 0

    def objective(logits: torch.Tensor, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = torch.nn.functional.cross_entropy(logits, y)
        return change(loss, logits) if calls == 4 else loss

    return objective


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    objective = spoiled(lambda loss, _: loss * float("nan"))
    start = Detector.start(TINY, seed=1)
    settings = TrainSettings(steps=8, batch=4, checkpoint_s=0.0)
    with pytest.raises(TrainingError, match="step 4"):
        fit(start.network, objective, start, settings, context(tiny_manifest, tmp_path))
    assert (tmp_path / CHECKPOINT_NAME).is_file()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_spoils_no_weights(
    tiny_manifest: Manifest, tmp_path: Path, clip: float
) -> None:
    # finite itself, but infinitely steep
    objective = spoiled(lambda loss, logits: loss + torch.sqrt(logits.sum() * 0.0))
    start = Detector.start(TINY, seed=1)
    settings = TrainSettings(steps=8, batch=4, checkpoint_s=0.0, clip=clip)
    with pytest.raises(TrainingError, match="norm of the gradient became .* at step 4"):
        fit(start.network, objective, start, settings, context(tiny_manifest, tmp_path))
    kept = load_file(tmp_path / CHECKPOINT_NAME)
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_batches_are_dealt_out_alike_or_refused() -> None:
    require_dealt(6, 1)
    require_dealt(8, 2)
    for batch, world in ((6, 2), (2, 2), (16, 3)):
        with pytest.raises(ConfigError, match=f"multiple of {2 * world}"):
            require_dealt(batch, world)


def test_masks_of_a_student_hold_while_a_regressor_learns_beside_it(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    start = Detector.start(TINY, seed=1)
    name = next(n for n, p in start.network.named_parameters() if p.ndim == 4)
    with torch.no_grad():
        dict(start.network.named_parameters())[name][:, 0] = 0
    masked = start.evolve(edits=(MaskWeights(parameters=(name,)),))
    step = Distill(student="same", method="features", steps=2, batch=4)
    made = step.run(masked, context(tiny_manifest, tmp_path))
    after = dict(made.network.named_parameters())[name]
    assert torch.count_nonzero(after[:, 0]) == 0
    assert not torch.equal(after, dict(masked.network.named_parameters())[name])


def test_masked_weights_stay_zero(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = Detector.start(TINY, seed=1)
    name = next(n for n, p in start.network.named_parameters() if p.ndim == 4)
    weight = dict(start.network.named_parameters())[name]
    with torch.no_grad():
        weight[:, 0] = 0
    masked = start.evolve(edits=(MaskWeights(parameters=(name,)),))
    made = Train(steps=3, batch=4).run(masked, context(tiny_manifest, tmp_path))
    after = dict(made.network.named_parameters())[name]
    assert torch.count_nonzero(after[:, 0]) == 0
    assert not torch.equal(after, weight)


def test_out_of_memory_halves_the_pieces_and_keeps_the_batch(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    sizes = []

    def objective(logits: torch.Tensor, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(y) > 4:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(y))
        return torch.nn.functional.cross_entropy(logits, y)

    start = Detector.start(TINY, seed=1)
    settings = TrainSettings(steps=2, batch=8)
    fit(start.network, objective, start, settings, context(tiny_manifest, tmp_path))
    assert sizes == [4, 4, 4, 4]


def test_a_damaged_checkpoint_is_refused(tiny_manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"not a checkpoint")
    start = Detector.start(TINY, seed=1)
    with pytest.raises(ResumeError, match="Delete it"):
        Train(steps=2, batch=4).run(start, context(tiny_manifest, tmp_path))


def test_an_unknown_device_is_refused(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.errors import ConfigError

    wrong = dataclasses.replace(context(tiny_manifest, tmp_path), device="tpu")
    with pytest.raises(ConfigError, match="Allowed: auto, cpu, cuda"):
        Train(steps=1, batch=4).run(Detector.start(TINY), wrong)


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    settings = TrainSettings(steps=100, lr=1.0, warmup=0.1)
    assert settings.lr_at(0) == pytest.approx(0.1)
    assert settings.lr_at(9) == pytest.approx(1.0)
    assert settings.lr_at(99) < 0.001
    assert TrainSettings(lr=0.5, schedule="constant").lr_at(77) == 0.5


def test_soft_targets_against_the_formula() -> None:
    student = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    t = 3.0
    p = torch.softmax(teacher / t, 1)
    wanted = (p * (p.log() - torch.log_softmax(student / t, 1))).sum(1).mean() * t * t
    assert soft_target_loss(student, teacher, t) == pytest.approx(float(wanted), rel=1e-3)
    assert float(soft_target_loss(teacher, teacher, t)) == pytest.approx(0.0, abs=1e-6)


def test_cross_entropy_ignores_the_input() -> None:
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([1])
    loss = cross_entropy()(logits, torch.zeros(1), targets)
    assert float(loss) == pytest.approx(0.126928, abs=1e-5)


def test_a_read_that_hangs_is_named_and_not_waited_for(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, real = threading.Event(), images.decode

    def stuck(file: Path) -> np.ndarray:
        free.wait(60)
        return real(file)

    monkeypatch.setattr(images, "decode", stuck)
    monkeypatch.setattr(feed, "LOADER_TIMEOUT_S", 0.2)
    start = Detector.start(TINY, seed=1)
    settings = TrainSettings(steps=2, batch=4)
    try:
        with pytest.raises(TrainingError, match=r"One of these files hangs: .*\.(png|jpg)"):
            fit(start.network, cross_entropy, start, settings, context(tiny_manifest, tmp_path))
        assert not free.is_set()  # it came without the read having ended
    finally:
        free.set()

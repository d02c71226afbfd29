"""The plain mean of weights: equal to the mean by hand, resumed to the bit, norms measured anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.recipe import Context
from lydite.training import loop
from lydite.training.averaging import moved, renew_norms_
from lydite.training.settings import TrainSettings
from lydite.training.train import Train

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})


class Killed(Exception):
    """Stands for a kill between two steps."""


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    def progress(_what: str, done: int, _total: int, _note: str) -> None:
        if done == kill_at:
            raise Killed

    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, progress=progress, device="cpu")


def test_the_result_is_the_mean_of_the_last_steps(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []

    def watched(
        average: dict[str, Tensor] | None, settings: TrainSettings, network: nn.Module, step: int
    ) -> dict[str, Tensor] | None:
        seen.append({k: v.detach().clone() for k, v in network.named_parameters()})
        return moved(average, settings, network, step)

    monkeypatch.setattr(loop, "moved", watched)
    step = Train(steps=8, batch=8, swa=0.5, schedule="constant")
    made = step.run(Detector.start(TINY, seed=1), context(tiny_manifest, tmp_path))
    assert len(seen) == 8
    for name, value in made.network.named_parameters():
        mean = torch.stack([weights[name] for weights in seen[4:]]).mean(0)
        assert torch.allclose(value, mean, atol=1e-6), name
        assert not torch.allclose(value, seen[-1][name], atol=1e-6), name


@pytest.mark.parametrize("kill_at", [2, 6])
def test_a_killed_run_ends_with_the_same_mean(
    tiny_manifest: Manifest, tmp_path: Path, kill_at: int
) -> None:
    step = Train(steps=8, batch=8, checkpoint_s=0.0, swa=0.5)
    start = Detector.start(TINY, seed=1)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


class Norms(nn.Module):
    """One norm that works, one that is frozen, one that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.works, self.rests, self.unused = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.rests(self.works(x))  # type: ignore[no-any-return]


def test_norms_are_measured_anew_where_they_work() -> None:
    network = Norms()
    for norm in (network.works, network.rests, network.unused):
        assert norm.running_mean is not None
        norm.running_mean.fill_(7.0)
    network.train()
    network.rests.eval()
    batches = [torch.randn(6, 3, 4, 4) * scale + scale for scale in (1.0, 2.0, 4.0)]
    renew_norms_(network, batches)
    works = network.works
    assert works.running_mean is not None
    assert works.running_var is not None
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    var = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(works.running_mean, mean, atol=1e-5)
    assert torch.allclose(works.running_var, var, rtol=1e-4)
    assert works.momentum == 0.1
    for norm in (network.rests, network.unused):
        assert norm.running_mean is not None
        assert norm.running_mean.tolist() == [7.0] * 3


def test_one_average_at_a_time() -> None:
    with pytest.raises(ValidationError, match="set one to 0"):
        Train(ema=0.9, swa=0.5)

"""Consistency between copies, and group DRO: the formulas, the effect, and exact resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.spatial.distance import jensenshannon

from lydite.card import Architecture
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ResumeError
from lydite.recipe import Context, parse_step
from lydite.training.degrade import Degrade
from lydite.training.labels import from_labels, jensen_shannon
from lydite.training.mixed import MixedBatches
from lydite.training.robust import Group, GroupedBatches, GroupWeights
from lydite.training.settings import TrainSettings
from lydite.training.train import Train

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})
HARSH = Degrade(resize=0.5, resize_scale=(0.5, 0.6), blur=0.5)


class Killed(Exception):
    """Stands for a kill between two steps."""


class Alone:
    """One device."""

    def all_reduce(self, data: torch.Tensor, *, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return data


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    def progress(_what: str, done: int, _total: int, _note: str) -> None:
        if done == kill_at:
            raise Killed

    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, progress=progress, device="cpu")


def made_by(manifest: Manifest, folder: Path, **options: Any) -> Detector:
    step = Train.model_validate({"batch": 8, "lr": 5e-3, **options})
    return step.run(Detector.start(TINY, seed=1), context(manifest, folder))


def same(one: Detector, other: Detector) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# ------------------------------------------------------------------------------- consistency


def test_divergence_against_scipy() -> None:
    one, other = (torch.randn(5, 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    p, q = (F.softmax(logits, 1).numpy() for logits in (one, other))
    wanted = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
    assert float(jensen_shannon(one, other)) == pytest.approx(wanted, rel=1e-4)
    assert float(jensen_shannon(one, one)) == pytest.approx(0, abs=1e-7)
    far = torch.tensor([[50.0, -50.0]])
    assert float(jensen_shannon(far, -far)) == pytest.approx(np.log(2), rel=1e-5)


def test_the_loss_is_the_labels_on_both_copies_and_their_divergence() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.5], [1.0, 1.0]])
    targets = torch.tensor([0, 1])
    loss = from_labels(0.0, 3.0, None)({"degraded": one, "clean": other}, one, targets)
    hard = (F.cross_entropy(one, targets) + F.cross_entropy(other, targets)) / 2
    assert float(loss) == pytest.approx(float(hard + 3 * jensen_shannon(one, other)))


def gap(made: Detector, manifest: Manifest) -> float:
    """Return how differently a detector answers on degraded test crops."""
    settings = TrainSettings(batch=24, flip=False)
    batches = MixedBatches(
        manifest.select(split="test"),
        made.card.preprocess,
        settings,
        9,
        ImageStore(),
        degrade=HARSH,
    )
    loaded = batches.fetch(batches.positions(0))
    with torch.no_grad():
        logits = [
            made.network.eval()(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1)
            for x in (loaded.crops, loaded.clean)
        ]
    return float(jensen_shannon(*logits))


def test_consistency_brings_the_answers_on_copies_together(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    options = {"steps": 40, "degrade": HARSH}
    without = made_by(tiny_manifest, tmp_path / "without", **options)
    trained = made_by(tiny_manifest, tmp_path / "with", **options, consistency=20.0)
    assert gap(trained, tiny_manifest) < 0.5 * gap(without, tiny_manifest)


def test_degradation_alone_changes_what_is_seen(tiny_manifest: Manifest, tmp_path: Path) -> None:
    plain = made_by(tiny_manifest, tmp_path / "plain", steps=2)
    degraded = made_by(tiny_manifest, tmp_path / "degraded", steps=2, degrade=HARSH)
    assert not same(plain, degraded)


def test_consistency_needs_copies() -> None:
    with pytest.raises(ValidationError, match="say with `degrade`"):
        Train(consistency=1.0)


@pytest.mark.parametrize("kind", ["train", "finetune"])
def test_unused_switches_stand_in_no_entry(kind: str) -> None:
    entry = parse_step(kind).spec()[kind]
    assert not {"degrade", "consistency", "robust", "swa"} & entry.keys()
    used = parse_step({kind: {"degrade": {"webp": 0.5}, "consistency": 12, "swa": 0.25}})
    assert {"degrade", "consistency", "swa"} <= used.spec()[kind].keys()
    assert parse_step(used.spec()) == used


# ---------------------------------------------------------------------------------- group DRO

GROUPS = [Group("a", 0, "real"), Group("a", 1, "fake"), Group("b", 1, "fake")]


def test_weights_follow_the_paper() -> None:
    """Algorithm 1 by hand: q_g grows by exp(eta loss_g), and q . loss is minimized."""
    weights = GroupWeights(GROUPS, eta=0.5)
    numbers = torch.tensor([0, 0, 2, 1, 2, 2])
    losses = torch.tensor([1.0, 3.0, 0.5, 4.0, 1.5, 1.0])
    means, q = np.array([2.0, 4.0, 1.0]), np.full(3, 1 / 3)
    for _ in range(3):
        weights.begin_(numbers, Alone(), 1)
        weights.clear_()
        loss = weights.weighted(losses, numbers)
        assert float(loss) == pytest.approx(float(q @ means), rel=1e-6)
        weights.step_(Alone())
        q = q * np.exp(0.5 * means)
        q /= q.sum()
        np.testing.assert_allclose(weights.weights.numpy(), q, rtol=1e-6)


def test_pieces_add_up_to_the_batch() -> None:
    numbers, losses = torch.tensor([0, 1, 2, 2, 0, 1, 1, 1]), torch.arange(8.0)
    whole, cut = GroupWeights(GROUPS, 0.3), GroupWeights(GROUPS, 0.3)
    for weights in (whole, cut):
        weights.begin_(numbers, Alone(), 1)
        weights.clear_()
    pieces = zip(losses.chunk(4), numbers.chunk(4), strict=True)
    total = sum(float(cut.weighted(*piece)) / 4 for piece in pieces)
    assert total == pytest.approx(float(whole.weighted(losses, numbers)), rel=1e-6)
    whole.step_(Alone())
    cut.step_(Alone())
    assert torch.allclose(whole.weights, cut.weights)


def test_a_group_that_a_batch_lacks_is_not_pushed() -> None:
    weights = GroupWeights(GROUPS, 0.5)
    numbers = torch.tensor([0, 0, 1])
    weights.begin_(numbers, Alone(), 1)
    weights.clear_()
    weights.weighted(torch.tensor([1.0, 1.0, 2.0]), numbers)
    weights.step_(Alone())
    q = np.exp([0.5, 1.0, 0.0])
    np.testing.assert_allclose(weights.weights.numpy(), q / q.sum(), rtol=1e-6)


def test_weights_of_other_groups_are_refused() -> None:
    with pytest.raises(ResumeError, match="2 groups"):
        GroupWeights(GROUPS, 0.5).restore_([0.5, 0.5])


@pytest.fixture(scope="module")
def hard(tiny_manifest: Manifest) -> Manifest:
    """Domain "two" holds fakes alone, and they look like the photographs of domain "one"."""
    table = tiny_manifest.table
    rows = [row for row in table.to_pylist() if row["domain"] == "one" or row["label"] == "real"]
    for row in rows:
        row["label"] = "fake" if row["domain"] == "two" else row["label"]
    return Manifest(pa.Table.from_pylist(rows, schema=table.schema), tiny_manifest.root)


def test_targets_are_numbers_of_groups(hard: Manifest) -> None:
    train, settings = hard.select(split="train"), TrainSettings(batch=16)
    preprocess = Detector.start(TINY).card.preprocess
    plain = MixedBatches(train, preprocess, settings, 3, ImageStore())
    grouped = GroupedBatches(train, preprocess, settings, 3, ImageStore())
    names = [(g.domain, g.target) for g in grouped.groups]
    assert names == [("one", 0), ("one", 1), ("two", 1)]
    one, two = (b.fetch(b.positions(0)) for b in (plain, grouped))
    assert np.array_equal(one.crops, two.crops)
    labels = GroupWeights(grouped.groups, 0.1).labels(torch.from_numpy(two.targets))
    assert np.array_equal(one.targets, labels.numpy())


def test_the_worst_group_gains_weight(hard: Manifest, tmp_path: Path) -> None:
    made = made_by(hard, tmp_path, steps=30, robust=0.1)
    weights = str(made.card.training["group_weights"])
    assert weights.startswith("two fake 0.")
    assert float(weights.split(",")[0].split()[-1]) > 0.4


@pytest.mark.parametrize("kill_at", [1, 5])
def test_all_switches_together_resume_to_the_bit(
    hard: Manifest, tmp_path: Path, kill_at: int
) -> None:
    step = Train(
        steps=7, batch=8, checkpoint_s=0.0, swa=0.5, robust=0.5, degrade=HARSH, consistency=5.0
    )
    start = Detector.start(TINY, seed=1)
    whole = step.run(start, context(hard, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(hard, tmp_path / "cut", kill_at))
    resumed = step.run(start, context(hard, tmp_path / "cut"))
    assert same(whole, resumed)
    assert whole.card.training["group_weights"] == resumed.card.training["group_weights"]

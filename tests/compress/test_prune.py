"""Pruning: scores, the search for widths, and the steps `prune` and `mask`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lydite.card import Architecture, KeepChannels, MaskWeights, ScoreMeaning
from lydite.compress.channels import group_scores, l1_scores, l2_scores, top_channels
from lydite.compress.mask import Mask, smallest
from lydite.compress.prune import Prune, prune_edits
from lydite.compress.widths import ParameterCount, plan_channels
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.models import NETWORKS, Network, build
from lydite.models.cost import count_parameters
from lydite.models.surgery import masks_of, replay_
from lydite.recipe import Context, Stage


def fresh(name: str, **config: Any) -> Network:
    torch.manual_seed(0)
    return build(Architecture(network=name, config=config)).eval()


def context(tmp_path: Path, seed: int = 0) -> Context:
    return Context(train=None, val=None, seed=seed, folder=tmp_path)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ scores


def test_norms_of_output_channels() -> None:
    weight = np.array([[[3.0, -4.0]], [[0.0, 0.0]], [[-1.0, 1.0]]])
    assert l1_scores(weight).tolist() == [7.0, 0.0, 2.0]
    assert l2_scores(weight).tolist() == [5.0, 0.0, pytest.approx(2**0.5)]


def test_top_channels_are_ascending_and_early_ones_win_ties() -> None:
    assert top_channels(np.array([1.0, 3.0, 2.0, 3.0]), 2) == (1, 3)
    assert top_channels(np.array([1.0, 1.0, 1.0]), 2) == (0, 1)


def test_scores_of_summed_channels_add_up() -> None:
    network = fresh("lydite-small", widths=[4])
    conv = network.get_parameter("body.0.conv.weight").detach().numpy()
    inner = network.get_parameter("body.0.blocks.0.conv2.weight").detach().numpy()
    expected = np.abs(conv).sum((1, 2, 3)) + np.abs(inner).sum((1, 2, 3))
    found = group_scores(network, "l1", 0)["body.0"]
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)


def test_bn_scores_are_the_scales_and_linear_layers_fall_back() -> None:
    network = fresh("paper-student-0.9m")
    with torch.no_grad():
        network.get_parameter("body.bn1.weight").copy_(-torch.arange(32.0))
    scores = group_scores(network, "bn", 0)
    np.testing.assert_allclose(scores["conv1"], np.arange(32) / 15.5)
    np.testing.assert_array_equal(scores["fc1"], group_scores(network, "l1", 0)["fc1"])


def test_random_scores_follow_the_seed() -> None:
    network = fresh("lydite-small")
    one, again, other = (group_scores(network, "random", seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_dead_group_scores_evenly() -> None:
    network = fresh("lydite-small")
    with torch.no_grad():
        network.get_parameter("body.0.blocks.0.conv1.weight").zero_()
    assert group_scores(network, "l1", 0)["body.0.blocks.0"].tolist() == [1.0] * 8


# ------------------------------------------------------------------------------------ widths


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("rate", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_rate_is_reached_and_hardly_passed(name: str, rate: float, scope: Any) -> None:
    network = fresh(name)
    multiple = 2 if name == "lydite-small" else 8
    before = count_parameters(network)
    replay_(network, prune_edits(network, rate, scope=scope, multiple=multiple))
    removed = 1 - count_parameters(network) / before
    assert rate <= removed <= rate + 0.015
    for group in network.groups():
        assert group.size % multiple == 0
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_uniform_keeps_one_share_to_a_multiple() -> None:
    network = fresh("paper-baseline")
    sizes = {g.name: g.size for g in network.groups()}
    kept = plan_channels(network, group_scores(network, "l1", 0), 0.75, "uniform", 8)
    shares = [(kept[n] / sizes[n] - 8 / sizes[n], kept[n] / sizes[n] + 8 / sizes[n]) for n in kept]
    assert max(low for low, _ in shares) <= min(high for _, high in shares)


def test_uniform_plan_against_all_plans() -> None:
    """No plan within a multiple of the same share leaves more parameters and is allowed."""
    network = fresh("lydite-small", widths=[4, 6])
    count = ParameterCount(network)
    kept = plan_channels(network, group_scores(network, "l1", 0), 0.5, "uniform", 1)
    assert count.left(kept) <= 0.5 * count.total
    for name, size in count.sizes.items():
        wider = kept | {name: min(size, kept[name] + 1)}
        assert wider == kept or count.left(wider) > 0.5 * count.total


def test_parameter_count_equals_surgery_for_every_width() -> None:
    sizes = {g.name: g.size for g in fresh("lydite-small", widths=[2, 3]).groups()}
    for widths in itertools.product(*(range(1, size + 1) for size in sizes.values())):
        network = fresh("lydite-small", widths=[2, 3])
        count = ParameterCount(network)
        kept = dict(zip(sizes, widths, strict=True))
        replay_(network, [KeepChannels(group=n, keep=tuple(range(k))) for n, k in kept.items()])
        assert count.left(kept) == count_parameters(network)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_tiny_rate_removes_one_multiple(scope: Any) -> None:
    network = fresh("paper-student-0.44m")
    edits = prune_edits(network, 1e-6, scope=scope, multiple=8)
    sizes = {g.name: g.size for g in network.groups()}
    assert sum(sizes[e.group] - len(e.keep) for e in edits) == 8


def test_global_spares_a_sixteenth_of_a_silent_group() -> None:
    network = fresh("paper-student-1.8m")
    scores = group_scores(network, "l1", 0)
    scores["conv4"] = np.full(256, 1e-9)
    kept = plan_channels(network, scores, 0.5, "global", 8)
    assert kept["conv4"] == 16


def test_least_important_channels_go_first() -> None:
    network = fresh("lydite-medium")
    scores = group_scores(network, "l1", 0)
    for edit in prune_edits(network, 0.6):
        values, kept = scores[edit.group], list(edit.keep)
        gone = sorted(set(range(len(values))) - set(kept))
        assert values[kept].min() >= values[gone].max()


def test_impossible_rate_is_refused_with_the_most_that_goes() -> None:
    with pytest.raises(ConfigError, match=r"at most 0\.765 .* Got 0\.9\. .* smaller `multiple`"):
        prune_edits(fresh("lydite-small"), 0.9)


def test_group_smaller_than_a_multiple_is_kept_whole() -> None:
    network = fresh("lydite-small", widths=[4, 32])
    kept = plan_channels(network, group_scores(network, "l1", 0), 0.5, "uniform", 8)
    assert kept["body.0"] == 4


# ------------------------------------------------------------------------------------ steps


def test_prune_makes_a_smaller_detector_that_loads_and_answers_the_same(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-medium"))
    before = {k: v.clone() for k, v in parent.network.state_dict().items()}
    child = Prune(rate=0.7).run(parent, context(tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in parent.network.state_dict().items())
    child.network.eval()
    child.save(tmp_path / "child")
    loaded = Detector.load(tmp_path / "child")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.network(x), child.network(x))
    assert count_parameters(loaded.network) <= 0.3 * count_parameters(parent.network)
    assert loaded.card.edits == child.card.edits
    assert child.card.training["parameters"] == count_parameters(child.network)


def test_prune_twice_removes_of_what_is_left(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-large"))
    once = Prune(rate=0.5).run(parent, context(tmp_path))
    twice = Prune(rate=0.5).run(once, context(tmp_path))
    assert count_parameters(twice.network) <= 0.5 * count_parameters(once.network)
    rebuilt = build(parent.card.architecture)
    replay_(rebuilt, twice.card.edits)
    shapes = {k: v.shape for k, v in twice.network.state_dict().items()}
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == shapes


def test_threshold_and_measurements_do_not_survive(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-small"))
    parent = parent.evolve(score=ScoreMeaning(threshold=1.5, rule="validation"))
    for step in (Prune(rate=0.3), Mask(rate=0.3)):
        assert step.run(parent, context(tmp_path)).card.score == ScoreMeaning()


def test_random_pruning_follows_the_recipes_seed(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-medium"))
    step = Prune(rate=0.6, score="random")
    one, again, other = (step.run(parent, context(tmp_path, s)).card.edits for s in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("step", [Prune(rate=0.5), Mask(rate=0.5)])
def test_untrained_network_is_refused(step: Prune | Mask) -> None:
    with pytest.raises(ConfigError, match=f"`{step.kind}` needs a trained network"):
        step.check(Stage("lydite-small"))


def test_the_outline_has_the_size_after_pruning() -> None:
    start = Detector.start(Architecture(network="paper-student-1.8m", input_size=64))
    outline = Prune(rate=0.9).outline(start)
    assert count_parameters(outline.network) <= 0.1 * count_parameters(start.network)


@pytest.mark.parametrize("kind", [Prune, Mask])
@pytest.mark.parametrize("rate", [0, 1, 90, -0.5, float("nan")])
def test_rate_outside_is_explained(kind: Any, rate: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\) .* nine tenths"):
        kind(rate=rate)


def test_smallest_marks_the_share() -> None:
    weight = np.array([[0.1, -5.0], [3.0, -0.2]])
    assert smallest(weight, 0.5).tolist() == [[True, False], [False, True]]
    assert smallest(np.zeros(10), 0.25).sum() == 2
    assert not smallest(weight, 0.0).any()
    assert smallest(weight, 1.0).all()


def test_mask_zeros_each_layer_and_shrinks_nothing(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="paper-student-0.44m"))
    child = Mask(rate=0.9).run(parent, context(tmp_path))
    assert count_parameters(child.network) == count_parameters(parent.network)
    (edit,) = child.card.edits
    assert isinstance(edit, MaskWeights)
    for name, mask in masks_of(child.network, child.card.edits).items():
        before = parent.network.get_parameter(name)
        assert (~mask).float().mean().item() == pytest.approx(0.9, abs=0.5 / mask.numel())
        assert before[~mask].abs().max() <= before[mask].abs().min()
    assert "classifier.logits.weight" in edit.parameters
    assert "body.bn1.weight" not in edit.parameters


def test_plan_says_that_masks_shrink_nothing() -> None:
    stage = Stage("lydite-small", trained=True, parameters=1000)
    Mask(rate=0.9).check(stage)
    assert stage.parameters == 1000
    assert "shrinks nothing" in stage.notes[0]


def test_masks_survive_pruning(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-medium"))
    child = Prune(rate=0.5).run(Mask(rate=0.5).run(parent, context(tmp_path)), context(tmp_path))
    masks = masks_of(child.network, child.card.edits)
    assert masks["patch.weight"].shape == child.network.get_parameter("patch.weight").shape

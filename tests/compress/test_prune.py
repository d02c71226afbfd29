"""Pruning: scores, the search for widths, and the steps `prune` and `mask`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lydite.card import Architecture, ScoreMeaning
from lydite.compress.channels import group_scores, l1_scores, l2_scores, top_channels
from lydite.compress.mask import Mask, mask_weights_, smallest, two_of_four
from lydite.compress.prune import Prune, prune_edits
from lydite.compress.rounds import rate_until
from lydite.compress.widths import ParameterCount, _global_counts, plan_channels
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import FactorizeConv, KeepChannels, MaskWeights
from lydite.errors import ConfigError
from lydite.models import NETWORKS, Network, build
from lydite.models.cost import count_parameters
from lydite.models.surgery import masks_of, replay_
from lydite.recipe import Context, Stage, parse_step


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
    kept = plan_channels(network, scores, 0.6, "global", 8)
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


class Tokens(Network):
    """A transformer's bare parameters beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 5, 4))
        self.patch = nn.Conv2d(3, 4, 2)
        self.logits = nn.Linear(4, 2)


def test_bare_parameters_are_no_layers() -> None:
    network = Tokens()
    before = network.position.detach().clone()
    assert mask_weights_(network, 0.5).parameters == ("patch.weight", "logits.weight")
    assert torch.equal(network.position, before)
    assert int((network.patch.weight == 0).sum()) == 24


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_weight_of_our_networks_is_a_layer_s(name: str) -> None:
    """Of split layers too; the order of the names is the network's."""
    network = build(Architecture(network=name, input_size=64))
    layer = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    replay_(network, [FactorizeConv(layer=layer, method="tucker2", ranks=(1, 1))])
    expected = tuple(n for n, p in network.named_parameters() if p.dim() >= 2)
    assert mask_weights_(network, 0.1).parameters == expected
    assert len([name for name in expected if name.startswith(f"{layer}.")]) == 3


def test_plan_says_that_masks_shrink_nothing() -> None:
    stage = Stage("lydite-small", trained=True, parameters=1000)
    Mask(rate=0.9).check(stage)
    assert stage.parameters == 1000
    assert "shrinks nothing" in stage.notes[0]


def test_two_of_four_against_every_choice() -> None:
    """No other two weights of a four sum to less; kernels are marked position by position."""
    weight = np.random.default_rng(0).normal(size=(3, 8, 2, 2))
    weight[0, :4, 0, 0] = 1.0
    marked = two_of_four(weight)
    assert marked.shape == weight.shape
    for o, first, y, x in itertools.product(range(3), (0, 4), range(2), range(2)):
        four = np.abs(weight[o, first : first + 4, y, x])
        least = min(four[list(pair)].sum() for pair in itertools.combinations(range(4), 2))
        gone = marked[o, first : first + 4, y, x]
        assert gone.sum() == 2
        assert four[gone].sum() == least
    assert marked[0, :4, 0, 0].tolist() == [True, True, False, False]


def test_two_of_four_masks_layers_that_fit_and_keeps_the_others(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-small", config={"widths": [6, 8]}))
    child = Mask(rate=0.5, pattern="2:4").run(parent, context(tmp_path))
    (edit,) = child.card.edits
    assert isinstance(edit, MaskWeights)
    # three colors and six channels are no multiples of four
    assert edit.parameters == (
        "body.1.blocks.0.conv1.weight",
        "body.1.blocks.0.conv2.weight",
        "patch.weight",
    )
    zeros = 0
    for name, value in child.network.named_parameters():
        if name in edit.parameters:
            assert ((value == 0).view(len(value), -1, 4, *value.shape[2:]).sum(2) == 2).all()
            zeros += value.numel() // 2
        else:
            assert torch.equal(value, parent.network.get_parameter(name))
    total = sum(p.numel() for p in parent.network.parameters() if p.dim() >= 2)
    assert child.card.training["zeroed"] == pytest.approx(zeros / total, abs=1e-6)


def test_two_of_four_says_who_computes_faster_and_wants_one_half() -> None:
    stage = Stage("lydite-small", trained=True)
    Mask(rate=0.5, pattern="2:4").check(stage)
    assert "NVIDIA's sparse tensor cores would" in stage.notes[1]
    with pytest.raises(ValueError, match=r"zeros exactly one half; use `rate: 0\.5`"):
        Mask(rate=0.9, pattern="2:4")
    assert Mask(rate=0.5).spec() == {"mask": {"rate": 0.5}}
    assert parse_step({"mask": {"rate": 0.5, "pattern": "2:4"}}).pattern == "2:4"


def test_two_of_four_without_a_fitting_layer_is_refused(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-small", config={"widths": [3, 5]}))
    with pytest.raises(ConfigError, match="no layer whose number of inputs"):
        Mask(rate=0.5, pattern="2:4").run(parent, context(tmp_path))


def test_masks_survive_pruning(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-medium"))
    child = Prune(rate=0.5).run(Mask(rate=0.5).run(parent, context(tmp_path)), context(tmp_path))
    masks = masks_of(child.network, child.card.edits)
    assert masks["patch.weight"].shape == child.network.get_parameter("patch.weight").shape


# ------------------------------------------------------------------------ rates and rounds


def test_rates_of_single_groups_override_and_the_rest_reaches_the_rate() -> None:
    network = fresh("paper-student-1.8m")
    sizes = {g.name: g.size for g in network.groups()}
    before = count_parameters(network)
    rates = {"conv1": 0.0, "conv4": 0.8}
    for scope in ("uniform", "global"):
        pruned = fresh("paper-student-1.8m")
        replay_(pruned, prune_edits(network, 0.6, scope=scope, rates=rates))  # type: ignore[arg-type]
        after = {g.name: g.size for g in pruned.groups()}
        assert after["conv1"] == sizes["conv1"]
        assert after["conv4"] == 48  # a fifth of 256, down to a multiple of 8
        assert 0.6 <= 1 - count_parameters(pruned) / before <= 0.62


def test_rates_that_go_far_enough_leave_the_rest_whole() -> None:
    network = fresh("paper-student-1.8m")
    edits = prune_edits(network, 0.05, rates={"conv4": 0.9})
    assert [edit.group for edit in edits] == ["conv4"]


def test_rates_of_unknown_groups_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`rates` of prune: .*'conv44'. Did you mean 'conv4'"):
        prune_edits(fresh("paper-student-1.8m"), 0.5, rates={"conv44": 0.5})


def test_impossible_rate_names_the_fixed_groups() -> None:
    rates = {name: 0.0 for name in ("conv4", "conv5", "fc1")}
    with pytest.raises(ConfigError, match="and conv4, conv5, fc1 as `rates` says at most"):
        prune_edits(fresh("paper-student-1.8m"), 0.9, rates=rates)


@pytest.mark.parametrize("value", [1.0, -0.1, 90])
def test_rates_are_fractions(value: float) -> None:
    with pytest.raises(ValueError, match="rates.conv1"):
        Prune(rate=0.5, rates={"conv1": value})


def test_fields_at_their_defaults_leave_the_key_as_it_was() -> None:
    old = {"prune": {"rate": 0.9, "score": "l1", "scope": "uniform", "multiple": 8}}
    assert Prune(rate=0.9).spec() == old
    assert Prune(rate=0.9, rounds=2).spec() == {"prune": old["prune"] | {"rounds": 2}}
    assert parse_step(Prune(rate=0.9, rates={"a": 0.5}).spec()) == Prune(rate=0.9, rates={"a": 0.5})
    keys = {Prune(rate=0.9, **more).key("0" * 64, {}, 0) for more in ({}, {"rounds": 2})}
    assert len(keys) == 2


def test_rounds_follow_a_geometric_schedule() -> None:
    assert [rate_until(0.9, n, 2) for n in (1, 2)] == [pytest.approx(1 - 0.1**0.5), 0.9]
    left = [1 - rate_until(0.7, n, 4) for n in range(5)]
    ratios = [b / a for a, b in itertools.pairwise(left)]
    assert ratios == pytest.approx([ratios[0]] * 4)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_rounds_end_where_one_round_does(scope: Any, tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="paper-student-0.9m", input_size=64))
    rates = {"conv2": 0.5}
    step = Prune(rate=0.8, scope=scope, rounds=3, recover=0, rates=rates)
    made = step.run(parent, context(tmp_path))
    sizes = {g.name: g.size for g in made.network.groups()}
    assert sizes["conv2"] == 32
    removed = 1 - count_parameters(made.network) / count_parameters(parent.network)
    assert 0.8 <= removed <= 0.815
    assert made.card.training["parameters_before"] == count_parameters(parent.network)
    rebuilt = build(parent.card.architecture)
    replay_(rebuilt, made.card.edits)
    rebuilt.load_state_dict(made.network.state_dict())
    if scope == "uniform":
        assert sizes == {g.name: g.size for g in step.outline(parent).network.groups()}
    half = 1 - count_parameters(Detector.load(tmp_path / "round-1" / "cut").network) / (
        count_parameters(parent.network)
    )
    assert 1 - 0.2 ** (1 / 3) <= half <= 1 - 0.2 ** (1 / 3) + 0.03


class Killed(Exception):
    """Stands for a kill."""


def learning(manifest: Manifest, folder: Path, kill: tuple[str, int] | None = None) -> Context:
    calls = 0

    def progress(what: str, done: int, _total: int, _note: str) -> None:
        nonlocal calls
        if kill and what == kill[0] and done > 0:
            calls += 1
            if calls == kill[1]:
                raise Killed

    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, progress=progress, device="cpu")


ROUNDS = Prune(rate=0.6, score="fisher", multiple=1, images=8, rounds=3, recover=3)


@pytest.fixture(scope="module")
def rounds(
    tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, Detector]:
    """Return a detector and what uninterrupted rounds make of it."""
    parent = Detector.start(Architecture(network="lydite-small", input_size=32), seed=1)
    return parent, ROUNDS.run(parent, learning(tiny_manifest, tmp_path_factory.mktemp("whole")))


def test_rounds_train_between_and_not_behind(rounds: tuple[Detector, Detector]) -> None:
    parent, made = rounds
    assert count_parameters(made.network) <= 0.4 * count_parameters(parent.network)
    untrained = ROUNDS.model_copy(update={"recover": 0})
    # each round is stored by the leader and read by all, whether it trains or not
    assert untrained.together
    assert ROUNDS.together
    assert not ROUNDS.model_copy(update={"rounds": 1}).together
    # the last round only cuts: its statistics are a part of what the round before left
    tracked = made.network.state_dict()["body.0.bn.num_batches_tracked"]
    assert int(tracked) == 2 * 3


@pytest.mark.parametrize(
    "kill",
    [("prune 1/3", 1), ("recover", 2), ("prune 2/3", 2), ("recover", 5), ("prune 3/3", 2)],
)
def test_killed_rounds_end_with_the_same_weights(
    tiny_manifest: Manifest,
    tmp_path: Path,
    rounds: tuple[Detector, Detector],
    kill: tuple[str, int],
) -> None:
    parent, whole = rounds
    with pytest.raises(Killed):
        ROUNDS.run(parent, learning(tiny_manifest, tmp_path, kill))
    resumed = ROUNDS.run(parent, learning(tiny_manifest, tmp_path))
    assert resumed.card.edits == whole.card.edits
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_damaged_round_is_done_again(
    tiny_manifest: Manifest, tmp_path: Path, rounds: tuple[Detector, Detector]
) -> None:
    parent, whole = rounds
    ROUNDS.run(parent, learning(tiny_manifest, tmp_path))
    (tmp_path / "round-3" / "cut" / "model.safetensors").write_bytes(b"half")
    again = ROUNDS.run(parent, learning(tiny_manifest, tmp_path))
    assert again.card.edits == whole.card.edits


def test_an_impossible_last_round_is_refused_before_the_first(tmp_path: Path) -> None:
    parent = Detector.start(Architecture(network="lydite-small", input_size=32))
    with pytest.raises(ConfigError, match="cannot be reached"):
        Prune(rate=0.9, rounds=3).run(parent, context(tmp_path))
    assert not list(tmp_path.iterdir())


def test_plan_counts_the_images_of_rounds() -> None:
    stage = Stage("lydite-small", trained=True)
    Prune(rate=0.5, rounds=3, recover=10, scope="global").check(stage)
    assert stage.images == 2 * 10 * 32
    assert "each round scores anew" in stage.notes[0]


def test_channels_of_one_score_go_one_by_one_and_from_all_groups() -> None:
    """Dead channels, say: together they would be more than was asked for."""
    counts = _global_counts({"a": np.zeros(8), "b": np.zeros(4), "c": np.arange(1.0, 5.0)})
    for kept in range(17):
        found = counts({}, kept / 16)
        assert sum(found.values()) == kept
        if kept >= 4:
            assert found["c"] == 4
    assert counts({}, 10 / 16) == {"a": 4.0, "b": 2.0, "c": 4.0}

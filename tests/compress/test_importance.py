"""Scores from images: gates against finite differences and loops, domains by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.card import Architecture, Preprocess
from lydite.compress.factorize import Factorize
from lydite.compress.gates import gate_gradients
from lydite.compress.importance import (
    Gates,
    channel_scores,
    domain_scores,
    fisher_scores,
    taylor_scores,
    watch_gates,
)
from lydite.compress.prune import Prune
from lydite.data.manifest import Manifest, from_columns
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.models import Network, build
from lydite.models.contract import ChannelGroup, Member
from lydite.models.surgery import keep_channels_
from lydite.recipe import Context, Stage

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [3, 4]})
NAMES = ["lydite-small", "paper-student-0.44m"]


def network_of(name: str) -> Network:
    """Return a small network with batch norms that are not the identity."""
    torch.manual_seed(0)
    config = {"widths": [3, 4]} if name.startswith("lydite") else {}
    size = 32 if name.startswith("lydite") else 64
    network = build(Architecture(network=name, input_size=size, config=config)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    for key, value in network.state_dict().items():
        if key.endswith(("running_mean", "bn1.bias")):
            value.normal_(0, 0.3)
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network


def batch(network: Network, n: int = 6) -> tuple[Tensor, Tensor]:
    size = 32 if network.family == "lydite" else 64
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))
    return x, torch.arange(n) % 2


def scaled(network: Network, group: Any, channel: int, factor: float) -> Network:
    """Return a copy in which every reader of a channel gets `factor` times as much of it."""
    other = copy.deepcopy(network).double()
    parameters = dict(other.named_parameters())
    for member in group.members:
        if member.dim == 1:
            first = member.offset + channel * member.repeat
            parameters[member.tensor].data[:, first : first + member.repeat] *= factor
    return other


@torch.no_grad()
def losses(network: Network, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(network(x.double()), y, reduction="none")


# ------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize("name", NAMES)
def test_gate_gradients_are_the_numerical_derivatives_of_each_image_s_loss(name: str) -> None:
    network = network_of(name)
    x, y = batch(network)
    groups = network.groups()
    found = gate_gradients(copy.deepcopy(network).double(), groups, x.double(), y)
    step = 1e-7  # short of the next kink of ReLU
    for group in groups:
        assert found[group.name].shape == (len(x), group.size)
        for channel in (0, group.size - 1):
            above, below = (
                losses(scaled(network, group, channel, 1 + sign * step), x, y) for sign in (1, -1)
            )
            expected = ((above - below) / (2 * step)).numpy()
            np.testing.assert_allclose(
                found[group.name][:, channel], expected, rtol=1e-4, atol=1e-8
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_s_gate_gradient_is_weight_times_gradient_of_the_readers(name: str) -> None:
    network = network_of(name)
    x, y = batch(network)
    found = gate_gradients(network, network.groups(), x, y)
    assert all(parameter.grad is None for parameter in network.parameters())
    F.cross_entropy(network(x), y).backward()
    parameters = dict(network.named_parameters())
    for group in network.groups():
        expected = torch.zeros(group.size)
        for member in group.members:
            if member.dim == 1:
                weight = parameters[member.tensor]
                products = (weight * weight.grad).transpose(0, 1).flatten(1).sum(1)
                end = member.offset + group.size * member.repeat
                expected += products[member.offset : end].view(group.size, -1).sum(1)
        np.testing.assert_allclose(
            found[group.name].mean(axis=0), expected.detach().numpy(), rtol=2e-3, atol=1e-6
        )


def test_gates_stand_before_the_factors_of_split_layers_too() -> None:
    start = Detector.start(Architecture(network="lydite-small", input_size=32))
    network = Factorize(rate=0.3).outline(start).network.eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    x, y = batch(network)
    groups = network.groups()
    assert len(groups) > len(start.network.groups())
    found = gate_gradients(copy.deepcopy(network).double(), groups, x.double(), y)
    for group in groups:
        above, below = (losses(scaled(network, group, 0, 1 + s), x, y) for s in (1e-7, -1e-7))
        expected = ((above - below) / 2e-7).numpy()
        np.testing.assert_allclose(found[group.name][:, 0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_removing_a_channel_is_closing_its_gate(name: str) -> None:
    network = network_of(name)
    x, y = batch(network)
    for group in network.groups():
        closed = losses(scaled(network, group, 1, 0.0), x, y)
        cut = copy.deepcopy(network)
        keep_channels_(cut, group.name, [c for c in range(group.size) if c != 1])
        assert torch.allclose(losses(cut.double(), x, y), closed, atol=1e-9), group.name


def test_the_network_answers_as_before_when_the_gates_are_gone() -> None:
    network = network_of("lydite-small")
    x, y = batch(network)
    before = network(x)
    gate_gradients(network, network.groups(), x, y)
    assert torch.equal(network(x), before)
    assert not any(module._forward_pre_hooks for module in network.modules())


class Scaled(Network):
    """A scale of channels between two layers: a bare tensor that runs along them, reading none."""

    traced_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.read = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.relu(self.make(x)) * self.scale).mean((2, 3))

    def groups(self) -> list[ChannelGroup]:
        members = [Member("make.weight", 0), Member("make.bias", 0)]
        members += [Member("scale", 1), Member("read.weight", 1)]
        return [ChannelGroup("make", 4, tuple(members), ("make.weight",))]


def test_bare_tensors_along_the_channels_read_nothing() -> None:
    torch.manual_seed(0)
    network, x, y = Scaled().eval(), torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 1])
    found = gate_gradients(network, network.groups(), x, y)["make"]
    F.cross_entropy(network(x), y, reduction="sum").backward()
    weight = network.read.weight
    assert weight.grad is not None
    expected = (weight * weight.grad).sum((0, 2, 3)).detach()
    np.testing.assert_allclose(found.sum(axis=0), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_networks_that_multiply_their_images_are_refused() -> None:
    network = network_of("lydite-small")
    x, y = batch(network)
    with pytest.raises(ConfigError, match="sees 12 inputs for 6 images"):
        gate_gradients(Doubled(network), network.groups(), x, y)


def test_readers_that_do_not_run_as_layers_are_refused() -> None:
    network = network_of("lydite-small")
    x, y = batch(network)
    weight, bias = network.patch.weight, network.patch.bias
    network.head = lambda maps: F.conv2d(maps, weight, bias).mean((2, 3))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="'patch' does not run as a layer"):
        gate_gradients(network, network.groups()[2:3], x, y)


class Doubled(Network):
    """Sends every image through twice, as networks that cut images into windows do."""

    family = "doubled"

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.body, self.patch, self.inner = inner.body, inner.patch, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.repeat(2, 1, 1, 1))[: len(x)]


# ------------------------------------------------------------------------------------ scores


def test_taylor_takes_magnitudes_image_by_image() -> None:
    # opposite gradients of the second channel must not cancel
    gradients = np.array([[1.0, -2.0], [-3.0, 2.0], [5.0, 0.0]])
    assert taylor_scores(gradients).tolist() == [3.0, pytest.approx(4 / 3)]


def test_fisher_is_half_the_mean_square_image_by_image() -> None:
    network = network_of("lydite-small")
    x, y = batch(network)
    group = network.groups()[1]
    whole = gate_gradients(network, [group], x, y)[group.name]
    total = np.zeros(group.size)
    for n in range(len(x)):
        alone = gate_gradients(network, [group], x[n : n + 1], y[n : n + 1])[group.name]
        total += np.square(alone[0])
    np.testing.assert_allclose(fisher_scores(whole), total / (2 * len(x)), rtol=1e-3)


def test_domains_discount_what_one_domain_alone_needs() -> None:
    growth = np.array([[2.0, 6.0, 0.0, 1.0], [2.0, 0.0, 0.0, 3.0], [2.0, 0.0, 0.0, 2.0]])
    # even: its mean; one of three domains: a third of its mean; nothing: nothing
    variance = 2 / 3
    expected = [2.0, 2 / 3, 0.0, 2 * 4 / (4 + variance)]
    np.testing.assert_allclose(domain_scores(growth), expected)


def by_hand(gradients: list[list[float]], rows: list[tuple[int, str, str]]) -> Gates:
    targets, sources, generators = zip(*rows, strict=True)
    values = np.array(gradients)
    return Gates({"g": values}, np.array(targets), np.array(sources), np.array(generators))


def test_a_domain_is_a_generator_s_fakes_and_the_real_images_of_its_source() -> None:
    rows = [(0, "a", "cam"), (1, "a", "x"), (1, "a", "y"), (1, "b", "x"), (1, "b", "x")]
    gates = by_hand([[2.0], [4.0], [0.0], [6.0], [0.0]], rows)
    assert gates.strata() == [("a", "x"), ("a", "y"), ("b", "x")]
    # halves of 2 (the real image, which stands in for b too) and of 8, 0 and 9 (the fakes)
    growth = gates.growth(gates.gradients["g"], gates.strata())
    assert growth.tolist() == [[5.0], [1.0], [5.5]]


def test_one_generator_has_no_domains_to_compare() -> None:
    gates = by_hand([[1.0], [1.0]], [(0, "a", "cam"), (1, "a", "x")])
    with pytest.raises(DataError, match="Got x of a alone among 1 fakes. Use `score: fisher`"):
        gates.scores("domains")


@pytest.mark.parametrize("score", ["taylor", "fisher", "domains"])
def test_scores_compare_between_groups(score: Any) -> None:
    rows = [(0, "a", "cam"), (1, "a", "x"), (1, "a", "y")]
    one = by_hand([[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]], rows)
    both = Gates({**one.gradients, "h": 3 * one.gradients["g"]}, *list(vars(one).values())[1:])
    scores = both.scores(score)
    factor = 3 if score == "taylor" else 9
    np.testing.assert_allclose(scores["h"], factor * scores["g"])
    assert np.concatenate(list(scores.values())).mean() == pytest.approx(1.0)
    assert scores["g"][0] < scores["g"][1]


def test_dead_network_scores_evenly() -> None:
    gates = by_hand([[0.0, 0.0], [0.0, 0.0]], [(0, "a", "cam"), (1, "a", "x")])
    assert gates.scores("fisher")["g"].tolist() == [1.0, 1.0]


def test_without_images_l1_stands_in() -> None:
    network = network_of("lydite-small")
    wanted = channel_scores(network, "l1", 0)
    found = channel_scores(network, "fisher", 0)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


# ----------------------------------------------------------------------------- with images


def context(manifest: Manifest, folder: Path, seed: int = 5) -> Context:
    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=seed, folder=folder, device="cpu")


def watch(manifest: Manifest, seed: int = 1, count: int = 48) -> Gates:
    network = network_of("lydite-small")
    return watch_gates(network, Preprocess(size=32), manifest, count, seed)


def test_watching_is_balanced_and_follows_the_seed(tiny_manifest: Manifest) -> None:
    one, again, other = (watch(tiny_manifest, seed) for seed in (1, 1, 2))
    name = next(iter(one.gradients))
    assert np.array_equal(one.gradients[name], again.gradients[name])
    assert not np.array_equal(one.gradients[name], other.gradients[name])
    assert one.targets.sum() == 24
    pairs = list(zip(one.sources.tolist(), one.generators.tolist(), strict=True))
    for pair in (("one", "camera"), ("one", "double-one"), ("two", "double-two")):
        assert pairs.count(pair) == 12
    assert len(one.gradients[name]) == 48


@pytest.mark.parametrize("score", ["taylor", "fisher", "domains"])
def test_planted_useless_channels_go_first(
    tiny_manifest: Manifest, tmp_path: Path, score: Any
) -> None:
    """Channels of large weights that nobody reads: norms keep them, images do not."""
    parent = Detector.start(TINY, seed=1)
    useless = {"body.0": 2, "body.1": 0, "body.1.blocks.0": 3}
    parameters = dict(parent.network.named_parameters())
    with torch.no_grad():
        for group in parent.network.groups():
            if group.name not in useless:
                continue
            for member in group.members:
                if member.dim == 1:
                    parameters[member.tensor][:, useless[group.name]] = 0
            for name in group.scored:
                parameters[name][useless[group.name]] *= 10
    step = Prune(rate=0.2, score=score, multiple=1, images=32)
    edits = step.run(parent, context(tiny_manifest, tmp_path)).card.edits
    norms = Prune(rate=0.2, multiple=1).run(parent, context(tiny_manifest, tmp_path)).card.edits
    gone = {
        edit.group: useless[edit.group] not in edit.keep for edit in edits if edit.group in useless
    }
    kept = {edit.group: useless[edit.group] in edit.keep for edit in norms if edit.group in useless}
    assert len(gone) >= 2
    assert all(gone.values())
    assert all(kept.values())


def test_a_single_generator_is_refused_by_the_step(tiny_manifest: Manifest, tmp_path: Path) -> None:
    parent = Detector.start(TINY)
    one = tiny_manifest.select(domain="one")
    with pytest.raises(DataError, match="double-one of one alone"):
        Prune(rate=0.3, score="domains", multiple=1).run(parent, context(one, tmp_path))


def test_plan_says_what_only_images_can_tell() -> None:
    stage = Stage("lydite-small", trained=True)
    Prune(rate=0.5, score="taylor", images=100).check(stage)
    assert (stage.images, stage.notes) == (100, [])
    Prune(rate=0.5, score="taylor", scope="global").check(stage)
    assert "`score: taylor` asks images" in stage.notes[0]


def test_images_of_one_class_are_refused(tiny_manifest: Manifest) -> None:
    table = tiny_manifest.select(label="real").table.to_pydict()
    with pytest.raises(DataError, match="both classes"):
        watch(from_columns(table, tiny_manifest.root))


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_a_gradient_that_is_not_finite_ranks_nothing(score: str) -> None:
    gradients = np.ones((4, 3))
    gradients[1, 2] = np.nan
    names = np.array(["a"] * 4)
    found = Gates({"stem": gradients}, np.array([0, 1, 0, 1]), names, names)
    with pytest.raises(DataError, match="not finite"):
        found.scores(score)  # type: ignore[arg-type]

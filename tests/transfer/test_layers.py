"""Which parameters belong to which layers, checked against what they can reach."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.networks import lived_in, picture
from lydite.card import Architecture
from lydite.edits import AddAdapter, FactorizeConv
from lydite.errors import ConfigError
from lydite.models import NETWORKS, Network
from lydite.models.surgery import add_adapter_, replay_
from lydite.models.timm import TimmNetwork
from lydite.transfer.layers import First, Last, parameters_of, parts_of

TINY = Architecture(network="lydite-small", config={"widths": [4, 8]})
PAPER = Architecture(network="paper-student-1.8m", config={"width": 0.25})


def with_adapter(architecture: Architecture, place: int) -> Network:
    network = lived_in(architecture)
    after = network.stages()[place]
    channels = network.channels_after(after)
    add_adapter_(network, AddAdapter(after=after, kind="separable", channels=channels))
    return network


@pytest.mark.parametrize("name", list(NETWORKS))
def test_parts_hold_every_parameter_once(name: str) -> None:
    network = lived_in(name)
    parts = parts_of(network)
    assert len(parts) == len(network.stages()) + 1
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert all(parts)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_stage_is_what_its_output_needs_beyond_the_stage_before(name: str) -> None:
    """Gradients say which parameters a stage's output depends on: an independent reference."""
    network = lived_in(name).eval()
    outputs: list[torch.Tensor] = []
    for stage in network.stages():
        module = network.get_submodule(stage)
        module.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    outputs.append(network(picture()))
    named = dict(network.named_parameters())
    before: set[str] = set()
    for output, part in zip(outputs, parts_of(network), strict=True):
        found = torch.autograd.grad(
            output.sum(), list(named.values()), retain_graph=True, allow_unused=True
        )
        reached = {n for n, gradient in zip(named, found, strict=True) if gradient is not None}
        assert part == reached - before
        before = reached


def test_layers_of_a_tiny_network_by_hand() -> None:
    network = lived_in(TINY)
    head = {"patch.weight", "patch.bias"}
    assert parameters_of(network, "head") == head
    names = {name for name, _ in network.named_parameters()}
    assert parameters_of(network, "all") == names
    norms = parameters_of(network, "norms")
    assert norms == {n for n in names if ".bn" in n}
    assert len(norms) == 2 * 6
    first = {n for n in names if n.startswith("body.0.")}
    assert parameters_of(network, First(first=1)) == first
    assert parameters_of(network, First(first=2)) == names - head
    assert parameters_of(network, Last(last=1)) == names - first
    assert parameters_of(network, Last(last=2)) == names


def test_the_papers_head_is_its_linear_layers() -> None:
    network = lived_in(PAPER)
    head = parameters_of(network, "head")
    assert {n.split(".")[1] for n in head} == {"fc1", "fc2", "logits"}
    last = parameters_of(network, Last(last=1))
    assert {n.rpartition(".")[0] for n in last - head} == {"body.conv7", "body.bn7"}


@pytest.mark.parametrize("architecture", [TINY, PAPER])
def test_an_adapter_belongs_to_the_stage_before_it(architecture: Architecture) -> None:
    network = with_adapter(architecture, 1)
    own = {n for n, _ in network.named_parameters() if n.startswith("adapters.")}
    assert [own <= part for part in parts_of(network)].index(True) == 1
    assert not own & parts_of(network)[0]
    assert {n for n in own if ".bn." in n} <= parameters_of(network, "norms")
    assert not own & parameters_of(network, "head")


def test_split_layers_stay_in_their_stage() -> None:
    network = lived_in(TINY)
    replay_(network, [FactorizeConv(layer="body.1.conv", method="svd", ranks=(2,))])
    assert "body.1.conv.reduce.weight" in parts_of(network)[1]


@pytest.mark.parametrize("layers", [First(first=3), Last(last=3)])
def test_more_stages_than_there_are(layers: First | Last) -> None:
    with pytest.raises(ConfigError, match="must be 1 to 2, the number of stages.* Got 3"):
        parameters_of(lived_in(TINY), layers)


class Foreign(nn.Module):
    """A network as timm's, which names its classifier and no stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def get_classifier(self) -> nn.Module:
        return self.fc


def test_networks_of_timm_have_a_head_but_no_stages() -> None:
    network = TimmNetwork(Foreign(), 64)
    assert parameters_of(network, "head") == {"model.fc.weight", "model.fc.bias"}
    with pytest.raises(ConfigError, match="do not say what their stages are"):
        parameters_of(network, First(first=1))
    with pytest.raises(ConfigError, match="has no norms to train alone"):
        parameters_of(network, "norms")


def test_a_network_that_does_not_know_its_head() -> None:
    class Bare(Network):
        family = "bare"

    with pytest.raises(ConfigError, match="has no head to train alone"):
        parameters_of(Bare(), "head")

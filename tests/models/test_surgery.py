"""Edits of a card: replayed exactly, and refused when they do not fit."""

from __future__ import annotations

import copy

import pytest
import torch

from lydite.card import Architecture, KeepChannels, MaskWeights
from lydite.errors import CardError
from lydite.models import Network, build
from lydite.models.surgery import keep_channels_, masks_of, replay_

EDITS = (
    KeepChannels(group="body.0", keep=(0, 2, 5)),
    KeepChannels(group="body.0.blocks.0", keep=(1, 7)),
    KeepChannels(group="body.0", keep=(1, 2)),
)


def small() -> Network:
    torch.manual_seed(0)
    return build(Architecture(network="lydite-small")).eval()


def test_replay_on_a_fresh_build_gives_the_same_network() -> None:
    x = torch.randn(2, 3, 64, 64)
    edited = small()
    replay_(edited, EDITS)
    torch.manual_seed(99)
    rebuilt = build(Architecture(network="lydite-small")).eval()
    replay_(rebuilt, EDITS)
    rebuilt.load_state_dict(edited.state_dict())
    assert torch.equal(rebuilt(x), edited(x))


def test_edits_count_from_what_earlier_edits_left() -> None:
    original, edited = small(), small()
    replay_(edited, EDITS)
    bias = "body.0.bn.bias"
    with torch.no_grad():
        original.get_parameter(bias).copy_(torch.arange(8.0))
    replay_(original, EDITS)
    assert original.get_parameter(bias).tolist() == [2.0, 5.0]
    assert [g.size for g in edited.groups()][:2] == [2, 2]


def test_keeping_everything_changes_nothing() -> None:
    network = small()
    before = copy.deepcopy(network.state_dict())
    keep_channels_(network, "body.1", range(16))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_frozen_parameters_stay_frozen() -> None:
    network = small().requires_grad_(False)
    keep_channels_(network, "body.0", [0, 1])
    assert not any(p.requires_grad for p in network.parameters())


def test_unknown_group_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        CardError,
        match=r"channel group 'body.O'. Did you mean '.*Available: body.0, body.0.blocks.0",
    ):
        keep_channels_(small(), "body.O", [0])


@pytest.mark.parametrize(
    "keep", [[], [8], [-1, 2], [3, 3], [2, 1], [0, 10**12], list(range(100_000))]
)
def test_impossible_channels_are_refused_and_nothing_changes(keep: list[int]) -> None:
    network = small()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CardError, match="'body.0' must be ascending numbers from 0 to 7") as error:
        keep_channels_(network, "body.0", keep)
    assert len(str(error.value)) < 300
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_network_without_groups_is_refused() -> None:
    class Bare(Network):
        family = "bare"

    with pytest.raises(CardError, match="networks of bare have no groups"):
        keep_channels_(Bare(), "body.0", [0])


@pytest.mark.parametrize("name", ["patch.wight", "", "body", "body.0.bn.running_mean", "__class__"])
def test_mask_of_no_parameter_is_refused(name: str) -> None:
    edit = MaskWeights(parameters=(name,))
    with pytest.raises(CardError, match="masks the weights of"):
        replay_(small(), [edit])
    with pytest.raises(CardError, match="masks the weights of"):
        masks_of(small(), [edit])


def test_masks_mark_what_may_change() -> None:
    network = small()
    with torch.no_grad():
        network.get_parameter("patch.weight")[0, :5] = 0
    masks = masks_of(network, [EDITS[0], MaskWeights(parameters=("patch.weight",))])
    assert list(masks) == ["patch.weight"]
    assert (~masks["patch.weight"]).sum() == 5
    assert not masks["patch.weight"][0, :5].any()
    assert masks_of(network, EDITS) == {}

"""Edits of a card: replayed exactly, and refused when they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.card import Architecture, Card
from lydite.edits import (
    FactorizeConv,
    FactorizeLinear,
    KeepChannels,
    KeepSlices,
    MaskWeights,
    Slice,
)
from lydite.errors import CardError
from lydite.models import Network, build
from lydite.models.contract import ChannelGroup, Member
from lydite.models.surgery import edit_for, edits_for, keep_channels_, masks_of, replay_

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


# ----------------------------------------------------------------------- factorized layers


def paper() -> Network:
    torch.manual_seed(0)
    return build(Architecture(network="paper-student-0.44m")).eval()


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_stride_padding_and_bias_go_to_the_right_factor() -> None:
    class One(Network):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2))

    def settings(method: Any, ranks: tuple[int, ...]) -> list[Any]:
        network = One()
        replay_(network, [FactorizeConv(layer="conv", method=method, ranks=ranks)])
        return [
            (m.kernel_size, m.stride, m.padding, m.dilation, m.bias is not None)
            for m in network.conv.children()
        ]

    plain = ((1, 1), (1, 1), (0, 0), (1, 1))
    whole = ((3, 5), (2, 1), (1, 2), (1, 2))
    assert settings("svd", (3,)) == [(*whole, False), (*plain, True)]
    assert settings("tucker2", (2, 3)) == [(*plain, False), (*whole, False), (*plain, True)]
    assert settings("spatial", (3,)) == [
        ((3, 1), (2, 1), (1, 0), (1, 1), False),
        ((1, 5), (1, 1), (0, 2), (1, 2), True),
    ]


def test_the_factors_of_a_card_are_rebuilt_without_random_numbers() -> None:
    network, state = paper(), torch.get_rng_state()
    edits = [
        FactorizeLinear(layer="classifier.fc1", rank=6, bottleneck="relu-dropout", dropout=0.25),
        FactorizeConv(layer="body.point5", method="svd", ranks=(7,)),
        KeepChannels(group="fc1.reduce", keep=(0, 2, 5)),
        KeepChannels(group="point5.reduce", keep=(1,)),
    ]
    replay_(network, edits)
    assert torch.equal(torch.get_rng_state(), state)
    found = shapes(network)
    assert found["classifier.fc1.reduce.weight"] == (3, 256)
    assert found["classifier.fc1.expand.weight"] == (128, 3)
    assert found["body.point5.reduce.weight"] == (1, 128, 1, 1)
    assert found["body.point5.expand.weight"] == (64, 1, 1, 1)
    assert not network.get_parameter("classifier.fc1.expand.bias").any()
    assert network.get_submodule("classifier.fc1.dropout").p == 0.25
    assert not any(module.training for module in network.modules())


def test_frozen_layers_have_frozen_factors() -> None:
    network = small().requires_grad_(False)
    replay_(network, [FactorizeConv(layer="body.1.conv", method="spatial", ranks=(2,))])
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (FactorizeLinear(layer="classifier.fc9", rank=1), "Did you mean 'classifier.fc1'"),
        (FactorizeLinear(layer="", rank=1), "Unknown layer ''"),
        (FactorizeLinear(layer="classifier.__class__", rank=1), "Unknown layer"),
        (FactorizeLinear(layer="body.bn1", rank=1), "Unknown layer 'body.bn1'"),
        (FactorizeLinear(layer="body.point1", rank=1), "does not fit 'body.point1'.*Conv2d"),
        (FactorizeConv(layer="classifier.fc1", method="svd", ranks=(1,)), "does not fit"),
        (FactorizeConv(layer="body.spatial3", method="svd", ranks=(1,)), "is a Depthwise"),
        (FactorizeLinear(layer="classifier.fc1", rank=129), "must be 1 to 128 for svd. Got 129"),
        (FactorizeLinear(layer="classifier.fc1", rank=10**12), "must be 1 to 128"),
        (
            FactorizeConv(layer="body.point1", method="tucker2", ranks=(33, 32)),
            "1 to 32 and 1 to 32 for tucker2. Got 33, 32",
        ),
        (FactorizeConv(layer="body.spatial1", method="spatial", ranks=(10,)), "must be 1 to 9"),
    ],
)
def test_splits_that_do_not_fit_are_refused_and_nothing_changes(edit: Any, words: str) -> None:
    network = paper()
    before = shapes(network)
    with pytest.raises(CardError, match=words):
        replay_(network, [edit])
    assert shapes(network) == before


def test_a_layer_is_split_once() -> None:
    network = paper()
    edit = FactorizeLinear(layer="classifier.fc1", rank=6)
    replay_(network, [edit])
    for layer, words in (("classifier.fc1", "split already"), ("classifier.fc1.reduce", "factor")):
        with pytest.raises(CardError, match=words):
            replay_(network, [FactorizeLinear(layer=layer, rank=1)])


def test_grouped_and_oddly_padded_convolutions_stay_whole() -> None:
    class Odd(Network):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.same = nn.Conv2d(4, 4, 3, padding="same")
            self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")

    for layer, words in (("grouped", "2 groups"), ("same", "pads"), ("mirrored", "pads")):
        with pytest.raises(CardError, match=words):
            replay_(Odd(), [FactorizeConv(layer=layer, method="svd", ranks=(1,))])


def test_masks_of_split_layers_are_forgotten_and_later_ones_kept() -> None:
    network = small()
    masked = MaskWeights(parameters=("body.1.conv.weight", "patch.weight"))
    split = FactorizeConv(layer="body.1.conv", method="tucker2", ranks=(2, 2))
    later = MaskWeights(parameters=("body.1.conv.core.weight",))
    replay_(network, [masked, split, later])
    assert list(masks_of(network, [masked, split])) == ["patch.weight"]
    assert set(masks_of(network, [masked, split, later])) == {
        "patch.weight",
        "body.1.conv.core.weight",
    }
    with pytest.raises(CardError, match="'body.1.conv.weight', which the network lacks"):
        masks_of(network, [split, masked])


# ------------------------------------------------------------- edits that carry their group


class Branching(Network):
    """Two branches, concatenated, with every kind of layer that slices are cut from."""

    family = "branching"
    traced_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(3, 6, 1, bias=False)
        self.gamma = nn.Parameter(torch.randn(6))
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.mix = nn.Conv2d(10, 5, 1)
        self.layer_norm = nn.LayerNorm(5)
        self.hidden = nn.Linear(5 * 4, 8)
        self.norm1d = nn.BatchNorm1d(8)
        self.logits = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.norm(self.left(x)))
        right = self.depthwise(self.right(x)) * self.gamma.view(1, -1, 1, 1)
        mixed = self.mix(torch.cat([left, right], 1)).permute(0, 2, 3, 1)
        pooled = F.adaptive_avg_pool2d(self.layer_norm(mixed).permute(0, 3, 1, 2), 2).flatten(1)
        hidden = F.relu(self.norm1d(self.hidden(pooled)))
        return self.logits(torch.cat([hidden, -hidden], 1))

    def groups(self) -> list[ChannelGroup]:
        def along(*names: str) -> list[Member]:
            return [Member(name, 0) for name in names]

        def norm(name: str) -> list[Member]:
            return along(
                *(f"{name}.{t}" for t in ("weight", "bias", "running_mean", "running_var"))
            )

        right = along("right.weight", "gamma", "depthwise.weight", "depthwise.bias")
        left = along("left.weight", "left.bias") + norm("norm")
        mix = along("mix.weight", "mix.bias", "layer_norm.weight", "layer_norm.bias")
        hidden = along("hidden.weight", "hidden.bias") + norm("norm1d")
        # the hidden channels are read twice, by two places of one tensor
        twice = [Member("logits.weight", 1), Member("logits.weight", 1, offset=8)]
        made = [
            ("left", 4, [*left, Member("mix.weight", 1)]),
            ("right", 6, [*right, Member("mix.weight", 1, offset=4)]),
            ("mix", 5, [*mix, Member("hidden.weight", 1, repeat=4)]),
            ("hidden", 8, hidden + twice),
        ]
        return [ChannelGroup(n, size, tuple(m), (f"{n}.weight",)) for n, size, m in made]


def branching() -> Branching:
    torch.manual_seed(0)
    network = Branching().eval()
    for norm in (network.norm, network.norm1d):
        nn.init.normal_(norm.running_mean, 0, 0.3)
    return network


def edit_of(name: str, keep: tuple[int, ...]) -> KeepSlices:
    network = branching()
    edit = edit_for(network, {g.name: g for g in network.groups()}[name], keep)
    assert isinstance(edit, KeepSlices)
    return edit


def closed_(network: Network, group: ChannelGroup, gone: Collection[int]) -> None:
    """Take from the readers of a group what they get of some channels."""
    for member in group.members:
        if member.dim == 1:
            weight = network.get_parameter(member.tensor).data
            for channel in gone:
                first = member.offset + channel * member.repeat
                weight[:, first : first + member.repeat] = 0


@pytest.mark.parametrize("name", ["left", "right", "hidden"])
def test_cutting_slices_is_closing_what_the_readers_get(name: str) -> None:
    network, x = branching(), torch.randn(3, 3, 8, 8)
    group = {g.name: g for g in network.groups()}[name]
    closed = copy.deepcopy(network)
    closed_(closed, group, (0, 2))
    keep = tuple(c for c in range(group.size) if c not in (0, 2))
    replay_(network, [edit_for(network, group, keep)])
    assert torch.allclose(network(x), closed(x), atol=1e-6)


@pytest.mark.parametrize("order", [("left", "right", "hidden"), ("hidden", "right", "left")])
def test_groups_side_by_side_in_a_tensor_are_cut_in_one_replay(order: tuple[str, ...]) -> None:
    gone = {"left": (0, 2), "right": (1, 2, 4), "hidden": (0, 5, 6)}
    network, x = branching(), torch.randn(3, 3, 8, 8)
    groups = {g.name: g for g in network.groups()}
    closed = copy.deepcopy(network)
    for name in order:
        closed_(closed, groups[name], gone[name])
    kept = {n: [c for c in range(groups[n].size) if c not in gone[n]] for n in order}
    replay_(network, edits_for(network, [(groups[n], kept[n]) for n in order]))
    assert torch.allclose(network(x), closed(x), atol=1e-6)


def test_layers_follow_their_slices() -> None:
    network = branching()
    edits = [edit_of("right", (1, 4, 5)), edit_of("mix", (0, 3)), edit_of("hidden", (7,))]
    replay_(network, edits)
    depthwise = network.depthwise
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (3, 3, 3)
    assert (network.mix.in_channels, network.mix.out_channels) == (7, 2)
    assert network.layer_norm.normalized_shape == (2,)
    assert (network.hidden.in_features, network.hidden.out_features) == (8, 1)
    assert network.norm1d.num_features == 1
    assert network.logits.weight.shape == (2, 2)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 2)


def test_the_card_s_json_alone_rebuilds_the_network() -> None:
    edits = (edit_of("right", (1, 4)), edit_of("mix", (0, 3)))
    card = Card(
        name="branching",
        architecture=Architecture(network="branching"),
        edits=edits,
        key="0" * 64,
    )
    again = Card.model_validate_json(card.model_dump_json()).edits
    assert again == edits
    one, two, x = branching(), branching(), torch.randn(2, 3, 8, 8)
    replay_(one, edits)
    replay_(two, again)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))
    # slices count from what earlier edits left, as group edits do
    with pytest.raises(CardError, match="along dimension 0 of 'right.weight'"):
        replay_(two, again)


def test_networks_that_name_their_groups_are_cut_by_name() -> None:
    network = small()
    group = network.groups()[0]
    assert edit_for(network, group, (1, 2)) == KeepChannels(group="body.0", keep=(1, 2))
    edit = KeepSlices(group="a", size=8, slices=(Slice(tensor="x", dim=0),), keep=(0,))
    with pytest.raises(CardError, match="networks of lydite are cut by the names"):
        replay_(small(), [edit])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slices": (Slice(tensor="left.wight", dim=0),)}, "which the network lacks"),
        ({"slices": (Slice(tensor="__class__", dim=0),)}, "which the network lacks"),
        ({"slices": (Slice(tensor="norm.num_batches_tracked", dim=0),)}, "its shape is"),
        ({"slices": (Slice(tensor="left.bias", dim=1),)}, "along dimension 1 of 'left.bias'"),
        ({"slices": (Slice(tensor="left.bias", dim=0, offset=1),)}, "entries 1 to 4"),
        ({"slices": (Slice(tensor="left.bias", dim=0, repeat=10**12),)}, "entries 0 to"),
        ({"keep": (0, 4)}, "'left' must be ascending numbers from 0 to 3"),
        ({"slices": (Slice(tensor="left.bias", dim=0),)}, "does not run after the card's cuts"),
        ({"slices": (Slice(tensor="mix.weight", dim=1),)}, "does not run after the card's cuts"),
    ],
)
def test_slices_that_do_not_fit_are_refused(change: dict[str, object], said: str) -> None:
    edit = edit_of("left", (0, 2)).model_copy(update=change)
    with pytest.raises(CardError, match=said):
        replay_(branching(), [edit])


def test_cut_away_logits_are_refused() -> None:
    slices = (Slice(tensor="logits.weight", dim=0), Slice(tensor="logits.bias", dim=0))
    with pytest.raises(CardError, match=r"gives \(1, 1\) instead of two logits"):
        replay_(branching(), [KeepSlices(group="logits", size=2, slices=slices, keep=(1,))])


def test_replay_leaves_the_mode_as_it_was() -> None:
    network = branching().train()
    network.norm.eval()
    replay_(network, [edit_of("left", (0, 2))])
    assert network.training
    assert not network.norm.training
    assert torch.equal(network.norm.running_mean, branching().norm.running_mean[[0, 2]])

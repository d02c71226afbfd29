"""Adapters: the paper's numbers, starts that change nothing, and places in every network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from helpers.networks import answer, lived_in, lived_in_detector, picture
from lydite.card import Architecture
from lydite.compress.gates import gate_gradients
from lydite.compress.prune import prune_edits
from lydite.detector import Detector
from lydite.edits import RANKED, AdapterKind, AddAdapter, FactorizeConv, MaskWeights
from lydite.errors import CardError
from lydite.models import NETWORKS, Network
from lydite.models.adapter import ADAPTERS, make_adapter
from lydite.models.cost import count_macs, count_parameters
from lydite.models.surgery import add_adapter_, keep_channels_, masks_of, replay_

KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)
SILENT = [kind for kind in KINDS if kind != "separable"]
TINY = {
    "lydite": Architecture(network="lydite-small", config={"widths": [8, 16]}),
    "paper": Architecture(network="paper-student-0.9m", config={"width": 0.25}),
}


def edit_for(network: Network, kind: AdapterKind, place: int = 0) -> AddAdapter:
    after = network.stages()[place]
    rank = 4 if kind in RANKED else None
    return AddAdapter(after=after, kind=kind, channels=network.channels_after(after), rank=rank)


def scrambled(network: Network) -> Network:
    """Give every adapter weights and statistics as if it had learned."""
    torch.manual_seed(4)
    with torch.no_grad():
        for tensor in network.adapters.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.1)
    return network


def adapted(architecture: Architecture | str, kind: AdapterKind, place: int = 0) -> Network:
    network = lived_in(architecture)
    add_adapter_(network, edit_for(network, kind, place))
    return scrambled(network)


def test_registry_and_cards_know_the_same_kinds() -> None:
    assert set(ADAPTERS) == set(KINDS)


@pytest.mark.parametrize(("channels", "parameters"), [(128, 18_048), (64, 4_928)])
def test_the_papers_adapter_has_the_papers_size(channels: int, parameters: int) -> None:
    adapter = make_adapter("separable", channels)
    assert sum(p.numel() for p in adapter.parameters()) == parameters


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("residual-separable", 16**2 + 13 * 16 + 16),
        ("bottleneck", 2 * 16 * 4 + 4 + 16),
        ("lora", 2 * 16 * 4),
        ("affine", 2 * 16),
        ("linear", 16**2 + 16),
    ],
)
def test_sizes_by_hand(kind: AdapterKind, parameters: int) -> None:
    adapter = make_adapter(kind, 16, 4 if kind in RANKED else None)
    assert sum(p.numel() for p in adapter.parameters()) == parameters


def test_the_separable_adapter_against_plain_layers() -> None:
    adapter = make_adapter("separable", 5, seed=1).eval()
    plain = nn.Sequential(
        nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5), nn.ReLU()
    ).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), adapter.state_dict().values(), strict=True)))
    x = torch.randn(2, 5, 7, 6)
    assert torch.equal(adapter(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_weights_and_draw_nothing(kind: AdapterKind) -> None:
    rank = 4 if kind in RANKED else None
    before = torch.random.get_rng_state()
    one, two, other = (make_adapter(kind, 8, rank, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    random = kind not in ("affine", "linear")
    assert random != all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", SILENT)
def test_silent_kinds_change_nothing_at_first(kind: AdapterKind, training: bool) -> None:
    adapter = make_adapter(kind, 8, 4 if kind in RANKED else None).train(training)
    x = torch.randn(3, 8, 5, 6)
    assert torch.equal(adapter(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_from_its_start(kind: AdapterKind) -> None:
    """Two steps suffice for every tensor to move: a zero start must not be a dead end."""
    adapter = make_adapter(kind, 6, 3 if kind in RANKED else None, seed=2)
    before = copy.deepcopy(adapter.state_dict())
    x, wanted = torch.randn(8, 6, 5, 5), torch.randn(8, 6, 5, 5)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (adapter(x) - wanted).square().mean().backward()
        optimizer.step()
    # a bias before a batch norm is taken out again by the norm
    free = [n for n, _ in adapter.named_parameters() if "separable" not in kind or "bias" not in n]
    assert all(not torch.equal(adapter.state_dict()[name], before[name]) for name in free)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_stage_of_every_network_takes_one(name: str) -> None:
    network, x = lived_in(name), picture()
    before, expected = set(network.state_dict()), answer(network, x)
    for place in range(len(network.stages())):
        add_adapter_(network, edit_for(network, "bottleneck", place))
        assert torch.equal(answer(network, x), expected)
    assert len(network.adapters) == len(network.stages())
    assert {n for n in network.state_dict() if not n.startswith("adapters.")} == before
    changed = answer(scrambled(network), x)
    assert not torch.allclose(changed, expected)
    with torch.no_grad():
        assert torch.equal(network.head(network.features(x)), changed)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_adapter_runs_right_behind_its_stage(name: str) -> None:
    network = lived_in(name)
    for place, stage in enumerate(network.stages()):
        seen = []
        hooked = copy.deepcopy(network)
        add_adapter_(hooked, edit_for(hooked, "affine", place))
        (adapter,) = hooked.adapters.values()
        hooked.get_submodule(stage).register_forward_hook(lambda _m, _i, out, s=seen: s.append(out))
        adapter.register_forward_hook(lambda _m, inputs, _o, s=seen: s.append(inputs[0]))
        answer(hooked, picture())
        assert len(seen) == 2
        assert seen[0] is seen[1]


def test_cost_counts_adapters() -> None:
    plain, network = lived_in(TINY["lydite"]), adapted(TINY["lydite"], "linear", place=1)
    assert count_parameters(network) - count_parameters(plain) == 16 * 16 + 16
    assert count_macs(network, 64) - count_macs(plain, 64) == 16 * 16 * 32 * 32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", TINY)
def test_channels_around_an_adapter_are_removed_together(family: str, kind: AdapterKind) -> None:
    """As for networks without: silent channels go without a trace, others leave one."""
    x, base = picture(), adapted(TINY[family], kind)
    (group,) = (g for g in base.groups() if any("adapters." in m.tensor for m in g.members))
    wide = {
        (f"adapters.{name}", dim)
        for name, value in base.adapters.state_dict().items()
        for dim in range(min(2, value.dim()))
        if value.shape[dim] == group.size
    }
    assert wide == {(m.tensor, m.dim) for m in group.members if "adapters." in m.tensor}
    keep = list(range(1, group.size - 1))
    network = copy.deepcopy(base)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for member in group.members:
        if member.dim == 0:
            rows = tensors[member.tensor].data.unflatten(0, (group.size, member.repeat))
            rows[[0, group.size - 1]] = 0
    expected = answer(network, x)
    keep_channels_(network, group.name, keep)
    torch.testing.assert_close(answer(network, x), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answer(base, x), expected, atol=1e-3)
    for module in network.adapters.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups)
            assert module.weight.shape[:2] == shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_stands_for_a_channel_on_both_sides_of_an_adapter(kind: AdapterKind) -> None:
    """A gate moved from 1 changes the loss as its gradient says: scores from images are right."""
    network, x, targets = (
        adapted(TINY["lydite"], kind).double(),
        picture().double(),
        torch.tensor([0, 1]),
    )
    (group,) = (g for g in network.groups() if any("adapters." in m.tensor for m in g.members))
    gradients = gate_gradients(network, [group], x, targets)[group.name]
    readers = [m for m in group.members if m.dim == 1]
    step = 1e-6
    for channel in (0, 5):
        losses = []
        for sign in (1, -1):
            moved = copy.deepcopy(network)
            for reader in readers:
                moved.get_parameter(reader.tensor).data[:, channel] *= 1 + sign * step
            losses.append(F.cross_entropy(answer(moved, x), targets, reduction="none"))
        slope = (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(torch.tensor(gradients[:, channel]), slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["residual-separable", "lora"])
def test_pruning_before_and_after_is_replayed(kind: AdapterKind, tmp_path: Path) -> None:
    start = lived_in_detector(TINY["lydite"])
    network = start.network
    edits = list(prune_edits(network, 0.3, multiple=1))
    replay_(network, edits)
    edits.append(edit_for(network, kind, 1))
    add_adapter_(network, edits[-1])
    scrambled(network)
    after = prune_edits(network, 0.3, multiple=1)
    before = count_parameters(network)
    replay_(network, after)
    assert count_parameters(network) <= 0.7 * before
    edits.extend(after)
    saved = start.evolve(network=network, edits=tuple(edits)).save(tmp_path / "detector")
    assert saved.card.version == 3
    loaded = Detector.load(tmp_path / "detector")
    assert torch.equal(answer(loaded.network, picture()), answer(network, picture()))


def test_masks_may_name_an_adapter() -> None:
    network = adapted(TINY["lydite"], "linear")
    name = "adapters.body_0.pointwise.weight"
    network.get_parameter(name).data[0] = 0
    masks = masks_of(network, [edit_for(network, "linear"), MaskWeights(parameters=(name,))])
    assert (~masks[name]).sum() == 8


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"after": "body.7"}, "Unknown place of an adapter 'body.7'.* Available: body.0, body.1"),
        ({"after": "body.0.conv"}, "Unknown place"),
        ({"after": "adapters"}, "Unknown place"),
        ({"after": "body.0", "channels": 9}, "takes 9 channels, but the network has 8"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(edit: dict[str, object], words: str) -> None:
    network = lived_in(TINY["lydite"])
    with pytest.raises(CardError, match=words):
        replay_(network, [AddAdapter.model_validate({"kind": "affine", "channels": 8} | edit)])
    assert not network.adapters


def test_a_place_takes_one_adapter() -> None:
    network = adapted(TINY["lydite"], "affine")
    with pytest.raises(CardError, match="an adapter already"):
        add_adapter_(network, edit_for(network, "linear"))
    assert [type(m).__name__ for m in network.adapters.values()] == ["AffineAdapter"]


def test_networks_without_places_are_refused() -> None:
    class Bare(Network):
        family = "bare"

    with pytest.raises(CardError, match="networks of bare have no places"):
        add_adapter_(Bare(), AddAdapter(after="body", kind="affine", channels=8))


def test_layers_of_adapters_are_not_split() -> None:
    network = adapted(TINY["lydite"], "linear")
    edit = FactorizeConv(layer="adapters.body_0.pointwise", method="svd", ranks=(1,))
    with pytest.raises(CardError, match="Unknown layer"):
        replay_(network, [edit])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "lora"}, "lora needs a `rank`"),
        ({"kind": "affine", "rank": 2}, "affine has no `rank`"),
        ({"kind": "lora", "rank": 9}, "1 to its 8 channels"),
    ],
)
def test_ranks_of_cards_are_checked(value: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AddAdapter.model_validate({"after": "body.0", "channels": 8} | value)

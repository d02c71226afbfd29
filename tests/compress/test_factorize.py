"""The step `factorize`: same answers at full rank, the share it promises, what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.networks import answer, lived_in, lived_in_detector, picture
from lydite.card import Architecture, ScoreMeaning
from lydite.compress.factorize import Factorize
from lydite.compress.layers import Choice, find_layers
from lydite.compress.splitting import edit_of, factorize_
from lydite.detector import Detector
from lydite.edits import FactorizeConv, FactorizeLinear
from lydite.errors import CardError, ConfigError
from lydite.models import Network, build
from lydite.models.cost import count_macs, count_parameters
from lydite.models.factorized import Factorized, Method, full_ranks
from lydite.models.surgery import keep_channels_
from lydite.recipe import Context, Stage, parse_step

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [6, 10]})
#: both families, with stride 2, biases, 1x1 and depthwise convolutions, and linear layers
NAMES = ["paper-student-0.44m", "paper-student-1.8m", "lydite-medium"]
SPLITTABLE: list[Choice] = ["svd", "tucker2", "spatial"]


def context(folder: Path) -> Context:
    return Context(train=None, val=None, seed=0, folder=folder)  # type: ignore[arg-type]


def split_everything(network: Network, method: Choice, share: float = 1.0) -> None:
    """Split every layer that can be, the first and the last too, at a share of the full ranks."""
    names = tuple(n for n, m in network.named_modules() if type(m) in (nn.Conv2d, nn.Linear))
    for layer in find_layers(network, names, method):
        kind: Method = layer.methods[0]
        ranks = tuple(max(1, int(r * share)) for r in full_ranks(layer.module, kind))
        factorize_(network, [edit_of(layer.split(kind, ranks), network)], sweeps=1)


# --------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("method", SPLITTABLE)
@pytest.mark.parametrize("name", NAMES)
def test_full_rank_gives_the_network_back(name: str, method: Choice) -> None:
    network, x = lived_in(name), picture()
    scale = answer(network, x).abs().max()
    last = next(
        m for m in reversed(list(network.modules())) if isinstance(m, nn.Conv2d | nn.Linear)
    )
    last.weight.data /= scale  # logits of magnitude 1, where 1e-5 is rounding
    expected = answer(network, x)
    exact, sure = (
        copy.deepcopy(network).double(),
        answer(copy.deepcopy(network).double(), x.double()),
    )
    for one in (network, exact):
        split_everything(one, method)
        assert sum(isinstance(m, Factorized) for m in one.modules()) >= 7
    assert 0.5 < expected.abs().max() < 2
    assert (answer(network, x) - expected).abs().max() < 1e-5
    assert (answer(exact, x.double()) - sure).abs().max() < 1e-12


@pytest.mark.parametrize("method", SPLITTABLE)
@pytest.mark.parametrize("name", ["paper-student-0.44m", "lydite-small"])
def test_groups_of_a_split_network_can_lose_silent_channels(name: str, method: Choice) -> None:
    base, x = lived_in(name), picture()
    split_everything(base, method, share=0.7)
    tensors, covered = base.state_dict(), set()
    names = [group.name for group in base.groups()]
    assert len(names) == len(set(names))
    assert {group.name for group in build(Architecture(network=name)).groups()} < set(names)
    for group in base.groups():
        for member in group.members:
            assert tensors[member.tensor].shape[member.dim] == group.size * member.repeat
            assert (member.tensor, member.dim) not in covered
            covered.add((member.tensor, member.dim))
        if group.size == 1:
            continue
        removed = {*range(0, group.size, 3), group.size - 1} - {1}
        network = copy.deepcopy(base)
        own = dict(network.named_parameters()) | dict(network.named_buffers())
        for member in group.members:
            if member.dim == 0:
                rows = own[member.tensor].data.unflatten(0, (group.size, member.repeat))
                rows[sorted(removed)] = 0
        expected, before = answer(network, x), count_parameters(network)
        keep_channels_(network, group.name, [c for c in range(group.size) if c not in removed])
        assert count_parameters(network) < before
        assert torch.allclose(answer(network, x), expected, atol=1e-4), group.name
        assert not torch.allclose(answer(base, x), expected, atol=1e-3), group.name
    along = {tensor for tensor, dim in covered if dim == 0}
    rest = [name for name, value in tensors.items() if value.dim() and name not in along]
    assert all(name.startswith(("classifier.logits.", "patch.")) for name in rest)
    assert all(len(tensors[name]) == 2 for name in rest)


@pytest.mark.parametrize("name", ["paper-student-1.8m", "lydite-medium"])
def test_costs_are_those_of_the_factors(name: str) -> None:
    network = lived_in(name)
    expected = {"parameters": 0, "macs": 0}
    split_everything(network, "tucker2", share=0.5)

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            expected["macs"] += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            expected["macs"] += module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in network.modules()]
    answer(network, picture(1))
    for hook in hooks:
        hook.remove()
    fixed_filter = 3 * 9 * 64 * 64 if name.startswith("lydite") else 0
    assert count_macs(network, 64) == expected["macs"] + fixed_filter
    stored = {n: t for n, t in network.state_dict().items() if "running" not in n and t.dim()}
    assert count_parameters(network) == sum(tensor.numel() for tensor in stored.values())


def test_an_ordinary_network_of_any_kind_is_split() -> None:
    class Other(Network):
        family = "other"

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 4, stride=4)
            self.wide = nn.Conv2d(16, 32, (3, 5), stride=(2, 1), padding=(1, 2), bias=False)
            self.deep = nn.Conv2d(32, 32, 3, groups=32)
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.mlp = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 2)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.deep(self.wide(self.stem(x)).relu()).flatten(2).transpose(1, 2)
            x = self.attention(x, x, x)[0].mean(1)
            return self.mlp[1](self.mlp[0](x).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network, x = Other().eval(), picture()
    layers = find_layers(network, "all", "spatial")
    assert [(layer.name, layer.methods) for layer in layers] == [
        ("wide", ("spatial",)),
        ("mlp.0", ("svd",)),
    ]
    expected = answer(network, x)
    for layer in layers:
        full = layer.split(layer.methods[0], full_ranks(layer.module, layer.methods[0]))
        factorize_(network, [edit_of(full, network)])
    assert torch.allclose(answer(network, x), expected, atol=1e-5)


# ------------------------------------------------------------------------------------- rate


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("name", NAMES)
def test_rate_is_reached_and_hardly_passed(name: str, rate: float, tmp_path: Path) -> None:
    parent = lived_in_detector(name)
    before = count_parameters(parent.network)
    made = Factorize(rate=rate).run(parent, context(tmp_path))
    removed = 1 - count_parameters(made.network) / before
    assert rate <= removed <= rate + 0.01
    assert count_parameters(parent.network) == before
    assert made.card.training["parameters_before"] == before
    assert made.card.training["parameters"] == count_parameters(made.network)
    assert made.card.training["macs"] == count_macs(made.network, 64)
    split = {edit.layer for edit in made.card.edits if hasattr(edit, "layer")}
    assert made.card.training["layers"] == len(split)
    assert not split & {"body.conv1", "body.0.conv", "patch", "classifier.logits"}


def test_impossible_rate_is_refused_with_the_most_that_goes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at most 0\.\d+ of the parameters go. Got 0.99"):
        Factorize(rate=0.99).outline(lived_in_detector(TINY))
    with pytest.raises(ConfigError, match="cannot be reached"):
        Factorize(rate=0.5, layers="linear").run(
            lived_in_detector("paper-student-1.8m"), context(tmp_path)
        )


def test_more_rate_means_more_error(tmp_path: Path) -> None:
    parent = lived_in_detector("paper-student-1.8m")
    made = [Factorize(rate=rate).run(parent, context(tmp_path)) for rate in (0.05, 0.5, 0.9)]
    errors = [float(one.card.training["largest_error"] or 0) for one in made]
    assert 0 < errors[0] < errors[1] < errors[2] < 1


def test_weights_of_low_rank_are_recovered_by_energy_and_vbmf(tmp_path: Path) -> None:
    parent = lived_in_detector("paper-student-0.9m")
    layer = parent.network.get_submodule("classifier.fc1")
    draw = torch.Generator().manual_seed(1)
    signal = torch.randn(128, 5, generator=draw) @ torch.randn(5, 256, generator=draw)
    layer.weight.data = signal + 0.3 * torch.randn(128, 256, generator=draw)
    for rank in ({"energy": 0.9}, "vbmf"):
        step = Factorize.model_validate({"rank": rank, "layers": ["classifier.fc1"]})
        (edit,) = step.run(parent, context(tmp_path)).card.edits
        assert edit == FactorizeLinear(layer="classifier.fc1", rank=5)


def test_rate_of_each_layer(tmp_path: Path) -> None:
    step = parse_step({"factorize": {"rank": {"rate": 0.75}, "method": "tucker2"}})
    parent = lived_in_detector("lydite-medium")
    made = step.run(parent, context(tmp_path))
    assert len(made.card.edits) == 8
    for edit in made.card.edits:
        assert isinstance(edit, FactorizeConv)
        full = parent.network.get_parameter(f"{edit.layer}.weight").numel()
        factors = made.network.get_submodule(edit.layer)
        left = sum(p.numel() for p in factors.parameters()) / full
        assert 0.18 < left <= 0.25


def test_number_is_the_rank_and_layers_that_grow_stay(tmp_path: Path) -> None:
    made = Factorize(rank=8, layers="conv").run(
        lived_in_detector("lydite-medium"), context(tmp_path)
    )
    found = {edit.layer: edit.ranks for edit in made.card.edits if isinstance(edit, FactorizeConv)}
    assert set(found.values()) == {(8, 8)}
    assert "body.0.conv" not in found
    with pytest.raises(ConfigError, match="would make no layer smaller with `rank` 500"):
        Factorize(rank=500).run(lived_in_detector(TINY), context(tmp_path))


def test_the_card_tells_what_happened_to_each_layer(tmp_path: Path) -> None:
    made = Factorize(rank=4, layers=("body.1.conv",)).run(
        lived_in_detector(TINY), context(tmp_path)
    )
    training = made.card.training
    assert training["body.1.conv"] == (
        f"tucker2, rank 4 x 4, 540 to {4 * 6 + 16 * 9 + 4 * 10} weights, "
        f"relative error {training['largest_error']:.4f}"
    )
    assert 0 < float(training["largest_error"] or 0) < 1
    assert made.card.score == ScoreMeaning()


# ------------------------------------------------------------------------------ the paper's


def test_the_papers_variant_is_a_bottleneck_of_six(tmp_path: Path) -> None:
    parent = lived_in_detector("paper-student-1.8m")
    made = Factorize(variant="paper").run(parent, context(tmp_path))
    (edit,) = made.card.edits
    assert edit == FactorizeLinear(
        layer="classifier.fc1", rank=6, bottleneck="relu-dropout", dropout=0.5
    )
    kinds = [type(m).__name__ for m in made.network.get_submodule("classifier.fc1").children()]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear"]
    removed = count_parameters(parent.network) - count_parameters(made.network)
    assert removed == 512 * 128 - 6 * (512 + 128)


def test_the_papers_variant_differs_even_at_full_rank(tmp_path: Path) -> None:
    parent, x = lived_in_detector("paper-student-1.8m"), picture()
    made = Factorize(variant="paper", rank=128, dropout=0.0).run(parent, context(tmp_path))
    assert not torch.allclose(answer(made.network, x), answer(parent.network, x), atol=1e-3)
    with pytest.raises(ConfigError, match=r"must be 1 to 128 for 'classifier.fc1'. Got 129"):
        Factorize(variant="paper", rank=129).outline(parent)
    with pytest.raises(ConfigError, match="finds nothing to split"):
        Factorize(variant="paper").outline(lived_in_detector(TINY))
    with pytest.raises(ConfigError, match=r"'classifier.fc1.reduce' is a part of it already"):
        Factorize(variant="paper").outline(made)


# ---------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 60}, r"must be in \(0, 1\) for `factorize`; use 0.9"),
        ({"rate": 0.5, "rank": 6}, "either `rate`"),
        ({"rank": {"energy": 1.0}}, "energy"),
        ({"rank": {"energy": 0.9, "rate": 0.5}}, "rate"),
        ({"rank": {"rate": 75}}, r"must be in \(0, 1\)"),
        ({"rank": "evbmf"}, "vbmf. Got 'evbmf'"),
        ({"rank": True}, "is a number, and true is none"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank": {}}, "must be a number"),
        ({"method": "cp"}, "method"),
        ({"dropout": 0.5}, "belongs to `variant: paper`"),
        ({"variant": "paper", "rate": 0.5}, "leave `rate`"),
        ({"variant": "paper", "rank": "vbmf"}, "`rank` as a number"),
        ({"sweeps": -1}, "sweeps"),
        ({"ranks": 3}, "ranks"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_step({"factorize": options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 0.6},
        {"rank": {"energy": 0.8}, "method": "spatial"},
        {"rank": {"rate": 0.8}, "layers": ["a", "b"]},
        {"rank": "vbmf"},
        {"variant": "paper", "rank": 3},
    ],
)
def test_options_survive_the_recipe(options: dict[str, Any]) -> None:
    step = parse_step({"factorize": options})
    assert parse_step(json.loads(json.dumps(step.spec()))) == step
    assert options.items() <= step.spec()["factorize"].items()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (("body.cov",), "layers` of factorize: Unknown layer 'body.cov'.*Available"),
        (("body.0.bn",), "Unknown layer"),
    ],
)
def test_unknown_layers_are_refused(layers: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Factorize(rate=0.1, layers=layers).outline(lived_in_detector(TINY))


def test_depthwise_layers_are_refused_by_name_and_left_alone_otherwise(tmp_path: Path) -> None:
    parent = lived_in_detector("paper-student-0.44m")
    with pytest.raises(ConfigError, match="'body.spatial3' cannot be split: it is a Depthwise"):
        Factorize(rate=0.1, layers=("body.spatial3",)).outline(parent)
    made = Factorize(rank=1).run(parent, context(tmp_path))
    assert {edit.layer for edit in made.card.edits if hasattr(edit, "layer")} == {
        *("body.point1", "body.point2", "body.point3", "body.point4", "body.point5"),
        "classifier.fc1",
    }


def test_untrained_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="`factorize` needs a trained network"):
        Factorize(rate=0.5).check(Stage("lydite-small"))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Factorize(rank="vbmf"), "known when it runs"),
        (Factorize(), "known when it runs"),
        (Factorize(variant="paper"), "ReLU"),
    ],
)
def test_the_plan_says_what_it_does_not_know(step: Factorize, words: str) -> None:
    stage = Stage("paper-baseline", trained=True)
    step.check(stage)
    assert words in stage.notes[0]


def test_outline_has_the_size_and_refuses_nothing_that_weights_decide(tmp_path: Path) -> None:
    start = Detector.start(Architecture(network="lydite-medium"))
    outline = Factorize(rate=0.6).outline(start)
    assert 0.38 < count_parameters(outline.network) / count_parameters(start.network) <= 0.4
    for step in (Factorize.model_validate({"rank": {"energy": 0.999}}), Factorize(rank="vbmf")):
        assert step.outline(start) is start
    trained = start.evolve(steps=({"train": {}},))
    half = Factorize.model_validate({"rank": {"energy": 0.5}})
    expected = count_parameters(half.run(trained, context(tmp_path)).network)
    assert count_parameters(half.outline(trained).network) == expected
    assert half.outline(start) is start
    stage = Stage("lydite-medium", trained=True)
    Factorize(rate=0.6).check(stage)
    assert stage.notes == []


def test_edits_of_others_are_refused_before_anything_changes() -> None:
    network = lived_in(TINY)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CardError, match="Unknown layer 'nowhere'"):
        factorize_(network, [FactorizeConv(layer="nowhere", method="svd", ranks=(1,))])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

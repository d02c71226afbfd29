"""Channel groups of timm networks, from a trace; skipped where timm or torch-pruning is missing."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lydite.card import Architecture
from lydite.compress.gates import gate_gradients
from lydite.compress.prune import Prune, keep_best, prune_edits
from lydite.detector import Detector
from lydite.edits import KeepSlices
from lydite.errors import ConfigError, MissingExtraError
from lydite.models import Network, build, dependency
from lydite.models.cost import count_parameters
from lydite.models.dependency import traced_groups
from lydite.models.surgery import edit_for, replay_
from lydite.recipe import Context, Stage

MISSING = [name for name in ("timm", "torch_pruning") if importlib.util.find_spec(name) is None]
needs_trace = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed (extra [timm])"
)

#: networks, and the groups that a LayerNorm reads across channels
NETWORKS = {
    "resnet18": set[str](),
    "mobilenetv4_conv_small": set[str](),
    "repvit_m0_9": set[str](),
    "convnext_atto": {"stem.0", *(f"stages.{n}.downsample.1" for n in (1, 2, 3))},
}
REBUILD = """
import json, sys
from pathlib import Path
import torch
sys.modules["torch_pruning"] = None
from lydite.detector import Detector
x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
with torch.no_grad():
    made = {folder: Detector.load(Path(folder)).network(x).tolist() for folder in sys.argv[1:]}
print(json.dumps(made))
"""


def fresh(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = build(Architecture(network=f"timm/{name}", input_size=64)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
    return network


def picture() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def context(folder: Path) -> Context:
    return Context(train=None, val=None, seed=0, folder=folder)  # type: ignore[arg-type]


@needs_trace
@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_whole(name: str) -> None:
    """Closing what the readers get of a channel, or cutting it out, gives the same logits."""
    network, x = fresh(name), picture()
    groups = network.groups()
    assert len(groups) > 10
    with torch.no_grad():
        before = network(x)
        for group in groups[:: max(1, len(groups) // 5)]:
            gone = range(0, group.size, 3)
            closed, cut = copy.deepcopy(network), copy.deepcopy(network)
            for member in group.members:
                if member.dim == 1:
                    weight = closed.get_parameter(member.tensor).data
                    for channel in gone:
                        first = member.offset + channel * member.repeat
                        weight[:, first : first + member.repeat] = 0
            keep = [c for c in range(group.size) if c not in gone]
            replay_(cut, [edit_for(cut, group, keep)])
            assert count_parameters(cut) < count_parameters(network)
            if group.name not in NETWORKS[name]:
                tolerance = 1e-4 * float(before.abs().max() + 1)
                assert torch.allclose(cut(x), closed(x), atol=tolerance), group.name


@needs_trace
@pytest.mark.parametrize(
    "name", ["ese_vovnet39b", pytest.param("densenet121", marks=pytest.mark.slow), "levit_128s"]
)
def test_all_groups_cut_in_one_replay_are_all_gates_closed(name: str) -> None:
    network, x = fresh(name), picture()
    closed, cut = copy.deepcopy(network), copy.deepcopy(network)
    groups = network.groups()
    scores = {g.name: np.arange(g.size) % 3 + 0.0 for g in groups}
    kept = {g.name: g.size - len(range(0, g.size, 3)) for g in groups}
    for group in groups:
        for member in group.members:
            if member.dim == 1:
                weight = closed.get_parameter(member.tensor).data
                for channel in range(0, group.size, 3):
                    first = member.offset + channel * member.repeat
                    weight[:, first : first + member.repeat] = 0
    replay_(cut, keep_best(cut, scores, kept))
    assert count_parameters(cut) < 0.8 * count_parameters(network)
    with torch.no_grad():
        expected = closed(x)
        torch.testing.assert_close(cut(x), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network(x), expected, rtol=1e-2, atol=1e-4)


@needs_trace
def test_groups_do_not_depend_on_the_weights_and_follow_a_cut() -> None:
    one, two = fresh("resnet18"), fresh("resnet18", seed=1)
    assert one.groups() == two.groups() == traced_groups(one)
    group = one.groups()[0]
    assert (group.name, group.size) == ("conv1", 64)
    replay_(one, [edit_for(one, group, range(10))])
    assert one.groups()[0].size == 10
    assert two.groups()[0].size == 64
    assert [g.name for g in one.groups()] == [g.name for g in two.groups()]


@needs_trace
def test_pruned_detectors_are_smaller_and_load_elsewhere_without_a_trace(tmp_path: Path) -> None:
    expected = {}
    for name in NETWORKS:
        parent = Detector.start(Architecture(network=f"timm/{name}", input_size=64))
        step = Prune(rate=0.7)
        step.check(Stage(f"timm/{name}", trained=True))
        child = step.run(parent, context(tmp_path))
        removed = 1 - count_parameters(child.network) / count_parameters(parent.network)
        assert 0.7 <= removed <= 0.75
        assert all(isinstance(edit, KeepSlices) for edit in child.card.edits)
        folder = tmp_path / name
        child.save(folder)
        assert (folder / "card.json").stat().st_size < 2**20
        with torch.no_grad():
            expected[str(folder)] = child.network.eval()(picture()).tolist()
    command = [sys.executable, "-W", "ignore", "-c", REBUILD, *expected]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for folder, logits in json.loads(output).items():
        np.testing.assert_allclose(logits, expected[folder], rtol=1e-5, atol=1e-6)


@needs_trace
def test_pruning_twice_replays_once() -> None:
    network = fresh("mobilenetv4_conv_small")
    first = prune_edits(network, 0.4)
    replay_(network, first)
    second = prune_edits(network, 0.4, scope="global")
    replay_(network, second)
    rebuilt = fresh("mobilenetv4_conv_small", seed=1)
    replay_(rebuilt, [*first, *second])
    rebuilt.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(picture()), network(picture()))


@needs_trace
@pytest.mark.parametrize(
    "name", ["mobilenetv4_conv_small", pytest.param("convnext_atto", marks=pytest.mark.slow)]
)
def test_pruned_network_exports(name: str, tmp_path: Path) -> None:
    import onnxruntime

    from lydite.export.onnx import to_onnx

    network = fresh(name)
    replay_(network, prune_edits(network, 0.6))
    session = onnxruntime.InferenceSession(to_onnx(network, 64))
    (found,) = session.run(None, {session.get_inputs()[0].name: picture().numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(picture()).numpy(), rtol=1e-3, atol=1e-4)


@needs_trace
def test_pruned_network_trains() -> None:
    network = fresh("repvit_m0_9").train()
    replay_(network, prune_edits(network, 0.6))
    network(picture()).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@needs_trace
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "convnext_atto"])
def test_gates_work_on_traced_groups(name: str) -> None:
    network, y = fresh(name), torch.tensor([0, 1])
    found = gate_gradients(network, network.groups(), picture(), y)
    torch.nn.functional.cross_entropy(network(picture()), y, reduction="sum").backward()
    for group in network.groups():
        total = torch.zeros(group.size)
        for member in group.members:
            if member.dim == 1:
                weight = network.get_parameter(member.tensor)
                total += (weight * weight.grad).transpose(0, 1).flatten(1).sum(1).detach()
        np.testing.assert_allclose(
            found[group.name].sum(axis=0), total.numpy(), rtol=2e-2, atol=1e-4
        )


@needs_trace
def test_attention_and_grouped_convolutions_stay_whole() -> None:
    names = {group.name for group in fresh("vit_tiny_patch16_224").groups()}
    assert "blocks.0.mlp.fc1" in names
    assert not any("attn" in name for name in names)
    tensors = {m.tensor for g in fresh("resnext50_32x4d").groups() for m in g.members}
    assert "model.layer1.0.conv2.weight" not in tensors


@needs_trace
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("build_dependency", "cannot be traced: KeyError: 'a node'. Use `distill`"),
        ("get_all_groups", "No channel group of this network of timm can be cut. Use `distill`"),
    ],
)
def test_a_trace_that_breaks_or_finds_nothing_is_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, method: str, said: str
) -> None:
    import torch_pruning

    def build_dependency(*_args: object, **_more: object) -> None:
        raise KeyError("a node")

    def get_all_groups(*_args: object) -> list[object]:
        return []

    parent = Detector.start(Architecture(network="timm/resnet18", input_size=64))
    monkeypatch.setattr(torch_pruning.DependencyGraph, method, locals()[method])
    with pytest.raises(ConfigError, match=said):
        Prune(rate=0.5).outline(parent)


class Plain(Network):
    """Two convolutions with a norm between them, and a sum that asks for an even width."""

    family = "plain"
    traced_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 1)
        self.logits = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.norm(self.first(x)))
        if hidden.shape[1] != 6:
            raise KeyError("six channels")
        return self.logits(hidden.mean((2, 3)))


class Traced:
    """Stands for torch-pruning's graph of `Plain`; like a real trace it leaves something behind."""

    def build_dependency(self, network: Plain, x: torch.Tensor, **_more: object) -> Traced:
        network.seen = network(x)  # no leaf of autograd
        self.network = network
        return self

    def is_out_channel_pruning_fn(self, handler: str) -> bool:
        return handler == "out"

    def item(self, target: object, handler: str, size: int, dim: int = 0) -> SimpleNamespace:
        node = SimpleNamespace(module=target, pruning_dim=dim)
        dep = SimpleNamespace(target=node, handler=handler)
        return SimpleNamespace(dep=dep, root_idxs=[*range(size)], idxs=[*range(size)])

    def get_all_groups(self) -> Iterator[list[SimpleNamespace]]:
        net = self.network
        yield [
            self.item(net.first, "out", 8),
            self.item(net.norm, "out", 8),
            self.item(net.second, "in", 8),
        ]
        yield [self.item(net.second, "out", 6), self.item(net.logits, "in", 6)]


def test_a_trace_s_leavings_and_any_error_of_a_trial_cut_are_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = SimpleNamespace(DependencyGraph=Traced)
    monkeypatch.setattr(dependency, "_import_torch_pruning", lambda: library)
    network = Plain()
    (group,) = traced_groups(network)
    assert (group.name, group.size, group.scored) == ("first", 8, ("first.weight",))
    assert not hasattr(network, "seen")
    assert network.training


def test_channels_that_only_a_bare_tensor_runs_along_are_read_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unread(Traced):
        def get_all_groups(self) -> Iterator[list[SimpleNamespace]]:
            first, *others = super().get_all_groups()
            scale = self.item(self.network.scale, "out", 6, dim=1)
            yield first
            yield [others[0][0], scale]

    library = SimpleNamespace(DependencyGraph=Unread)
    monkeypatch.setattr(dependency, "_import_torch_pruning", lambda: library)
    monkeypatch.setattr(dependency, "_runs", lambda _network, _groups: True)
    network = Plain()
    network.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
    assert [group.name for group in traced_groups(network)] == ["first"]


def test_missing_torch_pruning_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"torch-pruning.*pip install 'lydite\[timm\]'"):
        traced_groups(build(Architecture(network="lydite-small")))

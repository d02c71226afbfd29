"""A structure that was translated before gives the bytes that translating it anew would give."""

from __future__ import annotations

import importlib.util
import sys
from collections import OrderedDict
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.edits import AddAdapter
from lydite.errors import MissingExtraError
from lydite.export import onnx as exporting
from lydite.export import translate as translating
from lydite.export.onnx import quiet, to_onnx
from lydite.export.translate import structure_of
from lydite.models import Network, build
from lydite.models.surgery import add_adapter_

TINY = {"widths": [4, 8]}
KINDS = ("highpass", "none", "npr", "bayar", "wavelet")


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> OrderedDict[str, bytes]:
    """Return the memory of a process that has exported nothing yet."""
    empty: OrderedDict[str, bytes] = OrderedDict()
    monkeypatch.setattr(translating, "_graphs", empty)
    return empty


def small(seed: int, residual: str = "highpass", name: str = "lydite-small") -> Network:
    torch.manual_seed(seed)
    config: dict[str, Any] = {"residual": residual}
    if name.startswith("lydite"):
        config |= TINY
    network = build(Architecture(network=name, input_size=64, config=config))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def directly(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Return what torch's exporter makes in one go."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        return translating._exporter(network, (example,), dynamic_shapes=shapes).model_proto


def structure(network: nn.Module, size: int = 64) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    example = torch.zeros(2, 3, size, size)
    with quiet(), torch.no_grad():
        program = torch.export.export(
            network.eval(), (example,), dynamic_shapes=shapes, strict=False
        )
        return structure_of(program)


@pytest.mark.parametrize("residual", ["highpass", "bayar"])
def test_the_bytes_are_those_of_torchs_exporter(
    residual: str, graphs: OrderedDict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [to_onnx(small(seed, residual), 64) for seed in (0, 1)]
    assert len(graphs) == 1
    monkeypatch.setattr(exporting, "translate", directly)
    assert made == [to_onnx(small(seed, residual), 64) for seed in (0, 1)]
    assert made[0] != made[1]


def test_adapters_have_their_names_the_second_time_too(
    graphs: OrderedDict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapted(seed: int) -> Network:
        network = small(seed)
        stage = network.stages()[0]
        add_adapter_(network, AddAdapter(after=stage, kind="separable", channels=4), seed)
        return network.eval()

    made = [to_onnx(adapted(seed), 64) for seed in (0, 1)]
    assert len(graphs) == 1
    monkeypatch.setattr(exporting, "translate", directly)
    assert made == [to_onnx(adapted(seed), 64) for seed in (0, 1)]


def test_weights_do_not_decide_and_what_a_network_sees_does() -> None:
    assert structure(small(0)) == structure(small(1))
    assert len({structure(small(0, residual)) for residual in KINDS}) == len(KINDS)


class Odd(nn.Module):
    """Depends on a number and on a tensor beside the weights."""

    def __init__(self, factor: float, constant: float) -> None:
        super().__init__()
        self.factor = factor
        self.layer = nn.Linear(3, 2)
        self.register_buffer("constant", torch.full((3,), constant), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean((2, 3)) * self.constant) * self.factor


def test_numbers_constants_and_the_size_of_the_input_decide() -> None:
    odd = [Odd(2.0, 2.0), Odd(3.0, 2.0), Odd(2.0, 3.0)]
    assert len({*map(structure, odd), structure(odd[0], 32)}) == 4


def test_graphs_are_remembered_without_weights(graphs: OrderedDict[str, bytes]) -> None:
    network = build(Architecture(network="lydite-large", input_size=64)).eval()
    data = to_onnx(network, 64)
    assert len(next(iter(graphs.values()))) < len(data) / 5


def test_old_graphs_are_forgotten(
    graphs: OrderedDict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translating, "REMEMBERED", 2)
    first = to_onnx(Odd(1.0, 1.0), 64)
    assert to_onnx(Odd(2.0, 1.0), 64) != first
    kept = list(graphs)
    to_onnx(Odd(1.0, 1.0), 64)  # used again, and so the newest
    to_onnx(Odd(3.0, 1.0), 64)
    assert list(graphs)[:1] == kept[:1]
    assert len(graphs) == 2


def test_what_cannot_be_captured_so_is_left_to_torchs_exporter(
    graphs: OrderedDict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = to_onnx(small(0), 64)
    graphs.clear()

    def refuse(_program: Any) -> str:
        raise TypeError("a constant that is no tensor: c_0")

    monkeypatch.setattr(translating, "structure_of", refuse)
    assert to_onnx(small(0), 64) == expected
    assert not graphs


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert translating.__file__ is not None
    spec = importlib.util.spec_from_file_location("anew", translating.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(MissingExtraError, match=rf"This needs {package}, .*'lydite\[train\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

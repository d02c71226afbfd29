"""Float export: same answers, same bytes, nothing of the machine that exported."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lydite.card import Architecture
from lydite.detector import Detector
from lydite.export.onnx import export, to_onnx
from lydite.export.translate import INPUT_NAME, OPSET, OUTPUT_NAME
from lydite.models import NETWORKS, Network, build

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})


def lively(architecture: Architecture) -> Network:
    """Return a network with batch-norm statistics that folding has to get right."""
    torch.manual_seed(3)
    network = build(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def tiny_file() -> bytes:
    return to_onnx(lively(TINY), 64)


def run(data: bytes, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})
    return np.asarray(logits)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_answers_alike_at_any_batch(name: str) -> None:
    network = lively(Architecture(network=name, input_size=64))
    data = to_onnx(network, 64)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x).numpy()
    for count in (1, 3):
        np.testing.assert_allclose(run(data, x[:count].numpy()), expected[:count], atol=2e-5)
    operators = {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert "BatchNormalization" not in operators


def test_equal_weights_give_equal_bytes_and_others_do_not(tiny_file: bytes) -> None:
    network = lively(TINY)
    detector = dataclasses.replace(Detector.start(TINY), network=network)
    assert export(detector) == tiny_file
    with torch.no_grad():
        network.patch.bias += 1e-3
    assert export(detector) != tiny_file


def test_the_network_stays_as_it_was() -> None:
    network = lively(TINY).train()
    network.patch.eval()  # a frozen part keeps its own mode
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    to_onnx(network, 64)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_file_says_nothing_of_the_machine(tiny_file: bytes) -> None:
    data = tiny_file
    for trace in (str(Path(torch.__file__).parent), str(Path.home()), ".py", "site-packages"):
        assert trace.encode() not in data
    model = onnx.load_from_string(data)
    items = [model, model.graph, *model.graph.node, *model.graph.initializer]
    items += [*model.graph.input, *model.graph.output]
    assert not any(item.doc_string or list(item.metadata_props) for item in items)
    assert not list(model.graph.value_info)
    assert model.producer_name == "lydite"


def test_names_follow_from_the_place_in_the_graph(tiny_file: bytes) -> None:
    model = onnx.load_from_string(tiny_file)
    graph = model.graph
    assert [entry.version for entry in model.opset_import] == [OPSET]
    assert [value.name for value in graph.input] == [INPUT_NAME]
    assert [value.name for value in graph.output] == [OUTPUT_NAME]
    outputs = [name for node in graph.node for name in node.output]
    assert outputs[:4] == ["pad_0", "conv_0", "conv_1", "relu_0"]
    assert len(set(outputs)) == len(outputs)
    names = {tensor.name for tensor in graph.initializer}
    assert {"body.0.conv.weight", "patch.weight", "patch.bias"} <= names


def test_pruned_widths_keep_the_names_of_tensors(tiny_file: bytes) -> None:
    narrow = Architecture(network="lydite-small", input_size=64, config={"widths": [3, 5]})

    def names(data: bytes) -> list[str]:
        return [name for node in onnx.load_from_string(data).graph.node for name in node.output]

    assert names(to_onnx(lively(narrow), 64)) == names(tiny_file)


def test_exporting_prints_and_warns_nothing(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    level = logging.root.manager.disable
    to_onnx(lively(TINY), 64)
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if "torch" in str(warning.filename)]
    assert logging.root.manager.disable == level

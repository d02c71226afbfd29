"""The paper's networks against its own table."""

from __future__ import annotations

import pytest
import torch

from lydite.card import Architecture
from lydite.models import build
from lydite.models.chain import Depthwise
from lydite.models.cost import count_macs, count_parameters
from lydite.models.vgg import TABLES, Separable, Table, Vgg, scaled_table

#: name, parameters, of which convolutional, GMAC, number of convolutions that an adapter may follow
PAPER = [
    ("paper-baseline", 4_590_786, 2_918_592, 8.53, 8),
    ("paper-student-1.8m", 1_800_066, 980_352, 0.81, 7),
    ("paper-student-1.34m", 1_340_418, 537_216, 0.66, 6),
    ("paper-student-0.9m", 902_146, 500_352, 0.66, 7),
    ("paper-student-0.44m", 441_378, 39_584, 0.18, 5),
]


@pytest.mark.parametrize(("name", "parameters", "convolutional", "gmac", "stages"), PAPER)
def test_counts_are_the_papers(
    name: str, parameters: int, convolutional: int, gmac: float, stages: int
) -> None:
    with torch.device("meta"):
        network = build(Architecture(network=name, input_size=224))
    assert isinstance(network, Vgg)
    assert count_parameters(network) == parameters
    assert sum(p.numel() for p in network.body.parameters()) == convolutional
    assert round(count_macs(network, 224) / 1e9, 2) == gmac
    assert len(network.stages()) == stages


@pytest.mark.parametrize(
    ("name", "removed"),
    [(PAPER[1][0], 60.8), (PAPER[2][0], 70.8), (PAPER[3][0], 80.3), (PAPER[4][0], 90.4)],
)
def test_students_remove_what_the_paper_says(name: str, removed: float) -> None:
    with torch.device("meta"):
        student = build(Architecture(network=name, input_size=224))
    assert round(100 * (1 - count_parameters(student) / 4_590_786), 1) == removed


@pytest.mark.parametrize("size", [64, 96, 128])
def test_flattened_map_follows_the_input(size: int) -> None:
    network = build(Architecture(network="paper-student-0.44m", input_size=size)).eval()
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 2)
    assert network.get_parameter("classifier.fc1.weight").shape == (128, 64 * (size // 32) ** 2)


def test_smallest_student_convolves_in_the_papers_groups() -> None:
    network = build(Architecture(network="paper-student-0.44m"))
    spatial = [network.get_submodule(f"body.spatial{n}") for n in range(1, 6)]
    shapes = [(m.in_channels, m.out_channels, m.groups) for m in spatial]
    assert shapes == [(3, 32, 1), (32, 64, 32), (64, 64, 64), (64, 128, 64), (128, 128, 128)]


def test_pruning_follows_both_outputs_of_a_grouped_input() -> None:
    network = build(Architecture(network="paper-student-0.44m"))
    group = {g.name: g for g in network.groups()}["point1"]
    repeats = {m.tensor: m.repeat for m in group.members}
    assert repeats["body.spatial2.weight"] == 2
    assert repeats["body.point2.weight"] == 2
    assert repeats["body.bn1.weight"] == 1


def test_depthwise_is_an_ordinary_grouped_convolution() -> None:
    layer = Depthwise(4, 2)
    x = torch.randn(1, 4, 8, 8)
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1, groups=4)
    assert torch.equal(layer(x), plain)


def test_golden_logits_of_a_tiny_network() -> None:
    network = Vgg(Table("tiny", (4, "P", Separable(8, 4), "P"), (5,)), 8).eval()
    with torch.no_grad():
        for number, tensor in enumerate(network.parameters()):
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) + number).reshape(tensor.shape))
    x = torch.cos(torch.arange(2 * 3 * 8 * 8) * 0.7).reshape(2, 3, 8, 8)
    expected = torch.tensor([[2.45587, 1.236584], [4.486542, 0.457643]])
    assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(TABLES))
def test_width_one_is_the_papers_table(name: str) -> None:
    assert scaled_table(TABLES[name], 1.0) == TABLES[name]
    torch.manual_seed(0)
    plain = build(Architecture(network=name)).state_dict()
    torch.manual_seed(0)
    spelled = build(Architecture(network=name, config={"width": 1.0})).state_dict()
    assert all(torch.equal(value, spelled[key]) for key, value in plain.items())


def test_widths_are_multiples_of_eight_and_at_least_eight() -> None:
    table = Table("", (32, "P", 128, Separable(256, 200), "P"), (256, 20))
    assert scaled_table(table, 0.3) == Table("", (8, "P", 40, Separable(80, 64), "P"), (80, 8))
    assert scaled_table(table, 0.01) == Table("", (8, "P", 8, Separable(16, 8), "P"), (8, 8))


@pytest.mark.parametrize("width", [0.1, 0.3, 0.75, 1.5])
def test_separable_networks_stay_separable(width: float) -> None:
    network = build(Architecture(network="paper-student-0.44m", config={"width": width})).eval()
    spatial = [network.get_submodule(f"body.spatial{n}") for n in range(1, 6)]
    assert [isinstance(m, Depthwise) for m in spatial] == [False, True, True, True, True]
    assert [m.multiplier for m in spatial[1:] if isinstance(m, Depthwise)] == [2, 1, 2, 1]
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)

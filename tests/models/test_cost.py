"""Multiply-adds against a count by hand from the shapes of a real forward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.models import Network, build
from lydite.models.cost import count_macs, count_parameters


def macs_by_hooks(network: Network, size: int) -> int:
    total = 0

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("name", "fixed_filter"),
    [
        ("paper-student-1.8m", 0),
        ("paper-student-0.44m", 0),
        ("lydite-small", 3 * 9 * 64 * 64),
    ],
)
def test_macs_equal_a_count_by_hand(name: str, fixed_filter: int) -> None:
    network = build(Architecture(network=name))
    assert count_macs(network, 64) == macs_by_hooks(network, 64) + fixed_filter


def test_counting_leaves_the_network_alone() -> None:
    network = build(Architecture(network="lydite-small")).train()
    before = copy.deepcopy(network.state_dict())
    count_macs(network, 64)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_parameters_are_weights_biases_and_norms() -> None:
    class Tiny(Network):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    assert count_parameters(Tiny()) == 3 * 4 * 9 + 4 + 4 + 4

"""What is frozen stays as it is, and only until it is let go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lydite.training.freezing import Freeze


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Dropout())


def test_norms_without_learning_parameters_rest() -> None:
    net = network()
    freeze = Freeze(net, {"2.weight"})
    net.train()
    freeze.rest_()
    assert [m.training for m in net] == [True, False, True, True]
    assert (freeze.learning, freeze.size) == ([net[2].weight], 8)
    before = net[1].running_mean.clone()
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    assert torch.equal(net[1].running_mean, before)
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {"2.weight"}


@pytest.mark.parametrize("name", ["1.weight", "1.bias"])
def test_a_norm_that_learns_counts_on(name: str) -> None:
    net = network()
    freeze = Freeze(net, {name})
    net.train()
    freeze.rest_()
    assert net[1].training


def test_a_norm_without_parameters_rests() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    Freeze(net.train(), {"0.weight"}).rest_()
    assert not net[1].training


def test_frozen_norms_rest_although_they_learn() -> None:
    net = network()
    freeze = Freeze(net, None, norms=True)
    net.train()
    freeze.rest_()
    assert [m.training for m in net] == [True, False, True, True]
    before = net[1].running_mean.clone()
    net(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert torch.equal(net[1].running_mean, before)
    assert len(freeze.learning) == 6
    assert all(p.grad is not None for p in freeze.learning)


def test_frozen_norms_rest_beside_frozen_layers() -> None:
    net = network()
    freeze = Freeze(net, {"1.weight", "2.weight"}, norms=True)
    net.train()
    freeze.rest_()
    assert not net[1].training
    assert len(freeze.learning) == 2


def test_undoing_restores_what_learned_before() -> None:
    net = network()
    net[0].bias.requires_grad_(False)
    freeze = Freeze(net, {"2.weight"})
    freeze.undo_()
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["0.bias"]


def test_nothing_is_frozen_unless_asked() -> None:
    net = network()
    freeze = Freeze(net, None)
    net.train()
    freeze.rest_()
    assert all(m.training for m in net)
    assert len(freeze.learning) == 6


@pytest.mark.parametrize("names", [set(), {"9.weight"}])
def test_names_of_nothing_are_our_own_mistake(names: set[str]) -> None:
    with pytest.raises(AssertionError):
        Freeze(network(), names)

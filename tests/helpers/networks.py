"""Networks that behave like trained ones, without training, and something to show them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.detector import Detector
from lydite.models import Network, build


def lived_in(architecture: Architecture | str) -> Network:
    """Return a network through which signals pass, whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = build(_described(architecture)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3)
    return network


def lived_in_detector(architecture: Architecture | str) -> Detector:
    """Return a detector around such a network."""
    described = _described(architecture)
    return Detector.start(described).evolve(network=lived_in(described))


def picture(n: int = 2, size: int = 64) -> Tensor:
    """Return (n, 3, size, size) normal noise, always the same."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def answer(network: Network, x: Tensor) -> Tensor:
    """Return a network's logits in evaluation mode."""
    return network.eval()(x)  # type: ignore[no-any-return]


def _described(architecture: Architecture | str) -> Architecture:
    if isinstance(architecture, str):
        return Architecture(network=architecture)
    return architecture

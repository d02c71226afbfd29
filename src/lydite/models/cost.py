"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from lydite.models.contract import Network


def count_parameters(network: Network) -> int:
    """Return the number of learned values: weights, biases, and batch norm's scale and shift."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: Network, size: int) -> int:
    """Return the multiply-adds for one image, of convolutions and matrix products.

    Biases, norms and activations are not counted, as is usual. The network runs once on shapes
    alone, without values.

    Args:
        network: any network; it stays as it is.
        size: side of the input in pixels.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2

"""A student sized for a rate: the teacher's own network, made as narrow as the rate asks.

Pure functions on shapes.
"""

from __future__ import annotations

import math

import torch

from lydite.card import Architecture
from lydite.errors import ConfigError
from lydite.models import NETWORKS, build
from lydite.models.cost import count_parameters

#: shares of the width that are tried
STEPS = 1000


def student_for_rate(architecture: Architecture, parameters: int, rate: float) -> Architecture:
    """Return the widest network of a family that has `rate` fewer parameters than the teacher.

    Every width is multiplied by one share, in thousandths, and rounded as the family does.

    Args:
        architecture: of the teacher, before any edit.
        parameters: how many the teacher has.
        rate: share of them to save at least, in (0, 1).

    Raises:
        ConfigError: the family has no widths to scale, or its narrowest network is too large.
    """
    name = architecture.network
    scaled = NETWORKS.get(name).scaled if name in NETWORKS else None
    if scaled is None:
        raise ConfigError(
            f"`student: auto` of distill cannot scale {name}: its widths are fixed. Name a "
            "`student` of `lydite models` instead."
        )
    allowed = math.floor(parameters * (1 - rate) + 1e-9)

    def count(share: int) -> int:
        return _parameters(scaled(architecture, share / STEPS))

    fewest = count(1)
    if fewest > allowed:
        most = max(0, math.floor((1 - fewest / parameters) * 1000)) / 1000
        raise ConfigError(
            f"`rate` of distill cannot be reached with `student: auto`: the narrowest {name} saves "
            f"{most} of the teacher's {parameters:,} parameters. Got {rate}. Use a smaller `rate` "
            "or another `student`."
        )
    low, high = 1, STEPS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= allowed else (low, middle)
    return scaled(architecture, low / STEPS)


def _parameters(architecture: Architecture) -> int:
    """Return the number of a network's parameters, from shapes alone."""
    with torch.device("meta"):
        return count_parameters(build(architecture))

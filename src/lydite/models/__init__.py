"""Networks by name: the paper's, our own, and any of timm."""

from __future__ import annotations

from lydite.card import Architecture
from lydite.models import residual, vgg
from lydite.models.contract import NETWORKS, Builder, ChannelGroup, Member, Network, NetworkInfo

__all__ = [
    "NETWORKS",
    "Builder",
    "ChannelGroup",
    "Member",
    "Network",
    "NetworkInfo",
    "build",
    "describe",
    "residual",
    "vgg",
]

TIMM_PREFIX = "timm/"


def build(architecture: Architecture) -> Network:
    """Return a network with fresh weights, drawn from torch's global generator.

    >>> build(Architecture(network="lydite-small")).family
    'lydite'

    Raises:
        ConfigError: the name is unknown, or the input size or a key of `config` does not fit.
        MissingExtraError: a network of timm was asked for and timm is not installed.
    """
    if architecture.network.startswith(TIMM_PREFIX):
        from lydite.models.timm import build_timm

        return build_timm(architecture)
    return NETWORKS.get(architecture.network).build(architecture)


def describe() -> list[NetworkInfo]:
    """Return what every registered network promises, by name."""
    return [NETWORKS.get(name).info for name in NETWORKS]

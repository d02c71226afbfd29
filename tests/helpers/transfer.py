"""Detectors to transfer, contexts that can be killed, and what a step has changed."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from helpers.networks import lived_in_detector
from lydite.card import Architecture
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.recipe import Context


class Killed(Exception):
    """Stands for a kill between two steps."""


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    """Return the context of a step that is killed after so many training steps, or never."""

    def progress(_what: str, done: int, _total: int, _note: str) -> None:
        if done == kill_at:
            raise Killed

    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, progress=progress, device="cpu")


def trained(architecture: Architecture) -> Detector:
    """Return a detector with weights, biases and running statistics of all kinds."""
    detector = lived_in_detector(architecture)
    for module in detector.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.fill_(7)
    return detector


def changed(before: Detector, after: Detector) -> set[str]:
    """Return the names of the tensors of `after` that differ from those of `before` in any bit."""
    old, new = _bytes(before), _bytes(after)
    return {name for name, value in new.items() if value != old.get(name)}


def _bytes(detector: Detector) -> dict[str, bytes]:
    """Return the bytes of every tensor: 0.0 and -0.0 are not the same."""
    return {n: v.contiguous().numpy().tobytes() for n, v in detector.network.state_dict().items()}

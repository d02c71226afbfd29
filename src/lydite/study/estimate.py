"""How long training will take: a second of real training steps per network, here and now."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F  # noqa: N812

from lydite.card import Architecture
from lydite.models import build
from lydite.training.device import autocast_for, number_format, place_

_BATCH = 16
_REPEATS = 3


class Speedometer:
    """Measures training speed of networks, each once."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def seconds(self, images: int, before: Architecture, after: Architecture) -> float:
        """Return the expected seconds of a training step.

        Args:
            images: how many images it trains on.
            before: the network it starts from, less its edits.
            after: the network it trains; another one where a teacher distills into a student.
        """
        if images == 0:
            return 0.0
        seconds = images / self.images_per_second(after)
        if before != after:
            # a teacher runs forward only: about a third of a training step
            seconds += images / self.images_per_second(before) / 3
        return seconds

    def images_per_second(self, architecture: Architecture) -> float:
        """Return how many images a second a network trains on."""
        key = architecture.model_dump_json()
        if key not in self._known:
            self._known[key] = _measure(architecture)
        return self._known[key]


def _measure(architecture: Architecture) -> float:
    """Time a few training steps on random images; the fastest counts."""
    device = torch.device(number_format()[0])
    with torch.random.fork_rng(devices=[]):
        network = place_(build(architecture), device, torch.channels_last).train()
        side = architecture.input_size
        images = torch.randn(_BATCH, 3, side, side, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        targets = torch.arange(_BATCH, device=device) % 2
        best = float("inf")
        for _ in range(_REPEATS):
            started = time.perf_counter()
            with autocast_for(device, network):
                loss = F.cross_entropy(network(images).float(), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            float(loss.detach())  # waits for the device
            best = min(best, time.perf_counter() - started)
    return _BATCH / best

"""How long training will take: a second of real training steps per network, here and now."""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F  # noqa: N812

from lydite.detector import Detector
from lydite.files import digest
from lydite.training.device import autocast_for, number_format, place_

_BATCH = 16
_REPEATS = 3


class Speedometer:
    """Measures training speed of networks, each once."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def seconds(self, images: int, before: Detector, after: Detector) -> float:
        """Return the expected seconds of a training step.

        Args:
            images: how many images it trains on.
            before: outline of what it starts from.
            after: outline of what it gives; another network where a teacher distills a student.
        """
        if images == 0:
            return 0.0
        seconds = images / self.images_per_second(after)
        if before.card.architecture != after.card.architecture:
            # a teacher runs forward only: about a third of a training step
            seconds += images / self.images_per_second(before) / 3
        return seconds

    def images_per_second(self, detector: Detector) -> float:
        """Return how many images a second a network trains on."""
        card = detector.card
        edits = [edit.model_dump(mode="json") for edit in card.edits]
        key = digest([card.architecture.model_dump(mode="json"), edits])
        if key not in self._known:
            self._known[key] = _measure(detector)
        return self._known[key]


def _measure(detector: Detector) -> float:
    """Time a few training steps on random images; the fastest counts."""
    device = torch.device(number_format()[0])
    with torch.random.fork_rng(devices=[]):
        network = place_(copy.deepcopy(detector.network), device, torch.channels_last).train()
        side = detector.card.preprocess.size
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

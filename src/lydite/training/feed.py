"""From batches on disk to the device: loaded in the background, normalized where training runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lydite.errors import TrainingError
from lydite.training.batches import Batches, Loaded

LOADER_TIMEOUT_S = 120.0


class Feed:
    """Gives a run's batches in order; while one is used, the next is loaded.

    Args:
        batches: where they come from.
        fabric: where they go.
        total: steps of the run.
    """

    def __init__(self, batches: Batches, fabric: Fabric, total: int) -> None:
        self.batches, self.fabric, self.total = batches, fabric, total
        self.normalize = Normalizer(batches, fabric.device)
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: tuple[int, Future[Loaded]] | None = None
        self._hangs = False

    def __enter__(self) -> Feed:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lydite-loader")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._pool is not None, "left without having been entered"
        # what hangs is not waited for: then nobody would ever read which file it is
        hangs = isinstance(error, TrainingError) and self._hangs
        self._pool.shutdown(wait=not hangs, cancel_futures=True)
        self._pool = self._waiting = None

    def take(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a step's batch on the device: input, the same undegraded, targets.

        Raises:
            DataError: an image cannot be read.
            TrainingError: loading it takes longer than `LOADER_TIMEOUT_S`.
        """
        if self._waiting is None or self._waiting[0] != step:
            self._waiting = step, self._fetch(step)
        waiting = self._waiting[1]
        try:
            loaded = waiting.result(timeout=LOADER_TIMEOUT_S)
        except FutureTimeoutError:
            self._hangs = True
            names = [str(self.batches.file_at(p)) for p in self.batches.positions(step)]
            raise TrainingError(
                f"Loading a batch took over {LOADER_TIMEOUT_S:.0f} s. One of these files hangs: "
                + ", ".join(names)
            ) from None
        self._waiting = (step + 1, self._fetch(step + 1)) if step + 1 < self.total else None
        return *self.on_device(loaded), torch.from_numpy(loaded.targets).to(self.fabric.device)

    def on_device(self, loaded: Loaded) -> tuple[Tensor, Tensor]:
        """Return a batch's input and the same undegraded."""
        images = self.normalize(loaded.crops)
        return images, images if loaded.clean is loaded.crops else self.normalize(loaded.clean)

    def _fetch(self, step: int) -> Future[Loaded]:
        """Start loading this process's part of a step's batch in the background."""
        assert self._pool is not None, "enter the feed first"
        rank, world = self.fabric.global_rank, self.fabric.world_size
        return self._pool.submit(self.batches.fetch, self.batches.positions(step, rank, world))


class Normalizer:
    """Preprocessing's normalization on the device: uint8 (B, S, S, 3) to float (B, 3, S, S)."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        preprocess = batches.preprocess
        std = torch.tensor(preprocess.std)
        self.scale = (1.0 / (255.0 * std)).to(device).view(1, 3, 1, 1)
        self.shift = (torch.tensor(preprocess.mean) / std).to(device).view(1, 3, 1, 1)
        self.device = device

    def __call__(self, crops: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        """Return what networks take."""
        tensor = torch.from_numpy(crops).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        values = tensor.float() * self.scale - self.shift
        return values.contiguous(memory_format=torch.channels_last)

"""The loss on validation images during training, always on the same crops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from lightning_fabric import Fabric
from torch import Tensor, nn

from lydite.card import Preprocess
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.errors import DataError
from lydite.training.batches import Batches, Loaded, UInt8
from lydite.training.settings import TrainSettings


class Watch:
    """Crops of validation images, classes and domains in equal shares, and the loss on them.

    Args:
        val: validation images.
        preprocess: of the detector.
        settings: of the training; crops are cut as there, but neither mirrored nor degraded.
        seed: of the step.
        crops: how many.

    Raises:
        DataError: a class is missing.
    """

    def __init__(
        self,
        val: Manifest,
        preprocess: Preprocess,
        settings: TrainSettings,
        seed: int,
        crops: int,
    ) -> None:
        fakes = int(val.targets.sum())
        if not 0 < fakes < len(val):
            raise DataError(
                "`swad` watches the loss on validation images of both classes. "
                f"Got {len(val) - fakes} real and {fakes} fake."
            )
        plain = TrainSettings(batch=settings.batch, crop=settings.crop, flip=False)
        self.batches = Batches(val, preprocess, plain, seed, ImageStore())
        self.count = math.ceil(crops / settings.batch)
        self._loaded: list[Loaded] = []

    @torch.no_grad()
    def loss(
        self, network: nn.Module, normalize: Callable[[UInt8], Tensor], fabric: Fabric
    ) -> float:
        """Return the mean cross-entropy over all crops, the same number on every device.

        Args:
            network: gives logits (N, 2); left in evaluation mode.
            normalize: puts crops on the device.
            fabric: the devices that share the work.

        Raises:
            DataError: an image cannot be read.
        """
        if not self._loaded:
            rank, world = fabric.global_rank, fabric.world_size
            places = (self.batches.positions(step, rank, world) for step in range(self.count))
            self._loaded = [self.batches.fetch(positions) for positions in places]
        network.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for loaded in self._loaded:
            images = normalize(loaded.crops)
            with fabric.autocast():
                logits = cast(Tensor, network(images)).float()
            targets = torch.from_numpy(loaded.targets).to(logits.device)
            total[0] += F.cross_entropy(logits, targets, reduction="sum").double().cpu()
            total[1] += len(targets)
        summed = cast(Tensor, fabric.all_reduce(total.to(fabric.device), reduce_op="sum")).cpu()
        return float(summed[0] / summed[1])

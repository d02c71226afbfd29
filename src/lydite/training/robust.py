"""Learning most from the group that does worst: group DRO.

Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts" (arXiv 1911.08731),
algorithm 1: every group has a weight, which grows exponentially with the group's loss, and what is
minimized is the weighted sum of the groups' losses. A group is here one label in one domain, so
that a generator which is hard to tell is not given up for those that are easy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from lydite.data.manifest import Row
from lydite.errors import ResumeError
from lydite.training.batches import Loaded
from lydite.training.mixed import MixedBatches


@dataclass(frozen=True, order=True)
class Group:
    """Images of one label in one domain.

    Attributes:
        domain: as the manifest has it.
        target: 1 for fake and 0 for real.
        label: in words.
    """

    domain: str
    target: int
    label: str

    @classmethod
    def of(cls, row: Row) -> Group:
        """Return the group of an image."""
        return cls(row.domain, row.target, row.label)


class GroupedBatches(MixedBatches):
    """Makes batches whose targets are numbers of groups, which say more than labels.

    Takes what `MixedBatches` takes, but no unlabeled images.
    """

    @functools.cached_property
    def groups(self) -> list[Group]:
        """All groups, in the order of their numbers."""
        return sorted({Group.of(row) for row in self.rows})

    def fetch(self, positions: Sequence[int]) -> Loaded:
        """Return the crops of global sample numbers; targets are numbers of groups.

        Raises:
            DataError: an image cannot be read any more; the message names the file.
        """
        loaded = super().fetch(positions)
        numbers = {group: number for number, group in enumerate(self.groups)}
        targets = [numbers[Group.of(self.row_at(position))] for position in positions]
        return replace(loaded, targets=np.array(targets, dtype=np.int64))


class Sums(Protocol):
    """What is needed of Fabric: sums over devices."""

    def all_reduce(self, data: Tensor, *, reduce_op: str) -> object:
        """Return the sum over all devices."""
        ...


class GroupWeights:
    """The weights of groups during a run.

    A step goes: `begin_`, then `weighted` on one or several pieces of the batch, then `step_`. A
    piece that failed is begun again with `clear_`.

    Args:
        groups: in the order of their numbers.
        eta: step size of the weights, above 0.
    """

    def __init__(self, groups: Sequence[Group], eta: float) -> None:
        self.groups, self.eta = tuple(groups), eta
        self.targets = torch.tensor([group.target for group in groups])
        self.weights = torch.full((len(groups),), 1 / len(groups), dtype=torch.float64)
        self._counts = self._sums = torch.zeros_like(self.weights)
        self._images, self._device = 0, torch.device("cpu")

    def labels(self, numbers: Tensor) -> Tensor:
        """Return class indices (N,) for numbers of groups (N,)."""
        return self.targets.to(numbers.device)[numbers]

    def begin_(self, numbers: Tensor, devices: Sums, world: int) -> None:
        """Count the groups of a batch.

        Args:
            numbers: of the groups (N,), of this device's share of the batch.
            devices: that share the work.
            world: how many they are.
        """
        counts = torch.bincount(numbers, minlength=len(self.groups)).double()
        self._counts = cast(Tensor, devices.all_reduce(counts, reduce_op="sum")).cpu()
        self._images, self._device = len(numbers) * world, numbers.device

    def clear_(self) -> None:
        """Forget the losses of this step."""
        self._sums = torch.zeros_like(self.weights)

    def weighted(self, losses: Tensor, numbers: Tensor) -> Tensor:
        """Return the weighted loss of a piece, as a mean over its images, and note its groups'.

        Over all pieces and devices it comes to the sum over groups of weight times mean loss.

        Args:
            losses: of every image (N,).
            numbers: of their groups (N,).
        """
        size = len(self.groups)
        found = torch.zeros(size, dtype=torch.float64, device=losses.device)
        self._sums = self._sums + found.index_add(0, numbers, losses.detach().double()).cpu()
        shares = self._images * self.weights / self._counts.clamp(min=1)
        return (shares.to(losses)[numbers] * losses).mean()

    def step_(self, devices: Sums) -> None:
        """Move the weights by the losses of the groups that the batch had, as in algorithm 1."""
        sums = self._sums.to(self._device)  # where devices can add them up
        total = cast(Tensor, devices.all_reduce(sums, reduce_op="sum")).cpu()
        push = self.eta * total / self._counts.clamp(min=1)
        weights = self.weights * torch.exp(push - push.max())
        self.weights = weights / weights.sum()

    def restore_(self, weights: Sequence[float]) -> None:
        """Go on from stored weights.

        Raises:
            ResumeError: they are of other groups.
        """
        if len(weights) != len(self.groups):
            raise ResumeError(
                f"The checkpoint has weights of {len(weights)} groups of images; these data have "
                f"{len(self.groups)}. Delete the checkpoint to begin this step again."
            )
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def summary(self) -> str:
        """Return the weights in words, the largest first."""
        pairs = zip(self.weights.tolist(), self.groups, strict=True)
        ordered = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        return ", ".join(f"{g.domain} {g.label} {weight:.3f}" for weight, g in ordered)

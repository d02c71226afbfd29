"""Batches for distillation: unlabeled images among the others, degraded copies for the student.

Like all batches they follow from (seed, step, position) alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lydite.card import Preprocess
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.errors import ConfigError
from lydite.training.batches import Batches, Loaded
from lydite.training.degrade import COLOR_BLOCK, Degrade
from lydite.training.objectives import UNLABELED
from lydite.training.settings import TrainSettings


class MixedBatches(Batches):
    """Makes batches that begin with labeled images and end with unlabeled ones.

    The labeled ones are numbered through by themselves, so that classes, domains and pairs come
    in the same order as without the others; the unlabeled ones come once an epoch each.

    Args:
        manifest: labeled images; at least one of each class.
        preprocess: of the detector; says how large crops are.
        settings: crop, flip, degradations, balance.
        seed: of the step.
        store: where decoded images come from.
        unlabeled: further images, whose labels are not looked at.
        share: of each batch that is unlabeled.
        degrade: what happens to the student's copy alone.

    Raises:
        ConfigError: the batch is too small for the share, or images are to be scaled that the
            detector brings to one size in any case, or whose crops are to be its tiles.
        DataError: no labeled images, or one class only.
    """

    def __init__(
        self,
        manifest: Manifest,
        preprocess: Preprocess,
        settings: TrainSettings,
        seed: int,
        store: ImageStore,
        *,
        unlabeled: Sequence[Row] = (),
        share: float = 0.5,
        degrade: Degrade | None = None,
    ) -> None:
        super().__init__(manifest, preprocess, settings, seed, store)
        self.unlabeled, self.degrade = tuple(unlabeled), degrade
        require_crops(preprocess, settings, degrade)
        self.labeled = labeled_count(settings.batch, share) if unlabeled else settings.batch
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def view(self) -> int:
        """Side of what is cut out of images: more than the network's where copies need it."""
        size = self.preprocess.size
        if self.degrade is None or not (self.degrade.scale or self._keeps_blocks):
            return size
        side, blocks = self.degrade.view(size), COLOR_BLOCK if self._keeps_blocks else 0
        side = max(side, size + blocks) if self._anywhere else side + blocks
        # a mirrored view begins at its other end, which has to lie on the grid too
        return math.ceil(side / self.grid) * self.grid

    @property
    def grid(self) -> int:
        """Views begin at multiples of so many pixels."""
        return COLOR_BLOCK if self._keeps_blocks else super().grid

    @property
    def _keeps_blocks(self) -> bool:
        """Whether copies keep the blocks of their image, wherever in them a crop begins."""
        return self.degrade is not None and self.degrade.jpeg_grid == "image"

    @property
    def _anywhere(self) -> bool:
        """Whether crops lie anywhere in their view."""
        return self.degrade is not None and self.degrade.scale_place == "anywhere"

    def _offset(self, draw: tuple[int, int]) -> tuple[int, int]:
        """Return where in its view the crop of a draw begins."""
        if not (self._keeps_blocks or self._anywhere):
            return 0, 0
        step = super().grid
        places = COLOR_BLOCK // step
        if self._anywhere:
            places = (self.view - self.preprocess.size) // step + 1
        rng = np.random.default_rng([self.seed, 8, *draw])
        down, right = step * rng.integers(places, size=2)
        return int(down), int(right)

    @property
    def labeled_share(self) -> float:
        """Share of each batch that has a label."""
        return self.labeled / self.settings.batch

    def file_at(self, position: int) -> Path:
        """Return the file of a global sample number, for messages."""
        known, number = self._numbered(position)
        return (self.row_at(number) if known else self.unlabeled_at(number)).file

    def unlabeled_at(self, number: int) -> Row:
        """Return the unlabeled image of a number: every image once an epoch."""
        epoch, place = divmod(number, len(self.unlabeled))
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, 4, epoch])
            self._order = epoch, rng.permutation(len(self.unlabeled))
        return self.unlabeled[int(self._order[1][place])]

    def fetch(self, positions: Sequence[int]) -> Loaded:
        """Return the crops of global sample numbers; targets are `UNLABELED` where none is known.

        Raises:
            DataError: an image cannot be read any more; the message names the file.
        """
        numbered = [self._numbered(position) for position in positions]
        known = [number for is_known, number in numbered if is_known]
        views, targets = self.load(known)
        draws = [(5, self.draw_of(number)) for number in known]
        others = [number for is_known, number in numbered if not is_known]
        if others:
            more = [
                self.crop(self.unlabeled_at(n), np.random.default_rng([self.seed, 6, n]))
                for n in others
            ]
            views = np.concatenate([views, np.stack(more)])
            targets = np.concatenate([targets, np.full(len(others), UNLABELED)])
            draws += [(7, number) for number in others]
        if self.degrade is None:
            return Loaded(views, views, targets)
        size, copies, clean = self.preprocess.size, [], []
        for view, draw in zip(views, draws, strict=True):
            down, right = offset = self._offset(draw)
            rng = np.random.default_rng([self.seed, *draw])
            copies.append(self.degrade.apply(view, rng, size, offset))
            clean.append(view[down : down + size, right : right + size])
        return Loaded(np.stack(copies), np.stack(clean), targets)

    def _numbered(self, position: int) -> tuple[bool, int]:
        """Return whether a sample is labeled, and its number among its like."""
        step, place = divmod(position, self.settings.batch)
        if place < self.labeled:
            return True, step * self.labeled + place
        return False, step * (self.settings.batch - self.labeled) + place - self.labeled


def require_crops(preprocess: Preprocess, settings: TrainSettings, degrade: Degrade | None) -> None:
    """Refuse to scale what is not cut freely.

    Raises:
        ConfigError: see `MixedBatches`.
    """
    if degrade is None or not (degrade.scale or degrade.jpeg_grid == "image"):
        return
    if not degrade.scale and (preprocess.fit == "resize" or settings.crop == "tiles"):
        raise ConfigError(
            "`jpeg_grid: image` in `degrade` needs crops whose place in JPEG's blocks is known, "
            "which `crop: tiles` and preprocessing that resizes images whole exclude. Take it out, "
            "or use `crop: random`."
        )
    if preprocess.fit == "resize":
        raise ConfigError(
            "`scale` in `degrade` scales images before they are cut, but this detector's "
            "preprocessing resizes each image whole. Take `scale` out, or use `resize`, which "
            "blurs."
        )
    if settings.crop == "tiles":
        raise ConfigError(
            "`scale` in `degrade` shows more of an image than one tile, which `crop: tiles` "
            "excludes. Use `crop: random`, or take `scale` out."
        )


def labeled_count(batch: int, share: float) -> int:
    """Return how many of a batch are labeled: an even number, so that classes and pairs fit.

    >>> labeled_count(32, 0.5)
    16

    Raises:
        ConfigError: there is no room for both kinds.
    """
    if batch < 3:
        raise ConfigError(
            "`batch` of distill must hold two labeled images and one unlabeled where there is "
            f"`transfer`. Got {batch}. Use at least 3."
        )
    most = 2 * ((batch - 1) // 2)
    return min(most, max(2, 2 * round(batch * (1 - share) / 2)))

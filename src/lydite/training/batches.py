"""Training batches as a pure function of the step number.

Which images a step sees, where they are cut and how they are degraded follows from (seed, step,
position) alone, so that a resumed run, any number of threads and any number of devices see the
same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lydite.card import Preprocess
from lydite.data.distort import blurred, recompressed
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.data.preprocess import check_size, cut_tiles, grow, tile_offsets
from lydite.errors import DataError, DecodeError
from lydite.training.degrade import JPEG_BLOCK
from lydite.training.pairs import Pairs
from lydite.training.settings import TrainSettings
from lydite.training.strata import strata_of

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Loaded:
    """One batch, or one device's share of it.

    Attributes:
        crops: (B, S, S, 3) uint8, what the network in training sees.
        clean: the same before any degradation that only this network sees; `crops` itself where
            there is none.
        targets: (B,) int64, 1 for fake and 0 for real.
    """

    crops: UInt8
    clean: UInt8
    targets: NDArray[np.int64]


class Batches:
    """Makes batches.

    Args:
        manifest: the images; at least one of each class.
        preprocess: of the detector; says how large crops are.
        settings: crop, flip, degradations, balance.
        seed: of the step.
        store: where decoded images come from.

    Raises:
        DataError: no images, or one class only.
    """

    def __init__(
        self,
        manifest: Manifest,
        preprocess: Preprocess,
        settings: TrainSettings,
        seed: int,
        store: ImageStore,
    ) -> None:
        self.rows: list[Row] = list(manifest.rows())
        counts = np.bincount(manifest.targets, minlength=2) if self.rows else np.zeros(2, int)
        if counts.min() == 0:
            raise DataError(
                "Training needs images of both classes. "
                f"Got {counts[0]} real and {counts[1]} fake in the training split."
            )
        self.preprocess, self.settings, self.seed, self.store = preprocess, settings, seed, store
        self.strata = strata_of(self.rows, settings)
        shared = bool(settings.domain_shares)
        paired = settings.balance == "pairs"
        self.pairs = Pairs(self.rows, *self.strata, shared=shared) if paired else None
        self._orders: dict[tuple[int, int, int], NDArray[np.int64]] = {}

    @property
    def view(self) -> int:
        """Side of what is cut out of images, V: of the network's input, or more for its copies."""
        return self.preprocess.size

    @property
    def grid(self) -> int:
        """Views begin at multiples of so many pixels."""
        return JPEG_BLOCK if self.settings.crop == "grid" else 1

    def positions(self, step: int, rank: int = 0, world: int = 1) -> Sequence[int]:
        """Return the global sample numbers of a step that device `rank` of `world` works on.

        Dealt out in pairs: classes come by turns, and a device that saw one class alone would
        train its batch norm on that.
        """
        first = step * self.settings.batch
        return [first + place for place in range(self.settings.batch) if place // 2 % world == rank]

    def row_at(self, position: int) -> Row:
        """Return the image of a global sample number.

        Class by turns, then domain by turns (some oftener, with `domain_shares`), then every image
        of the domain once an epoch. With "pairs", a fake is one made from the photograph just
        before it, where there is one (see `Pairs`).
        """
        if self.pairs and position % 2:
            mate = self.pairs.mate(self.row_at(position - 1), self.seed, position)
            if mate is not None:
                return self.rows[mate]
        stratum_class = position % len(self.strata)
        stratum = self.strata[stratum_class]
        domain, number = stratum.turn(position // len(self.strata))
        members = stratum.domains[domain]
        epoch, place = divmod(number, len(members))
        key = (stratum_class, domain, epoch)
        if key not in self._orders:
            rng = np.random.default_rng([self.seed, 1, *key])
            # older epochs are not needed again; dropping them keeps memory flat
            self._orders = {k: v for k, v in self._orders.items() if k[2] >= epoch - 1}
            self._orders[key] = rng.permutation(len(members))
        return self.rows[int(members[self._orders[key][place]])]

    def file_at(self, position: int) -> Path:
        """Return the file of a global sample number, for messages."""
        return self.row_at(position).file

    def fetch(self, positions: Sequence[int]) -> Loaded:
        """Return the crops of global sample numbers, as the training loop takes them.

        Raises:
            DataError: an image cannot be read any more; the message names the file.
        """
        crops, targets = self.load(positions)
        return Loaded(crops, crops, targets)

    def load(self, positions: Sequence[int]) -> tuple[UInt8, NDArray[np.int64]]:
        """Return crops (B, V, V, 3) uint8 and targets (B,) int64.

        V is `view`.

        Raises:
            DataError: an image cannot be read any more; the message names the file.
        """
        size = self.view
        crops = np.empty((len(positions), size, size, 3), np.uint8)
        targets = np.empty(len(positions), np.int64)
        for index, position in enumerate(positions):
            row = self.row_at(position)
            rng = np.random.default_rng([self.seed, 2, self.draw_of(position)])
            crops[index] = self.crop(row, rng)
            targets[index] = row.target
        return crops, targets

    def draw_of(self, position: int) -> int:
        """Return the number that a sample's random choices go by.

        A pair shares its crop, so that content and place cancel out of the gradient.
        """
        return position - position % 2 if self.pairs else position

    def crop(self, row: Row, rng: np.random.Generator) -> UInt8:
        """Return one crop of an image, augmented as the settings say: (V, V, 3) uint8.

        Raises:
            DataError: the image cannot be read any more; the message names the file.
        """
        try:
            rgb = self.store.get(row)
            check_size(rgb, self.preprocess)
        except DecodeError as error:
            raise DataError(
                f"The training image {row.file} cannot be used ({error.code}): {error} "
                "Find all such files with: lydite data check MANIFEST"
            ) from error
        return self._augment(self._crop(rgb, rng), rng)

    def _crop(self, rgb: UInt8, rng: np.random.Generator) -> UInt8:
        """Cut one crop."""
        preprocess, size = self.preprocess, self.view
        if preprocess.fit == "resize":
            return np.asarray(cut_tiles(rgb, preprocess)[0], dtype=np.uint8)
        rgb = grow(rgb, size)
        height, width = rgb.shape[:2]
        if self.settings.crop == "tiles":
            y = int(rng.choice(tile_offsets(height, size, preprocess.tiles)))
            x = int(rng.choice(tile_offsets(width, size, preprocess.tiles)))
        else:
            y = self.grid * int(rng.integers((height - size) // self.grid + 1))
            x = self.grid * int(rng.integers((width - size) // self.grid + 1))
        return np.asarray(rgb[y : y + size, x : x + size], dtype=np.uint8)

    def _augment(self, crop: UInt8, rng: np.random.Generator) -> UInt8:
        """Mirror and degrade one crop, as the settings say."""
        settings = self.settings
        if settings.flip and rng.random() < 0.5:
            crop = crop[:, ::-1]
        if settings.blur and rng.random() < settings.blur:
            crop = blurred(crop, float(rng.uniform(0.1, settings.blur_radius)))
        if settings.jpeg and rng.random() < settings.jpeg:
            low, high = settings.jpeg_quality
            crop = recompressed(crop, int(rng.integers(low, high + 1)))
        return np.asarray(crop, dtype=np.uint8)

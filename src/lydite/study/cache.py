"""The cache of a study: detectors by the key of the recipe that made them, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lydite.card import CARD_NAME, load_card
from lydite.detector import Detector
from lydite.errors import CardError, FileError


class Cache:
    """Detectors in folders named by key; unfinished steps keep a scratch folder beside them.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the folder of a finished step."""
        return self.folder / key[:16]

    def scratch(self, key: str) -> Path:
        """Return the folder of an unfinished step."""
        return self.folder / f"{key[:16]}.unfinished"

    def has(self, key: str) -> bool:
        """Tell whether a step is finished, and its detector undamaged as far as digests tell."""
        try:
            return load_card(self.path(key)).key == key
        except (CardError, FileError):
            return False

    def load(self, key: str) -> Detector | None:
        """Return a finished step's detector; None where there is none or it was damaged.

        A damaged entry is removed, so that the step is simply done again.
        """
        if not (self.path(key) / CARD_NAME).is_file():
            return None
        try:
            detector = Detector.load(self.path(key))
        except (CardError, FileError):
            shutil.rmtree(self.path(key), ignore_errors=True)
            return None
        return detector if detector.card.key == key else None

    def reached(self, keys: Sequence[str]) -> int:
        """Return how many steps of a recipe need not be done: those up to the last finished one.

        What a finished step was made of need not be there any more.

        Args:
            keys: of the recipe's steps, in order.
        """
        return max((number for number, key in enumerate(keys, 1) if self.has(key)), default=0)

    def store(self, detector: Detector) -> Detector:
        """Keep a finished step's detector, and drop the step's scratch folder."""
        saved = detector.save(self.path(detector.card.key))
        shutil.rmtree(self.scratch(detector.card.key), ignore_errors=True)
        return saved

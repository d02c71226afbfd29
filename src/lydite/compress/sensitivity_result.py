"""The result of a sensitivity analysis, as one append-only JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lydite.config import Fraction, Frozen, Sha256
from lydite.files import write_json

SENSITIVITY_VERSION = 1


class Measures(Frozen):
    """What a detector is worth on the images.

    Attributes:
        auc: area under the ROC curve; None if a class has no usable image.
        accuracy: of the forced decision, at the threshold of the whole detector.
        loss: mean cross-entropy of the score.
    """

    auc: float | None
    accuracy: float | None
    loss: float | None


class Point(Frozen):
    """One group, pruned alone.

    Attributes:
        group: its name.
        size: its channels before.
        share: of its channels, which was to be removed.
        kept: its channels after.
        parameters: of the detector, after.
        measures: of the detector, after.
    """

    group: str
    size: int
    share: Fraction
    kept: int
    parameters: int
    measures: Measures


class Sensitivity(Frozen):
    """What pruning each group alone does to a detector.

    Attributes:
        format: always "lydite-sensitivity".
        version: of this format.
        detector: its name.
        card_digest: of its card.
        score: how channels were ranked.
        seed: of the choice of images, and of random scores.
        images: digest of the images it was measured on.
        n: how many of them could be used.
        unreadable: how many could not.
        created: ISO time, UTC.
        versions: of lydite and libraries.
        parameters: of the whole detector.
        whole: what the whole detector is worth.
        points: every group at every share, input side first.
    """

    format: Literal["lydite-sensitivity"] = "lydite-sensitivity"
    version: Annotated[int, Field(ge=1)] = SENSITIVITY_VERSION
    detector: str
    card_digest: Sha256
    score: str
    seed: int
    images: Sha256
    n: int
    unreadable: int
    created: str
    versions: dict[str, str]
    parameters: int
    whole: Measures
    points: tuple[Point, ...]

    def drop(self, point: Point, metric: Literal["auc", "accuracy", "loss"]) -> float | None:
        """Return how much worse the detector is with this group pruned; None where undefined.

        For "auc" and "accuracy" it is what is lost, for "loss" what is added.
        """
        before, after = getattr(self.whole, metric), getattr(point.measures, metric)
        if before is None or after is None:
            return None
        return float(after - before if metric == "loss" else before - after)


def write_sensitivity(folder: Path, result: Sensitivity) -> Path:
    """Write a result under a name that no other has; existing files are never changed."""
    stem = f"sensitivity-{result.score}-{result.card_digest[:10]}"
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_json(path, result.model_dump(mode="json"))
    return path

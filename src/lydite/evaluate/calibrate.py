"""From a trained detector to one whose score has a meaning: threshold, temperature, band."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lydite.card import Figure
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import DataError
from lydite.evaluate.metrics import accuracy, auc
from lydite.evaluate.score import Runtime, score_detector
from lydite.evaluate.threshold import fit_meaning
from lydite.recipe import Progress, silent

if TYPE_CHECKING:
    from lydite.card import ScoreMeaning


def calibrate(
    detector: Detector,
    val: Manifest,
    *,
    progress: Progress = silent,
    runtime: Runtime = "auto",
    threads: int | None = None,
    images: ImageStore | None = None,
    like: Detector | None = None,
) -> Detector:
    """Return the detector with a score meaning fitted on a validation selection.

    A rounded copy of a detector is to decide as the original does. A threshold of its own, chosen
    on a few hundred images, differs from the original's by chance far more than rounding moves
    the scores; so it gets the original's, moved by the median difference of their scores.

    Accuracy and AUC on these images go into the card, marked with their split. Exported files
    stay beside the card: they hold the network, not what its score means.

    Args:
        detector: trained.
        val: images of train or val splits; a test image here is refused.
        progress: told how many images are done.
        runtime: see `score_detector`.
        threads: CPU threads.
        images: decoded images, kept by the caller.
        like: what it is a rounded copy of; the threshold follows that one's, if it was fitted.

    Raises:
        DataError: a test image among them, or no usable image of one class.
    """
    if "test" in val.column("split"):
        raise DataError(
            "A threshold must never be fitted on test images. Select split 'val' (or 'train')."
        )
    store = ImageStore() if images is None else images
    scores = score_detector(
        detector, val, progress=progress, runtime=runtime, threads=threads, images=store
    )
    threshold = None
    if like is not None and like.card.score.n:
        original = score_detector(
            like, val, progress=progress, runtime=runtime, threads=threads, images=store
        )
        threshold = like.card.score.threshold + _shift(scores, original)
    meaning = meaning_of(scores, val.digest, threshold=threshold)
    usable = scores.filter(pc.is_valid(scores["z"]))
    z, targets = usable["z"].to_numpy(), usable["target"].to_numpy()
    where = {"split": val.column("split")[0]}
    decided = (z > meaning.threshold).astype(np.float64)
    measured = (
        Figure(metric="accuracy", value=accuracy(decided, targets), n=len(z), slice=where),
        Figure(metric="auc", value=auc(z, targets), n=len(z), slice=where),
    )
    card = detector.card.model_copy(update={"score": meaning, "measured": measured})
    return replace(detector, card=card)


def _shift(scores: pa.Table, original: pa.Table) -> float:
    """Return the median difference of two tables' scores of the same images."""
    moved = pc.drop_null(pc.subtract(scores["z"], original["z"])).to_numpy()
    return float(np.median(moved)) if len(moved) else 0.0


def meaning_of(scores: pa.Table, digest: str, *, threshold: float | None = None) -> ScoreMeaning:
    """Return the score meaning fitted on a table of validation scores, failures left out.

    A given threshold is kept, see `fit_meaning`.

    Raises:
        DataError: no usable image of one class.
    """
    usable = scores.filter(pc.is_valid(scores["z"]))
    return fit_meaning(
        usable["z"].to_numpy(), usable["target"].to_numpy(), digest, threshold=threshold
    )

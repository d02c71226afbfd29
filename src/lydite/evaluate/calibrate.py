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
) -> Detector:
    """Return the detector with a score meaning fitted on a validation selection.

    Accuracy and AUC on these images go into the card, marked with their split. Exported files
    stay beside the card: they hold the network, not what its score means.

    Args:
        detector: trained.
        val: images of train or val splits; a test image here is refused.
        progress: told how many images are done.
        runtime: see `score_detector`.
        threads: CPU threads.
        images: decoded images, kept by the caller.

    Raises:
        DataError: a test image among them, or no usable image of one class.
    """
    if "test" in val.column("split"):
        raise DataError(
            "A threshold must never be fitted on test images. Select split 'val' (or 'train')."
        )
    scores = score_detector(
        detector, val, progress=progress, runtime=runtime, threads=threads, images=images
    )
    meaning = meaning_of(scores, val.digest)
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


def meaning_of(scores: pa.Table, digest: str) -> ScoreMeaning:
    """Return the score meaning fitted on a table of validation scores, failures left out.

    Raises:
        DataError: no usable image of one class.
    """
    usable = scores.filter(pc.is_valid(scores["z"]))
    return fit_meaning(usable["z"].to_numpy(), usable["target"].to_numpy(), digest)

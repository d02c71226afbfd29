"""From a trained detector to one whose score has a meaning: threshold, temperature, band."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lydite.card import Card, ConformalBand, Figure, ScoreMeaning
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import DataError
from lydite.evaluate.conformal import ALPHA, moved
from lydite.evaluate.metrics import accuracy, auc
from lydite.evaluate.score import Runtime, score_detector
from lydite.evaluate.threshold import fit_meaning, sparing_threshold
from lydite.recipe import Progress, silent

#: of the rule that fits threshold, temperature and band; one more whenever the same scores would be
#: given another meaning, so that no cached detector passes for one that was fitted anew
RULE = 1


def calibrate(
    detector: Detector,
    val: Manifest,
    *,
    progress: Progress = silent,
    runtime: Runtime = "auto",
    threads: int | None = None,
    images: ImageStore | None = None,
    like: Detector | None = None,
    alpha: float | None = ALPHA,
    spared: Manifest | None = None,
) -> Detector:
    """Return the detector with a score meaning fitted on a validation selection.

    A rounded copy of a detector is to decide as the original does. A threshold of its own, chosen
    on a few hundred images, differs from the original's by chance far more than rounding moves
    the scores; so it gets the original's, moved by the median difference of their scores. The band
    follows likewise, and its promise is the original's: as good as the median describes the move.

    A pack speaks beside its base, and what it says of photographs that the base knows well can only
    be wrong. These are the `spared`: the threshold is raised until at most `SPARED` of them lie
    above. Most of the few there are were trained on, so that of others more may; the study's
    `false_alarm_rate` of the source domains, on test images, tells how many.

    Accuracy and AUC on these images go into the card, marked with their split. Exported files
    stay beside the card: they hold the network, not what its score means.

    Args:
        detector: trained.
        val: images of train or val splits; a test image here is refused.
        progress: told how many images are done.
        runtime: see `score_detector`.
        threads: CPU threads.
        images: decoded images, kept by the caller.
        like: what it is a rounded copy of; threshold and conformal band follow that one's, if it
            was fitted.
        alpha: share of each class that may be called wrong outside the unsure band; None for a
            band without a promise. A copy of a fitted detector promises what that one does.
        spared: photographs that are not to be called fake, of train or val splits.

    Raises:
        ConfigError: no such alpha.
        DataError: a test image among them, or no usable image of one class.
    """
    if "test" in [*val.column("split"), *(spared.column("split") if spared else ())]:
        raise DataError(
            "A threshold must never be fitted on test images. Select split 'val' (or 'train')."
        )
    store = ImageStore() if images is None else images
    scores = score_detector(
        detector, val, progress=progress, runtime=runtime, threads=threads, images=store
    )
    threshold, band = None, None
    if like is not None and like.card.score.n:
        original = score_detector(
            like, val, progress=progress, runtime=runtime, threads=threads, images=store
        )
        by = _shift(scores, original)
        threshold, band = like.card.score.threshold + by, like.card.score.conformal
        # without a promise of the original's there is none to keep, and no new one is made
        band, alpha = (None, None) if band is None else (moved(band, by), band.alpha)
    least = None
    if spared is not None:
        known = score_detector(
            detector, spared, progress=progress, runtime=runtime, threads=threads, images=store
        )
        least = sparing_threshold(known["z"].to_numpy())
    meaning = meaning_of(
        scores, val.digest, alpha=alpha, threshold=threshold, least=least, conformal=band
    )
    usable = scores.filter(pc.is_valid(scores["z"]))
    z, targets = usable["z"].to_numpy(), usable["target"].to_numpy()
    where = {"split": val.column("split")[0]}
    decided = (z > meaning.threshold).astype(np.float64)
    measured = (
        Figure(metric="accuracy", value=accuracy(decided, targets), n=len(z), slice=where),
        Figure(metric="auc", value=auc(z, targets), n=len(z), slice=where),
    )
    # validated, as a promise asks for a newer version of the format
    said = detector.card.model_dump() | {"score": meaning, "measured": measured}
    return replace(detector, card=Card.model_validate(said))


def _shift(scores: pa.Table, original: pa.Table) -> float:
    """Return the median difference of two tables' scores of the same images."""
    moved = pc.drop_null(pc.subtract(scores["z"], original["z"])).to_numpy()
    return float(np.median(moved)) if len(moved) else 0.0


def meaning_of(
    scores: pa.Table,
    digest: str,
    *,
    alpha: float | None = ALPHA,
    threshold: float | None = None,
    least: float | None = None,
    conformal: ConformalBand | None = None,
) -> ScoreMeaning:
    """Return the score meaning fitted on a table of validation scores, failures left out.

    A given threshold or conformal band is kept, see `fit_meaning`.

    Raises:
        ConfigError: no such alpha.
        DataError: no usable image of one class.
    """
    usable = scores.filter(pc.is_valid(scores["z"]))
    return fit_meaning(
        usable["z"].to_numpy(),
        usable["target"].to_numpy(),
        digest,
        groups=usable["group"].to_pylist(),
        alpha=alpha,
        threshold=threshold,
        least=least,
        conformal=conformal,
    )

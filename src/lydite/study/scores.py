"""A study's scores, made by the exported files and kept, and what they say of degraded images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lydite.card import Figure
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, read_parquet
from lydite.detector import Detector
from lydite.evaluate.degrade import NONE
from lydite.evaluate.degraded import of_degradation, summarize_degraded
from lydite.evaluate.score import SCORES_SCHEMA, score_detector
from lydite.evaluate.summary import summarize
from lydite.evaluate.unseen import Roles
from lydite.files import write_bytes
from lydite.recipe import Progress

#: why an image had no score that it may have at the next try
PASSING = frozenset({"missing", "unreadable", "out-of-memory"})


def kept_scores(
    detector: Detector,
    manifest: Manifest,
    names: Sequence[str],
    path: Path,
    *,
    images: ImageStore,
    progress: Progress,
) -> pa.Table:
    """Return a shipped detector's scores of images, after each degradation or as they are.

    They are written down after each; what is there already and belongs to the same detector and
    images is not done again, unless files could not be found or read then.

    Args:
        detector: with its exported file.
        manifest: the images.
        names: of degradations, as `lydite.evaluate.degrade.named` gives them; `NONE` too.
        path: the Parquet file that keeps them.
        images: decoded images.
        progress: told about the work.

    Returns:
        One row per image and name as in `SCORES_SCHEMA`.
    """
    mark = _mark(detector.card.digest, manifest.digest)
    kept = _kept(path, mark)
    for name in names:
        there = of_degradation(kept, name)
        if there.num_rows and not _passing(there):
            continue
        if there.num_rows:
            kept = kept.filter(pc.not_equal(kept["degradation"], name))
        scores = score_detector(
            detector,
            manifest,
            runtime="onnxruntime",
            images=images,
            progress=progress,
            degradation=name,
        )
        kept = pa.concat_tables([kept, scores])
        sink = pa.BufferOutputStream()
        pq.write_table(kept.replace_schema_metadata(mark), sink, compression="zstd")
        write_bytes(path, sink.getvalue().to_pybytes())
    wanted = [of_degradation(kept, name) for name in names]
    return pa.concat_tables([SCORES_SCHEMA.empty_table(), *wanted])


def degraded_figures(
    detector: Detector, clean: pa.Table, degraded: pa.Table, *, roles: Roles
) -> tuple[Figure, ...]:
    """Return what each degradation costs on test images; nothing where none was asked for."""
    if not degraded.num_rows:
        return ()
    scores = pa.concat_tables([clean.replace_schema_metadata(None), degraded])
    return summarize_degraded(scores, detector.card.score, roles=roles)


def validation_figures(detector: Detector, scores: pa.Table, *, roles: Roles) -> tuple[Figure, ...]:
    """Return what a detector is worth on validation images, filed under {"split": "val"}.

    Threshold and temperature were fitted to these very images, so that accuracy flatters a little;
    they are for choosing between recipes.

    Args:
        detector: with its card.
        scores: of clean and of degraded images; without any there are no figures.
        roles: which images it learned from.
    """
    if not scores.num_rows:
        return ()
    clean, meaning = of_degradation(scores, NONE), detector.card.score
    figures = summarize(clean, meaning, roles=roles, split="val")
    return figures + summarize_degraded(scores, meaning, roles=roles, split="val")


def scored(path: Path, card: str, images: str) -> bool:
    """Tell whether a file holds the scores of a detector, by its card's digest, of these images.

    Scores that lack images for a reason in `PASSING` are worth another try.
    """
    there = _kept(path, _mark(card, images))
    return bool(there.num_rows) and not _passing(there)


def _passing(scores: pa.Table) -> bool:
    """Tell whether some images have no score for a reason that may have passed."""
    return bool(set(scores["error"].to_pylist()) & PASSING)


def _mark(card: str, images: str) -> dict[str, str]:
    """Return what the file of scores says that they are of."""
    return {"lydite.card": card, "lydite.test": images}


def _kept(path: Path, mark: dict[str, str]) -> pa.Table:
    """Return the scores in a file if they are marked so, else none."""
    try:
        table = read_parquet(path) if path.is_file() else None
    except (pa.ArrowException, OSError, ValueError):  # damaged: scored anew
        table = None
    if table is not None:
        metadata = table.schema.metadata or {}
        if all(metadata.get(name.encode()) == value.encode() for name, value in mark.items()):
            return table.replace_schema_metadata(None)
    return SCORES_SCHEMA.empty_table()

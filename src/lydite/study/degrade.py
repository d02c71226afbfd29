"""A study's detectors on degraded images: scored on the exported file, kept beside the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lydite.card import Figure
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.evaluate.degraded import of_degradation, summarize_degraded
from lydite.evaluate.score import SCORES_SCHEMA, score_detector
from lydite.evaluate.unseen import Roles
from lydite.files import write_bytes
from lydite.recipe import Progress


def degraded_scores(
    detector: Detector,
    test: Manifest,
    names: Sequence[str],
    path: Path,
    *,
    images: ImageStore,
    progress: Progress,
) -> pa.Table:
    """Return a shipped detector's scores of the test images after each degradation.

    They are written down after each; what is there already and belongs to the same detector and
    images is not done again.

    Args:
        detector: with its exported file.
        test: the images.
        names: of degradations, as `lydite.evaluate.degrade.named` gives them.
        path: the Parquet file that keeps them.
        images: decoded images.
        progress: told about the work.

    Returns:
        One row per image and degradation as in `SCORES_SCHEMA`, none of clean images.
    """
    mark = {"lydite.card": detector.card.digest, "lydite.test": test.digest}
    kept = _kept(path, mark)
    for name in names:
        if of_degradation(kept, name).num_rows:
            continue
        scores = score_detector(
            detector,
            test,
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
    """Return what each degradation costs a detector; nothing where none was asked for."""
    if not degraded.num_rows:
        return ()
    scores = pa.concat_tables([clean.replace_schema_metadata(None), degraded])
    return summarize_degraded(scores, detector.card.score, roles=roles)


def _kept(path: Path, mark: dict[str, str]) -> pa.Table:
    """Return the scores in a file if they are marked so, else none."""
    if path.is_file():
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if all(metadata.get(name.encode()) == value.encode() for name, value in mark.items()):
            return table.replace_schema_metadata(None)
    return SCORES_SCHEMA.empty_table()

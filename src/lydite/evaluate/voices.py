"""Several detectors asked together, as `lydite predict --pack` asks a detector and its packs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lydite.card import ScoreMeaning
from lydite.errors import DataError
from lydite.evaluate.score import SCORES_SCHEMA, rescale
from lydite.files import digest

#: figures of a pack's answer together with its base are filed under {WITH: name of the base}
WITH = "with"
#: what the scores of voices mean: the threshold is at zero, and nothing is left to scale
TOGETHER = ScoreMeaning()


def together(voices: Sequence[tuple[pa.Table, ScoreMeaning]]) -> pa.Table:
    """Return the scores of detectors of which the one that is surest of a fake speaks.

    Every voice is brought to its own threshold and temperature first, x = (z - threshold) /
    temperature; the score is the highest x, and means what `TOGETHER` says. The order of the rows
    is that of their content.

    Args:
        voices: scores as in `SCORES_SCHEMA`, and what they mean; of the same images.

    Returns:
        One row an image. An image that one voice could not score has no score.

    Raises:
        DataError: the voices were not asked about the same images.
    """
    tables = [t.sort_by([("sha256", "ascending"), ("path", "ascending")]) for t, _ in voices]
    first = tables[0]
    if any(t["sha256"] != first["sha256"] or t["path"] != first["path"] for t in tables):
        raise DataError("Voices are combined on the same images. These were scored on others.")
    x = np.max(
        [
            (t["z"].to_numpy().astype(np.float64) - meaning.threshold) / meaning.temperature
            for t, (_, meaning) in zip(tables, voices, strict=True)
        ],
        axis=0,  # NaN, the missing score, wins
    )
    names = list(dict.fromkeys(name for t in tables for name in t["detector"].unique().to_pylist()))
    keys = [key for t in tables for key in t["key"].unique().to_pylist()]
    errors = pc.coalesce(*(t["error"] for t in tables))
    columns = {
        "key": pa.array([digest(keys)] * len(x), pa.string()),
        "detector": pa.array([" + ".join(names)] * len(x), pa.string()),
        "z": pa.array(x, pa.float64(), mask=np.isnan(x)),
        "error": errors,
    }
    for name, values in columns.items():
        at = first.schema.get_field_index(name)
        first = first.set_column(at, SCORES_SCHEMA.field(name), values)
    return rescale(first, TOGETHER)

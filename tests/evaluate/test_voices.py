"""A detector and its packs asked together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lydite.card import ScoreMeaning
from lydite.data.preprocess import probability
from lydite.errors import DataError
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.evaluate.voices import TOGETHER, together


def scores(name: str, z: list[float | None], images: list[str]) -> pa.Table:
    count = len(z)
    columns = dict.fromkeys(SCORES_SCHEMA.names, [""] * count)
    columns |= {
        "key": [f"key of {name}"] * count,
        "detector": [name] * count,
        "path": images,
        "sha256": [image * 2 for image in images],
        "target": [0] * count,
        "z": z,
        "p_fake": [None] * count,
        "error": [None if value is not None else "truncated" for value in z],
    }
    return pa.table(columns, schema=SCORES_SCHEMA)


def test_the_surest_of_a_fake_speaks_by_its_own_threshold() -> None:
    base, pack = ScoreMeaning(threshold=2.0, temperature=0.5), ScoreMeaning(threshold=-1.0)
    one = scores("base", [2.5, 0.0, None], ["a", "b", "c"])
    two = scores("pack", [5.0, -4.0, -3.0], ["c", "b", "a"])  # another order
    found = together([(one, base), (two, pack)])
    assert found["path"].to_pylist() == ["a", "b", "c"]
    # a: base (2.5 - 2) / 0.5 = 1, pack -2; b: -4 and -3; c: the base has no answer
    assert found["z"].to_pylist() == [1.0, -3.0, None]
    assert found["error"].to_pylist() == [None, None, "truncated"]
    assert found["detector"].unique().to_pylist() == ["base + pack"]
    chance = probability(np.array([1.0, -3.0]), TOGETHER)
    assert found["p_fake"].to_pylist()[:2] == pytest.approx(chance.tolist())
    # as `predict` does it: the highest of the voices' probabilities
    assert chance[0] == pytest.approx(probability(2.5, base))
    assert found.schema == SCORES_SCHEMA


def test_other_images_are_refused() -> None:
    one, two = scores("base", [0.0], ["a"]), scores("pack", [0.0], ["b"])
    with pytest.raises(DataError, match="same images"):
        together([(one, ScoreMeaning()), (two, ScoreMeaning())])

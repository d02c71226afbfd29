"""Two detectors on the same images: what one loses against the other, and where they disagree.

Both are measured on the same draws of images, so that what the images have in common cancels: an
interval of the difference is far narrower than the two detectors' own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lydite.card import Figure, ScoreMeaning
from lydite.errors import DataError
from lydite.evaluate.intervals import N_BOOT, intervals, strata_of
from lydite.evaluate.kernels import Float64, accuracy
from lydite.evaluate.score import rescale
from lydite.evaluate.unseen import Roles, members

#: this detector's accuracy minus the other's
GAIN = "accuracy_gain"
#: share of the images on which the two decide differently, each by its own threshold
FLIPPED = "flipped"


def compare(
    scores: pa.Table,
    meaning: ScoreMeaning,
    other: pa.Table,
    other_meaning: ScoreMeaning,
    *,
    name: str,
    roles: Roles,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Return `GAIN` and `FLIPPED` on the seen domains, the source's, and the others.

    Images that one of the two could not score are left out.

    Args:
        scores: of this detector, as in `SCORES_SCHEMA`.
        meaning: what it decides by.
        other: scores of the other detector on the same images.
        other_meaning: what that one decides by.
        name: of the other one; figures are filed under {"against": name}.
        roles: which images they learned from.
        split: which rows count.
        n_boot: bootstrap replicates over groups of images, see `intervals`.
        seed: equal seeds give equal intervals.

    Raises:
        DataError: the two were not scored on the same images.
    """
    mine, theirs = _rows(scores, meaning, split), _rows(other, other_meaning, split)
    if mine["sha256"] != theirs["sha256"]:
        raise DataError(f"The detector was not scored on the same images as {name}.")
    both = pc.and_(pc.is_valid(mine["z"]), pc.is_valid(theirs["z"]))
    mine, theirs = mine.filter(both), theirs.filter(both)
    domains = np.array(mine["domain"].to_pylist(), dtype=np.str_)
    targets = mine["target"].to_numpy().astype(np.int64)
    generator = np.array(mine["generator"].to_pylist(), dtype=np.str_)
    held = roles.held(targets, generator)
    known, before = (np.isin(domains, list(names)) & ~held for _, names in roles.groups)
    # fakes of a generator that was held out stand beside the photographs of their domain: alone,
    # they would call a lower threshold a gain
    units = [members(unit, domains, generator, targets) for unit in roles.units(mine)]
    new = np.any(units, axis=0) if units else np.zeros(targets.size, dtype=bool)
    figures: list[Figure] = []
    for group, chosen in (("seen", known), ("source", before), ("unseen", new)):
        if chosen.any():
            where = {"group": group, "split": split, "against": name}
            figures += _figures(mine.filter(chosen), theirs.filter(chosen), where, n_boot, seed)
    return tuple(figures)


def _rows(scores: pa.Table, meaning: ScoreMeaning, split: str) -> pa.Table:
    """Return the rows of a split with probabilities by a meaning, in the order of their content."""
    table = rescale(scores.filter(pc.equal(scores["split"], split)), meaning)
    return table.sort_by([("sha256", "ascending"), ("path", "ascending")])


def _figures(
    mine: pa.Table, theirs: pa.Table, where: dict[str, str], n_boot: int, seed: int
) -> list[Figure]:
    """Return the figures of one group of images."""
    targets = mine["target"].to_numpy().astype(np.int64)
    one, other = (table["p_fake"].to_numpy().astype(np.float64) for table in (mine, theirs))
    differ: NDArray[np.float64] = ((one > 0.5) != (other > 0.5)).astype(np.float64)

    def replicate(weights: Float64) -> Mapping[str, Float64]:
        gain = accuracy(one, targets, weights) - accuracy(other, targets, weights)
        return {GAIN: gain, FLIPPED: weights @ differ / weights.sum(axis=1)}

    strata = strata_of(targets, mine["domain"].to_pylist())
    found = intervals(replicate, strata, mine["group"].to_pylist(), n_boot=n_boot, seed=seed)
    return [
        Figure(metric=metric, value=i.value, low=i.low, high=i.high, n=i.n, slice=where)
        for metric, i in found.items()
    ]

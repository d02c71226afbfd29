"""How much better one detector ranks the same images than another, paired by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lydite.card import Figure
from lydite.errors import DataError
from lydite.evaluate.intervals import N_BOOT, intervals, strata_of
from lydite.evaluate.kernels import Float64, Int64, auc
from lydite.evaluate.unseen import Mask, Names, Roles, members, places

#: this detector's AUC minus the other's
AUC_GAIN = "auc_gain"


@dataclass(frozen=True)
class _Pair:
    """Two detectors' scores of the same images, all (N,)."""

    one: Float64
    other: Float64
    targets: Int64
    domain: Names
    generator: Names
    group: Names
    stratum: Names


def auc_gains(
    scores: pa.Table,
    other: pa.Table,
    *,
    name: str,
    roles: Roles,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Return `AUC_GAIN` on the groups that AUCs are quoted for, and on every domain.

    Both AUCs of a difference are taken on the same draws of groups. The slices are {"group":
    "seen"}, "source" and "unseen-mean", {"domain": d}, and {"domain": d, "generator": g} for
    generators held out of a learned domain. Images that one of the two could not score are left
    out.

    Args:
        scores: of this detector, as in `SCORES_SCHEMA`.
        other: scores of the other detector on the same images.
        name: of the other one; figures are filed under {"against": name}.
        roles: which images they learned from.
        split: which rows count.
        n_boot: bootstrap replicates over groups of images, see `intervals`.
        seed: equal seeds give equal intervals.

    Raises:
        DataError: the two were not scored on the same images.
    """
    pair = _pair(scores, other, split, name, roles)
    columns = (pair.domain, pair.generator, pair.targets)
    held = roles.held(pair.targets, pair.generator)
    units = roles.units(scores.filter(pc.equal(scores["split"], split)))
    slices: list[tuple[dict[str, str], list[Mask]]] = [
        ({"group": group}, [np.isin(pair.domain, list(domains)) & ~held])
        for group, domains in roles.groups
    ]
    slices.append(({"group": "unseen-mean"}, [members(unit, *columns) for unit in units]))
    apart = [unit for unit in units if "generator" in unit]
    each = [{"domain": d} for d in sorted(set(pair.domain.tolist()))] + apart
    slices += [(unit, [members(unit, *columns)]) for unit in each]
    return tuple(
        _gain(pair, masks, where | {"split": split, "against": name}, n_boot, seed)
        for where, masks in slices
        if masks and np.any(masks)
    )


def _pair(scores: pa.Table, other: pa.Table, split: str, name: str, roles: Roles) -> _Pair:
    """Return both detectors' scores of the images that both could score."""
    mine, theirs = (
        table.filter(pc.equal(table["split"], split)).sort_by(
            [("sha256", "ascending"), ("path", "ascending")]
        )
        for table in (scores, other)
    )
    if mine["sha256"] != theirs["sha256"]:
        raise DataError(f"The detector was not scored on the same images as {name}.")
    both = pc.and_(pc.is_valid(mine["z"]), pc.is_valid(theirs["z"]))
    mine, theirs = mine.filter(both), theirs.filter(both)
    targets = mine["target"].to_numpy().astype(np.int64)
    domain, generator, group = (
        np.array(mine[column].to_pylist(), dtype=np.str_)
        for column in ("domain", "generator", "group")
    )
    held = roles.held(targets, generator)
    one, two = (table["z"].to_numpy().astype(np.float64) for table in (mine, theirs))
    stratum = strata_of(targets, places(domain, generator, held))
    return _Pair(one, two, targets, domain, generator, group, stratum)


def _gain(
    pair: _Pair, masks: Sequence[Mask], where: dict[str, str], n_boot: int, seed: int
) -> Figure:
    """Return the mean difference over some sets of images, groups drawn once for all of them."""
    inside = np.flatnonzero(np.any(masks, axis=0))
    inner = [np.flatnonzero(mask[inside]) for mask in masks]

    def replicate(weights: Float64) -> Mapping[str, Float64]:
        gains = []
        for at in inner:
            rows, drawn = inside[at], weights[:, at]
            if not at.size:  # a unit that could not be scored leaves the mean undefined
                return {AUC_GAIN: np.full(len(weights), np.nan)}
            mine, theirs = (auc(z[rows], pair.targets[rows], drawn) for z in (pair.one, pair.other))
            gains.append(mine - theirs)
        return {AUC_GAIN: np.mean(gains, axis=0)}

    found = intervals(
        replicate, pair.stratum[inside], pair.group[inside], n_boot=n_boot, seed=seed
    )[AUC_GAIN]
    return Figure(
        metric=AUC_GAIN, value=found.value, low=found.low, high=found.high, n=found.n, slice=where
    )

"""What degradations cost a detector: the same images as they are and degraded, on the same draws.

Every figure is filed under {"degradation": name} beside the slices of `summarize`: each domain,
the groups "seen" and "source", and "unseen-mean", the mean over the other domains and the
generators held out of learned ones.

| metric | what |
|---|---|
| accuracy, balanced_accuracy, auc | of the degraded images |
| false_alarm_rate, recall | share of photographs, and of fakes, that are called fake then |
| accuracy_gain, auc_gain, recall_gain | that minus the same of clean images; below 0 is a loss |
| false_alarm_gain | likewise; above 0 is a loss |
| flipped | share of images on which the decision changed |
| unreadable | how many degraded images have no score |

Gains and flips say {"against": "clean"} too. An image counts where it has a score both ways, so
that what a pair of images has in common cancels, and the two numbers differ by the gain exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lydite.card import Figure, ScoreMeaning
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import DataError
from lydite.evaluate.compare import FLIPPED
from lydite.evaluate.degrade import NONE, named
from lydite.evaluate.degraded_pairs import GAINS, METRICS, Pairs, columns_of, pairs_of
from lydite.evaluate.intervals import N_BOOT, Interval, intervals, strata_of
from lydite.evaluate.kernels import Float64
from lydite.evaluate.score import Runtime, rescale, score_detector
from lydite.evaluate.shares import with_width
from lydite.evaluate.summary import UNREADABLE
from lydite.evaluate.unseen import Mask, Roles, members
from lydite.recipe import Progress, silent

#: figures of degraded images are filed under {DEGRADATION: name}
DEGRADATION = "degradation"
#: what degraded images are compared with: {"against": CLEAN}
CLEAN = "clean"
_AGAINST = (*GAINS, FLIPPED)


def score_degraded(
    detector: Detector,
    manifest: Manifest,
    degradations: Iterable[str],
    *,
    progress: Progress = silent,
    runtime: Runtime = "auto",
    threads: int | None = None,
    images: ImageStore | None = None,
) -> pa.Table:
    """Score every image of a manifest as it is, then after each degradation.

    Args:
        detector: what to score.
        manifest: the images.
        degradations: names of degradations or of lists of them, see `lydite.evaluate.degrade`.
        progress: as for `score_detector`, and so the rest.
        runtime: likewise.
        threads: likewise.
        images: decoded images; one that fills as the first pass goes unless given.

    Returns:
        One row per image and degradation as in `SCORES_SCHEMA`, the clean ones first.

    Raises:
        LyditeError: see `score_detector`.
    """
    names = (NONE, *named(degradations))
    if images is None:
        images = ImageStore() if names[1:] else ImageStore(0)
    return pa.concat_tables(
        score_detector(
            detector,
            manifest,
            progress=progress,
            runtime=runtime,
            threads=threads,
            images=images,
            degradation=name,
        )
        for name in names
    )


def of_degradation(scores: pa.Table, name: str) -> pa.Table:
    """Return the rows of one degradation."""
    return scores.filter(pc.equal(scores["degradation"], name))


def degradations_of(figures: Iterable[Figure]) -> list[str]:
    """Return the degradations that figures speak of, in their order."""
    found = (figure.slice.get(DEGRADATION) for figure in figures)
    return list(dict.fromkeys(name for name in found if name is not None))


def summarize_degraded(
    scores: pa.Table,
    meaning: ScoreMeaning | None = None,
    *,
    roles: Roles,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Return the figures of every degradation in one detector's scores, none of the clean images.

    Args:
        scores: as `score_degraded` gives them; the clean rows are needed.
        meaning: threshold and temperature to decide by; None takes the column `p_fake`.
        roles: which images it learned from.
        split: which rows count.
        n_boot: bootstrap replicates; intervals are over groups, see `intervals`.
        seed: equal seeds give equal intervals.

    Raises:
        DataError: scores of several detectors, no row of this split, or other images degraded
            than clean.
    """
    if len(scores["key"].unique()) > 1:
        raise DataError("These are scores of several detectors; summarize one at a time.")
    table = scores.filter(pc.equal(scores["split"], split))
    if not table.num_rows:
        raise DataError(f"There are no scores of the split '{split}'.")
    table = table if meaning is None else rescale(table, meaning)
    table = table.sort_by([("sha256", "ascending"), ("path", "ascending")])
    clean = of_degradation(table, NONE)
    figures: list[Figure] = []
    for name in scores["degradation"].unique().to_pylist():
        if name == NONE:
            continue
        rows = of_degradation(table, name)
        if rows["sha256"] != clean["sha256"] or rows["path"] != clean["path"]:
            raise DataError(f"Other images were scored after {name} than as they are.")
        failed = np.array(rows["z"].is_null().to_pylist(), dtype=bool)
        usable = ~failed & np.array(clean["z"].is_valid().to_pylist(), dtype=bool)
        pairs = pairs_of(rows, clean, roles).take(usable)
        for each in _slices(rows, roles):
            found = _measure(pairs, each, usable, n_boot, seed)
            filed = each.where | {"split": split, DEGRADATION: name}
            figures += _figures(found, filed)
            chosen = np.any(each.masks, axis=0)
            count, lost = int(chosen.sum()), float(failed[chosen].sum())
            figures.append(Figure(metric=UNREADABLE, value=lost, n=count, slice=filed))
    return tuple(figures)


@dataclass(frozen=True)
class _Slice:
    """What figures are filed under, and the images that they are of.

    Attributes:
        where: the slice.
        masks: (N,) each; a figure is the mean over these.
        needed: (N,) each; a mask without one usable image leaves the figure undefined.
        mean: it is a mean over units that are unseen.
    """

    where: dict[str, str]
    masks: list[Mask]
    needed: list[Mask]
    mean: bool = False


def _slices(rows: pa.Table, roles: Roles) -> list[_Slice]:
    """Return every slice that has images, and which they are."""
    domain, generator, targets, held = columns_of(rows, roles)
    single: list[tuple[dict[str, str], Mask]] = [
        ({"domain": str(name)}, domain == name) for name in np.unique(domain)
    ]
    for group, names in roles.groups:
        single.append(({"group": group}, np.isin(domain, list(names)) & ~held))
    found = [_Slice(where, [mask], [mask]) for where, mask in single if mask.any()]
    if units := roles.units(rows):
        masks = [members(unit, domain, generator, targets) for unit in units]
        # the reals of a learned domain say nothing of the generator that was held out of it
        needed = [
            mask & held if "generator" in unit else mask
            for unit, mask in zip(units, masks, strict=True)
        ]
        found.append(_Slice({"group": "unseen-mean"}, masks, needed, mean=True))
    return found


def _measure(
    pairs: Pairs, part: _Slice, usable: Mask, n_boot: int, seed: int
) -> dict[str, Interval]:
    """Return every metric of a slice; `pairs` are the usable ones of the images it is about."""
    masks, needed = ([mask[usable] for mask in of] for of in (part.masks, part.needed))
    inside = np.any(masks, axis=0)
    pairs = pairs.take(inside)
    if not all(mask.any() for mask in needed):
        # a unit without one usable image leaves the mean undefined, not flattered
        names = [*METRICS, *_AGAINST]
        return {name: Interval(None, None, None, pairs.z.size) for name in names}
    strata = strata_of(pairs.targets, (pairs.place if part.mean else pairs.domain).tolist())
    wanted = [mask[inside] for mask in masks]
    found = intervals(_replicate(pairs, wanted), strata, pairs.group, n_boot=n_boot, seed=seed)
    return with_width(found, pairs.p_fake, pairs.targets, pairs.group, wanted)


def _replicate(
    pairs: Pairs, wanted: Sequence[NDArray[np.bool_]]
) -> Callable[[Float64], dict[str, Float64]]:
    """Return a function of weights that gives the mean over parts of the images."""
    parts = [(pairs.take(chosen), np.flatnonzero(chosen)) for chosen in wanted]

    def replicate(weights: Float64) -> dict[str, Float64]:
        each = [part.measure(weights[:, at]) for part, at in parts]
        return {name: np.mean([found[name] for found in each], axis=0) for name in each[0]}

    return replicate


def _figures(found: Mapping[str, Interval], where: dict[str, str]) -> list[Figure]:
    """Return intervals as figures of one slice."""
    return [
        Figure(
            metric=name,
            value=i.value,
            low=i.low,
            high=i.high,
            n=i.n,
            slice=where | ({"against": CLEAN} if name in _AGAINST else {}),
        )
        for name, i in found.items()
    ]

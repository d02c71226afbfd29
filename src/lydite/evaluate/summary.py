"""From a table of scores to the figures that are quoted: pure, seeded, no network runs.

| slice | what |
|---|---|
| {"domain": d, "split": s} | all images of a domain |
| {"domain": d, "generator": g, "split": s} | one generator's fakes, all reals of the domain |
| {"group": "seen", "split": s} | all images of the seen domains together |
| {"group": "source", "split": s} | all images of the domains learned before, where named |
| {"group": "unseen-mean", "split": s} | mean over the other domains, each counting the same |

Fakes of generators that were held out of a learned domain are unseen: they are no part of the
groups "seen" and "source", and each such pair of domain and generator counts like an unseen domain.
Beside them stands what the card promises of verdicts, the metric "alpha" of {"split": s}, where
the meaning has a conformal band.

Images whose score is missing are left out of every metric and counted in the metric "unreadable".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lydite.card import Figure, ScoreMeaning
from lydite.data.manifest import TASKS
from lydite.errors import DataError
from lydite.evaluate import kernels
from lydite.evaluate.degrade import NONE
from lydite.evaluate.intervals import N_BOOT, Interval, intervals, strata_of
from lydite.evaluate.kernels import Float64, Int64
from lydite.evaluate.score import rescale
from lydite.evaluate.shares import with_width
from lydite.evaluate.unseen import Roles, members, places
from lydite.evaluate.verdicts import ALPHA, VERDICTS, reflected, verdicts_of, verdicts_with_width

METRICS = (*kernels.KERNELS, *VERDICTS)
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Scored:
    """Columns of scores as arrays, all (N,), failures left out.

    Attributes:
        z: the score.
        p_fake: its probability.
        targets: 1 for fake.
        domain: where the image is from.
        generator: what made it.
        group: what it must be drawn together with.
        verdicts: real, fake or unsure, as numbers.
    """

    z: Float64
    p_fake: Float64
    targets: Int64
    domain: NDArray[np.str_]
    generator: NDArray[np.str_]
    group: NDArray[np.str_]
    verdicts: Float64

    def take(self, keep: NDArray[np.bool_]) -> Scored:
        """Return some of the images."""
        return Scored(**{name: values[keep] for name, values in vars(self).items()})


def summarize(
    scores: pa.Table,
    meaning: ScoreMeaning | None = None,
    *,
    roles: Roles,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Return every figure of one detector's scores.

    Args:
        scores: as in `SCORES_SCHEMA`, of one detector.
        meaning: threshold, temperature and band to decide by; None takes the column `p_fake`.
            Verdicts are measured where it was fitted.
        roles: which images it learned from.
        split: which rows count.
        n_boot: bootstrap replicates; intervals are over groups, see `intervals`.
        seed: equal seeds give equal intervals.

    Raises:
        DataError: scores of several detectors or of degraded images, or no row of this split.
    """
    if len(scores["key"].unique()) > 1:
        raise DataError("These are scores of several detectors; summarize one at a time.")
    if degraded := sorted(set(scores["degradation"].to_pylist()) - {NONE}):
        raise DataError(
            f"These are scores of degraded images too ({degraded[0]}); summarize them with "
            "lydite.evaluate.degraded."
        )
    table = scores.filter(pc.equal(scores["split"], split))
    if not table.num_rows:
        raise DataError(f"There are no scores of the split '{split}'.")
    labels = set(table["label"].to_pylist())
    if sum(bool(labels & set(pair)) for pair in TASKS) > 1:
        raise DataError(
            f"These are scores of several tasks ({', '.join(sorted(labels))}), of which no mean is "
            "taken. Select the labels of one."
        )
    table = table if meaning is None else rescale(table, meaning)
    failed = _failures(table, roles)
    images = _arrays(table, meaning)
    held = roles.held(images.targets, images.generator)
    figures = _by_domain(table, images, failed, split, n_boot, seed)
    for group, domains in roles.groups:
        known = images.take(np.isin(images.domain, list(domains)) & ~held)
        if known.z.size:
            where = {"group": group, "split": split}
            figures += _figures(_measure(known, n_boot, seed), where)
            figures.append(_count(failed.get(f"/{group}", 0), known.z.size, where))
    if units := roles.units(table):
        where = {"group": "unseen-mean", "split": split}
        found, used = _measure_mean(images, units, held, n_boot, seed)
        figures += _figures(found, where)
        figures.append(_count(failed.get("/unseen", 0), used, where))
    return _with_promise(figures, meaning, split)


def _by_domain(
    table: pa.Table,
    images: Scored,
    failed: Mapping[str, int],
    split: str,
    n_boot: int,
    seed: int,
) -> list[Figure]:
    """Return the figures of every domain, each followed by those of its generators."""
    figures: list[Figure] = []
    for domain in sorted(set(table["domain"].to_pylist())):
        here = images.take(images.domain == domain)
        where = {"domain": domain, "split": split}
        figures += _figures(_measure(here, n_boot, seed), where)
        figures.append(_count(failed.get(domain, 0), here.z.size, where))
        for generator in sorted(set(here.generator[here.targets == 1].tolist())):
            pair = here.take((here.targets == 0) | (here.generator == generator))
            named = {"domain": domain, "generator": generator, "split": split}
            figures += _figures(_measure(pair, n_boot, seed), named)
    return figures


def _with_promise(
    figures: Sequence[Figure], meaning: ScoreMeaning | None, split: str
) -> tuple[Figure, ...]:
    """Return the figures and what was promised; without a fitted meaning nothing of verdicts."""
    if meaning is None or meaning.fitted_on is None:
        return tuple(figure for figure in figures if figure.metric not in VERDICTS)
    band = meaning.conformal
    if band is None:
        return tuple(figures)
    n = min(band.n_real, band.n_fake)
    return (*figures, Figure(metric=ALPHA, value=band.alpha, n=n, slice={"split": split}))


def _arrays(table: pa.Table, meaning: ScoreMeaning | None) -> Scored:
    """Return the usable rows as arrays."""
    usable = table.filter(pc.is_valid(table["z"]))
    names = {
        name: np.array(usable[name].to_pylist(), dtype=np.str_)
        for name in ("domain", "generator", "group")
    }
    p_fake = usable["p_fake"].to_numpy().astype(np.float64)
    return Scored(
        usable["z"].to_numpy().astype(np.float64),
        p_fake,
        usable["target"].to_numpy().astype(np.int64),
        **names,
        verdicts=verdicts_of(p_fake, meaning),
    )


def _failures(table: pa.Table, roles: Roles) -> dict[str, int]:
    """Count images without a score: by domain, and together by "/seen", "/source", "/unseen"."""
    group_of = dict.fromkeys(roles.source, "/source") | dict.fromkeys(roles.seen, "/seen")
    counts: dict[str, int] = {}
    lost = table.filter(pc.is_null(table["z"])).select(["domain", "generator", "target"])
    for row in lost.to_pylist():
        held = row["target"] == 1 and row["generator"] in roles.unseen_generators
        group = "/unseen" if held else group_of.get(row["domain"], "/unseen")
        for name in (row["domain"], group):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _all(images: Scored, weights: Float64) -> dict[str, Float64]:
    """Return every metric for weights (B, N)."""
    decided = {
        name: kernel(images.p_fake, images.targets, weights)
        for name, kernel in (kernels.DECIDED | kernels.CALIBRATED).items()
    }
    ranked = {
        name: kernel(images.z, images.targets, weights) for name, kernel in kernels.RANKED.items()
    }
    said = {
        name: kernel(images.verdicts, images.targets, weights) for name, kernel in VERDICTS.items()
    }
    return decided | ranked | said


def _measure(images: Scored, n_boot: int, seed: int) -> dict[str, Interval]:
    """Return every metric of images taken together."""
    if not images.z.size:
        return {name: Interval(None, None, None, 0) for name in METRICS}
    strata = strata_of(images.targets, images.domain.tolist())
    found = intervals(
        lambda weights: _all(images, weights), strata, images.group, n_boot=n_boot, seed=seed
    )
    return _with_width(images, found)


def _measure_mean(
    images: Scored,
    units: Sequence[Mapping[str, str]],
    held: NDArray[np.bool_],
    n_boot: int,
    seed: int,
) -> tuple[dict[str, Interval], int]:
    """Return every metric's mean over units, and of how many images; groups are drawn once."""
    columns = (images.domain, images.generator, images.targets)
    masks = [members(unit, *columns) for unit in units]
    inside = np.any(masks, axis=0)
    images, held = images.take(inside), held[inside]
    count = images.z.size
    inner = [np.flatnonzero(mask[inside]) for mask in masks]
    apart = [unit for unit in units if "generator" in unit]
    fakes = images.targets == 1
    if any(not at.size for at in inner) or not all(
        (fakes & (images.domain == u["domain"]) & (images.generator == u["generator"])).any()
        for u in apart
    ):
        # a unit without one usable image leaves the mean undefined, not flattered
        return {name: Interval(None, None, None, count) for name in METRICS}, count
    parts = [images.take(np.isin(np.arange(count), at)) for at in inner]

    def replicate(weights: Float64) -> Mapping[str, Float64]:
        each = [_all(part, weights[:, at]) for part, at in zip(parts, inner, strict=True)]
        return {name: np.mean([values[name] for values in each], axis=0) for name in METRICS}

    strata = strata_of(images.targets, places(images.domain, images.generator, held))
    found = intervals(replicate, strata, images.group, n_boot=n_boot, seed=seed)
    apart_masks = [mask[inside] for mask in masks]
    return _with_width(images, found, apart_masks), count


def _with_width(
    images: Scored, found: Mapping[str, Interval], units: Sequence[NDArray[np.bool_]] | None = None
) -> dict[str, Interval]:
    """Return intervals as they are quoted, of all images or of a mean over units."""
    kinds = images.targets, images.group, units
    result = dict(found) | {"ece": reflected(found["ece"])}
    result |= with_width(result, images.p_fake, *kinds)
    return result | verdicts_with_width(result, images.verdicts, *kinds)


def _figures(found: Mapping[str, Interval], where: dict[str, str]) -> list[Figure]:
    """Return intervals as figures of one slice."""
    return [
        Figure(metric=name, value=i.value, low=i.low, high=i.high, n=i.n, slice=where)
        for name, i in found.items()
    ]


def _count(failed: int, used: int, where: dict[str, str]) -> Figure:
    """Return the figure that says how many images have no score."""
    return Figure(metric=UNREADABLE, value=float(failed), n=used + failed, slice=where)

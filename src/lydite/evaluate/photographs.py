"""Photographs against photographs: a detector must not tell two sources of real images apart.

A detector that has learned a camera, a resolution or a JPEG table instead of a generator ranks the
photographs of one source above those of another, and calls them fake more often. Both are read off
the scores of any detector; nothing is trained for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lydite.card import Figure, ScoreMeaning
from lydite.evaluate import kernels
from lydite.evaluate.intervals import N_BOOT, Interval, intervals, strata_of
from lydite.evaluate.kernels import DECISION, Float64
from lydite.evaluate.score import rescale
from lydite.evaluate.shares import never_certain

#: probability that a photograph of the second domain scores above one of the first; 0.5 is right
REAL_VS_REAL = "real_vs_real_auc"
#: share of a domain's photographs that are called fake
FALSE_ALARMS = "false_alarm_rate"
#: figures of two domains' photographs are filed under {"group": GROUP, "domains": "A+B"}
GROUP = "real-vs-real"


def photograph_figures(
    scores: pa.Table,
    meaning: ScoreMeaning | None = None,
    *,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Return the false-alarm rate on each domain's photographs, and `REAL_VS_REAL` of each pair.

    The pair's AUC is P(z of B > z of A) + P(equal) / 2 for domains A < B by name. One far from
    0.5, on either side, says that the score depends on where a photograph comes from. A photograph
    that both domains hold is left out of their pair: it cannot be told from itself.

    Args:
        scores: as in `SCORES_SCHEMA`, of one detector; only the label "real" counts.
        meaning: threshold and temperature to decide by; None takes the column `p_fake`.
        split: which rows count.
        n_boot: bootstrap replicates over groups of images, see `intervals`.
        seed: equal seeds give equal intervals.

    Returns:
        Figures of {"domain": d, "split": s} and {"group": GROUP, "domains": "A+B", "split": s};
        none where no photograph has a score.
    """
    table = scores if meaning is None else rescale(scores, meaning)
    wanted = pc.and_(pc.equal(table["split"], split), pc.equal(table["label"], "real"))
    reals = table.filter(pc.and_(wanted, pc.is_valid(table["z"])))
    z, p_fake = (reals[name].to_numpy().astype(np.float64) for name in ("z", "p_fake"))
    domain, group, content = (
        np.array(reals[name].to_pylist(), dtype=np.str_) for name in ("domain", "group", "sha256")
    )
    domains = sorted(set(domain.tolist()))
    figures = []
    for name in domains:
        here = domain == name
        found = _false_alarms(p_fake[here] > DECISION, group[here], n_boot, seed)
        figures.append(_figure(FALSE_ALARMS, found, {"domain": name, "split": split}))
    for first, second in itertools.combinations(domains, 2):
        where = {"group": GROUP, "domains": f"{first}+{second}", "split": split}
        a, b = domain == first, domain == second
        shared = np.intersect1d(content[a], content[b])
        kept = (a | b) & ~np.isin(content, shared)
        found = _apart(z[kept], b[kept], group[kept], n_boot, seed)
        figures.append(_figure(REAL_VS_REAL, found, where))
    return tuple(figures)


def _false_alarms(
    called: NDArray[np.bool_], group: NDArray[np.str_], n_boot: int, seed: int
) -> Interval:
    """Return the share of photographs called fake; at 0 and 1 with Wilson's interval."""
    wrong = called.astype(np.float64)

    def replicate(weights: Float64) -> Mapping[str, Float64]:
        return {FALSE_ALARMS: weights @ wrong / weights.sum(axis=1)}

    found = intervals(replicate, [""] * wrong.size, group, n_boot=n_boot, seed=seed)[FALSE_ALARMS]
    return never_certain(found, group)


def _apart(
    z: Float64, second: NDArray[np.bool_], group: Sequence[str], n_boot: int, seed: int
) -> Interval:
    """Return the AUC of the second source's photographs against the first's."""
    if not second.size:
        return Interval(None, None, None, 0)
    sides = second.astype(np.int64)

    def replicate(weights: Float64) -> Mapping[str, Float64]:
        return {REAL_VS_REAL: kernels.auc(z, sides, weights)}

    strata = strata_of(sides, [""] * sides.size)
    return intervals(replicate, strata, group, n_boot=n_boot, seed=seed)[REAL_VS_REAL]


def _figure(metric: str, found: Interval, where: dict[str, str]) -> Figure:
    """Return an interval as a figure."""
    return Figure(
        metric=metric, value=found.value, low=found.low, high=found.high, n=found.n, slice=where
    )

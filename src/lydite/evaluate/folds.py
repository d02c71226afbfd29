"""Several folds as one answer: the mean over what each holds out, and paired tests between recipes.

The detectors of all folds are asked about the same test images. Groups of images are drawn once for
all folds, recipes and seeds (a paired bootstrap over groups, Efron and Tibshirani 1993, ch. 16), so
that an image which several folds measure, or a photograph which several domains share, moves all of
their numbers together, and nothing has to be assumed about how folds depend on each other. The
intervals say what other test images might have given; other trainings are not in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lydite.card import Figure
from lydite.errors import DataError
from lydite.evaluate.intervals import N_BOOT, interval_of, replicates, strata_of
from lydite.evaluate.kernels import (
    Float64,
    Int64,
    Kernel,
    accuracy,
    auc,
    balanced_accuracy,
)
from lydite.evaluate.shares import with_width
from lydite.evaluate.unseen import Mask, Names, held_fakes, members, places

#: figures over folds are filed under {"group": HELD_OUT}, of one fold {"group": ..., "fold": f}
HELD_OUT = "held-out"
METRICS: dict[str, Kernel] = {
    "auc": auc,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
}
#: those that recipes are compared by: what `gain_of` and `p_of` call the figures
COMPARED = ("auc", "accuracy")
#: groups of each class that a p-value needs: of fewer, the bootstrap sees too little variation, and
#: chance is called a difference too often
FEWEST_GROUPS = 20
#: the fold that stands for the mean over all of them
_MEAN = ""
#: metric, recipe, fold or the mean, and the recipe that a gain is over, "" for what is none
_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class FoldScores:
    """What one fold measured.

    Attributes:
        held: what it holds out, as {"domain": d} or {"domain": d, "generator": g}; a fold's number
            is the mean over these, each counting the same.
        scores: by recipe, a table as in `SCORES_SCHEMA` for each seed.
    """

    held: tuple[Mapping[str, str], ...]
    scores: Mapping[str, Sequence[pa.Table]]


@dataclass(frozen=True)
class _Images:
    """The test images that every detector could score.

    Attributes:
        targets: (N,) 1 for fake.
        strata: (N,) within which groups are drawn.
        group: (N,) what an image is drawn together with.
        units: by fold, the places of the images of each thing that it holds out; none where no
            image, or no fake of a generator, is left.
        scored: by fold and recipe, (z, p_fake) of each seed, all (N,).
    """

    targets: Int64
    strata: Names
    group: Names
    units: dict[str, list[NDArray[np.intp]]]
    scored: dict[tuple[str, str], list[tuple[Float64, Float64]]]


def gain_of(metric: str) -> str:
    """Return what a recipe's metric minus the reference's is called."""
    return f"{metric}_gain"


def p_of(metric: str) -> str:
    """Return what the p-value of that gain is called."""
    return f"{metric}_gain_p"


def across_folds(
    folds: Mapping[str, FoldScores],
    reference: str,
    *,
    made_of: Mapping[str, str] | None = None,
    split: str = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> dict[str, tuple[Figure, ...]]:
    """Return each recipe's figures on what folds hold out: by fold, and the mean over folds.

    A recipe of several seeds counts with the mean over them. Beside `METRICS`, every recipe but the
    reference has its gain over that one with the paired interval, and the gain's `p_value`; so has
    one that was made of another, over that one. A p-value needs an interval and `FEWEST_GROUPS`.
    Images that one detector could not score are left out for all; where that leaves nothing of
    something that a fold holds out, the fold's figures and the means over folds are undefined.

    Args:
        folds: by name; each with the same recipes and test images.
        reference: the recipe that the others are compared with.
        made_of: by recipe, the one it was made of, such as that which it is a pruned form of.
        split: which rows count.
        n_boot: bootstrap replicates over groups of images.
        seed: equal seeds give equal intervals.

    Raises:
        DataError: folds were scored on different images, or have other recipes, or there are no
            test images of what one holds out.
    """
    images = _images(folds, split)
    recipes = list(next(iter(folds.values())).scores)

    pairs = _pairs(recipes, reference, made_of or {})

    def replicate(weights: Float64) -> dict[_Key, Float64]:
        """Return every number for each draw of groups, (B,) for weights (B, N)."""
        found: dict[_Key, Float64] = {}
        for metric in METRICS:
            for recipe in recipes:
                each = [_value(images, metric, fold, recipe, weights) for fold in folds]
                each.append(np.mean(each, axis=0))
                found |= {
                    (metric, recipe, fold, ""): value
                    for fold, value in zip([*folds, _MEAN], each, strict=True)
                }
        for metric in COMPARED:
            for recipe, other in pairs:
                for fold in (*folds, _MEAN):
                    base = found[metric, other, fold, ""]
                    gained = found[metric, recipe, fold, ""] - base
                    found[gain_of(metric), recipe, fold, other] = gained
        return found

    if images.targets.size:
        drawn = replicates(replicate, images.strata, images.group, n_boot=n_boot, seed=seed)
    else:
        nothing = np.empty(0)
        drawn = {key: (float("nan"), nothing) for key in replicate(np.ones((1, 0)))}
    return _filed(drawn, recipes, images, split)


def _filed(
    drawn: Mapping[_Key, tuple[float, Float64]],
    recipes: Sequence[str],
    images: _Images,
    split: str,
) -> dict[str, tuple[Figure, ...]]:
    """Return each recipe's figures: values with their intervals, and gains with their p-values."""
    figures: dict[str, list[Figure]] = {recipe: [] for recipe in recipes}
    units = images.units | {_MEAN: [at for each in images.units.values() for at in each]}
    masks = {
        fold: [np.isin(np.arange(images.targets.size), at) for at in each]
        for fold, each in units.items()
    }
    enough = {fold: _enough(images, np.any(each, axis=0)) for fold, each in masks.items()}
    for (metric, recipe, fold, other), (value, boot) in drawn.items():
        where = {"group": HELD_OUT, "split": split} | ({"fold": fold} if fold else {})
        i = interval_of(value, boot, int(np.any(masks[fold], axis=0).sum()))
        if other:
            where["against"] = other
            test = p_value(boot) if i.low is not None and enough[fold] else None
            p = Figure(metric=f"{metric}_p", value=test, n=i.n, slice=where)
        else:
            kinds = images.targets, images.group, masks[fold]
            i = with_width({metric: i}, np.zeros(images.targets.size), *kinds)[metric]
        figures[recipe].append(
            Figure(metric=metric, value=i.value, low=i.low, high=i.high, n=i.n, slice=where)
        )
        if other:
            figures[recipe].append(p)
    return {recipe: tuple(found) for recipe, found in figures.items()}


def _enough(images: _Images, inside: Mask) -> bool:
    """Tell whether images are of so many groups that a p-value may be given."""
    return all(
        np.unique(images.group[inside & (images.targets == kind)]).size >= FEWEST_GROUPS
        for kind in (0, 1)
    )


def _pairs(
    recipes: Sequence[str], reference: str, made_of: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return which recipe is compared with which: with the reference, and what it was made of."""
    pairs = [(recipe, reference) for recipe in recipes if recipe != reference]
    pairs += [(recipe, made_of[recipe]) for recipe in recipes if recipe in made_of]
    return [pair for pair in dict.fromkeys(pairs) if pair[1] in recipes]


def p_value(drawn: Float64) -> float | None:
    """Return the two-sided p-value of a difference of zero, from its (B,) replicates.

    Twice the smaller share of replicates on one side of zero, zero itself on both, and one more
    replicate on that side, so that it is never 0 (Davison and Hinkley 1997, section 4.2). None
    where there are no replicates.
    """
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return None
    side = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (defined.size + 1))


def _value(images: _Images, metric: str, fold: str, recipe: str, weights: Float64) -> Float64:
    """Return a recipe's metric in a fold, (B,): the mean over seeds and what is held out."""
    if not all(at.size for at in images.units[fold]):
        return np.full(len(weights), np.nan)
    ranked = metric == "auc"
    return np.asarray(
        np.mean(
            [
                METRICS[metric]((z if ranked else p)[at], images.targets[at], weights[:, at])
                for z, p in images.scored[fold, recipe]
                for at in images.units[fold]
            ],
            axis=0,
        )
    )


def _images(folds: Mapping[str, FoldScores], split: str) -> _Images:
    """Bring the scores of all folds to one order of images."""
    tables = _tables(folds, split)
    first = next(iter(tables.values()))[0]
    every = [table for found in tables.values() for table in found]
    kept = np.all([table["z"].is_valid().to_numpy() for table in every], axis=0)
    targets = first["target"].to_numpy().astype(np.int64)
    domain, generator, group = (
        np.array(first[name].to_pylist(), dtype=np.str_)
        for name in ("domain", "generator", "group")
    )
    units = {}
    for name, fold in folds.items():
        there = [members(u, domain, generator, targets) for u in fold.held]
        if not there or not all(mask.any() for mask in there):
            raise DataError(f"Fold {name}: nothing was measured of what it holds out.")
        units[name] = [
            _left(unit, mask[kept], targets[kept])
            for unit, mask in zip(fold.held, there, strict=True)
        ]
    targets, group = targets[kept], group[kept]
    domain, generator = domain[kept], generator[kept]
    apart = [u["generator"] for fold in folds.values() for u in fold.held if "generator" in u]
    held = held_fakes(targets, generator, apart)
    scored = {
        key: [
            (
                table["z"].to_numpy().astype(np.float64)[kept],
                table["p_fake"].to_numpy().astype(np.float64)[kept],
            )
            for table in found
        ]
        for key, found in tables.items()
    }
    strata = strata_of(targets, places(domain, generator, held))
    return _Images(targets, strata, group, units, scored)


def _left(unit: Mapping[str, str], mask: Mask, targets: Int64) -> NDArray[np.intp]:
    """Return the places of a unit's images; none where a generator's fakes are gone."""
    if "generator" in unit and not (mask & (targets == 1)).any():
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(mask)


def _tables(folds: Mapping[str, FoldScores], split: str) -> dict[tuple[str, str], list[pa.Table]]:
    """Return the rows of a split by fold and recipe, all in the order of their content."""
    order = [("sha256", "ascending"), ("path", "ascending")]
    tables = {
        (name, recipe): [t.filter(pc.equal(t["split"], split)).sort_by(order) for t in found]
        for name, fold in folds.items()
        for recipe, found in fold.scores.items()
    }
    recipes = [set(fold.scores) for fold in folds.values()]
    if any(there != recipes[0] for there in recipes):
        raise DataError("Every fold needs the scores of the same recipes, to be compared.")
    first = next(iter(tables.values()))[0]
    for (name, recipe), found in tables.items():
        if any(t["sha256"] != first["sha256"] or t["path"] != first["path"] for t in found):
            raise DataError(
                f"Fold {name}: {recipe} was scored on other images than the first fold's recipes."
            )
    return tables

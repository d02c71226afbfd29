"""Can a property that is no trace of a generator tell the classes apart?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lydite.errors import MissingExtraError

try:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold
except ImportError as error:
    raise MissingExtraError("data", "scikit-learn") from error

Float64 = NDArray[np.float64]

FOLDS = 5
#: fewer images or groups than these of a class say nothing
LEAST_IMAGES = 20
LEAST_GROUPS = 10
MOST_IMAGES = 6000
BOOTSTRAPS = 200


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve with its 95 % interval."""

    value: float
    low: float
    high: float


def enough(target: NDArray[np.int64], groups: NDArray[np.int64]) -> bool:
    """Tell whether both classes have images and groups enough for cross-validation."""
    for value in (0, 1):
        mine = target == value
        if mine.sum() < LEAST_IMAGES or len(np.unique(groups[mine])) < LEAST_GROUPS:
            return False
    return True


def thin(groups: NDArray[np.int64], seed: int, most: int | None = None) -> NDArray[np.int64]:
    """Return `most` rows, or `MOST_IMAGES`, group by group in random order; the last may be cut."""
    most = MOST_IMAGES if most is None else most
    if len(groups) <= most:
        return np.arange(len(groups))
    rank = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    order = np.argsort(rank[groups], kind="stable")
    return np.sort(order[:most])


def separability(
    features: Float64, target: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> Auc:
    """Return how well features tell the classes apart on groups that were not learned from.

    Gradient-boosted trees score every image in the fold that left its group out; scores become
    ranks within their fold, which makes folds comparable; the interval is a bootstrap over groups.

    Args:
        features: (N, D), NaN where a property does not exist.
        target: (N,) 0 or 1.
        groups: (N,) from 0; images that belong together.
        seed: of folds and bootstrap.

    Returns:
        AUC 0.5 without width where all features are constant.
    """
    if all(len(np.unique(column)) < 2 for column in features.T):
        return Auc(0.5, 0.5, 0.5)
    scores = np.zeros(len(target))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # folds that cannot be balanced exactly
        for learn, hold in folds.split(features, target, groups):
            scores[hold] = _ranks(predict(features[learn], target[learn], features[hold]))
    return bootstrap_auc(scores, target, groups, seed)


def predict(features: Float64, target: NDArray[np.int64], unseen: Float64) -> Float64:
    """Fit small gradient-boosted trees and return p(class 1) of unseen rows."""
    known = ~np.isnan(features).all(axis=0)  # scikit-learn cannot bin a column without any value
    features, unseen = features[:, known], unseen[:, known]
    if not known.any() or len(np.unique(target)) < 2:
        return np.full(len(unseen), 0.5)
    trees = HistGradientBoostingClassifier(
        max_iter=40,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    return np.asarray(trees.fit(features, target).predict_proba(unseen)[:, 1], dtype=np.float64)


def bootstrap_auc(
    scores: Float64, target: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> Auc:
    """Return the AUC of scores and its percentile interval over resampled groups."""
    _, groups = np.unique(groups, return_inverse=True)
    count = int(groups.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), BOOTSTRAPS)
    weights = np.concatenate([np.ones((1, count), np.int64), draws])[:, groups]
    values = weighted_auc(scores, target, weights.astype(np.float64))
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Auc(float(values[0]), float(low), float(high))


def weighted_auc(scores: Float64, target: NDArray[np.int64], weights: Float64) -> Float64:
    """Return the AUC under each of several weightings; a tie counts one half.

    Args:
        scores: (N,).
        target: (N,) 0 or 1.
        weights: (R, N), each at least 0.

    Returns:
        (R,), NaN where one class has no weight.
    """
    levels, position = np.unique(scores, return_inverse=True)
    results = np.empty(len(weights))
    for row, weight in enumerate(weights):
        fake = np.bincount(position, weight * (target == 1), minlength=len(levels))
        real = np.bincount(position, weight * (target == 0), minlength=len(levels))
        below = np.cumsum(real) - real / 2
        area = fake.sum() * real.sum()
        results[row] = (fake @ below) / area if area else np.nan
    return results


def _ranks(values: Float64) -> Float64:
    """Return mid-ranks of values, from 0 to 1."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.asarray(middle[position] / len(values), dtype=np.float64)

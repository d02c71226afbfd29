"""What probes learn with: small, seeded, on one thread, fast enough to run in every study."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lydite.data.audit.confound import predict
from lydite.evaluate.probes.looks import Looks, content
from lydite.evaluate.probes.shuffle import Int64

Float64 = NDArray[np.float64]

#: of scikit-learn's logistic regression; thumbnails have 203 features, and training images are few
INVERSE_PENALTY = 0.1
#: probabilities are held away from 0 and 1 by this, so that their logits are finite
_EDGE = 1e-9


def from_header(known: Looks, targets: Int64, new: Looks) -> Float64:
    """Return logits of new images from their headers: gradient-boosted trees, no pixel.

    Args:
        known: what was seen of M training images.
        targets: (M,) 0 or 1.
        new: the same of N others.

    Returns:
        (N,).
    """
    return _logit(predict(known.header, targets, new.header))


def from_thumbnail(known: Looks, targets: Int64, new: Looks) -> Float64:
    """Return logits of new images from their thumbnails: logistic regression, both classes equal.

    Args:
        known: what was seen of M training images.
        targets: (M,) 0 or 1.
        new: the same of N others.

    Returns:
        (N,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Newton's method converges in a few steps with a penalty, and draws nothing at random
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=INVERSE_PENALTY, solver="newton-cholesky", class_weight="balanced"),
    )
    model.fit(content(known.thumbnails), targets)
    return np.asarray(model.decision_function(content(new.thumbnails)), dtype=np.float64)


def from_memory(known: Looks, targets: Int64, new: Looks) -> Float64:
    """Return scores of new images from the known one that looks most alike; this learns nothing.

    The sign is the class of the nearest thumbnail. The size falls from one, where the two are
    alike, with their distance in units of the median distance: a copy outranks a resemblance.

    Args:
        known: what was seen of M training images.
        targets: (M,) 0 or 1.
        new: the same of N others.

    Returns:
        (N,) from -1 to 1.
    """
    from sklearn.neighbors import NearestNeighbors

    table = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_flat(known))
    distances, nearest = table.kneighbors(_flat(new))
    usual = float(np.median(distances)) or 1.0
    signs = 2.0 * targets[nearest[:, 0]] - 1.0
    return np.asarray(signs * np.exp(-distances[:, 0] / usual), dtype=np.float64)


def _flat(looks: Looks) -> Float64:
    return looks.thumbnails.reshape(len(looks.thumbnails), -1)


def _logit(p: Float64) -> Float64:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)

"""Where an adapter belongs, predicted before any training from a few batches of images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from lydite.data.manifest import Manifest
from lydite.detector import Detector, versions
from lydite.errors import ConfigError
from lydite.recipe import Progress, silent
from lydite.training.device import number_format
from lydite.training.settings import TrainSettings
from lydite.transfer.observe import Observed, observe
from lydite.transfer.placement_result import Placement, PlaceRow, Prediction
from lydite.transfer.predictors import PREDICTORS

CROPS = 128


def measure_placement(
    detector: Detector,
    images: Manifest,
    known: Manifest | None = None,
    *,
    predictors: Sequence[str] | None = None,
    crops: int = CROPS,
    seed: int = 0,
    settings: TrainSettings | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Placement:
    """Ask predictors where an adapter belongs; the detector stays as it is.

    Args:
        detector: trained, not quantized.
        images: of what it is to learn, labeled; of the training split, as a rule.
        known: images of what it knows already.
        predictors: names of `PREDICTORS`; all that these images serve unless given.
        crops: how many to draw, of each of the two.
        seed: of the draw.
        settings: of the training that is to come, whose crops are drawn.
        device: "auto", "cpu" or "cuda".
        progress: told how many crops are done.

    Raises:
        ConfigError: an unknown predictor, one that needs known images without any, too few crops,
            no free place, or a quantized detector.
        DataError: a class is missing, or an image cannot be read.
    """
    names = _asked(predictors, known is not None)
    if crops < 2:
        raise ConfigError(f"`crops` must be 2 or more, one of each class. Got {crops}.")
    observed = observe(
        detector,
        images,
        known,
        crops=crops,
        seed=seed,
        settings=settings,
        device=number_format()[0] if device == "auto" else device,
        progress=lambda done, total: progress("place", done, total, detector.card.name),
    )
    return Placement(
        detector=detector.card.name,
        card_digest=detector.card.digest,
        images=images.digest,
        known=None if known is None else known.digest,
        crops=crops,
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        places=tuple(place_rows(observed, names)),
    )


def place_rows(observed: Sequence[Observed], names: Sequence[str]) -> list[PlaceRow]:
    """Return a row a place, with the value and rank of each predictor."""
    predictions: list[dict[str, Prediction]] = [{} for _ in observed]
    for name in names:
        predictor = PREDICTORS.get(name)
        values = [predictor.of(place) for place in observed]
        for row, value, rank in zip(
            predictions, values, ranks_of(values, predictor.better), strict=True
        ):
            row[name] = Prediction(value=value, rank=rank)
    return [
        PlaceRow(stage=place.stage, channels=place.channels, predictions=row)
        for place, row in zip(observed, predictions, strict=True)
    ]


def ranks_of(
    values: Sequence[float | None], better: Literal["higher", "lower"]
) -> list[float | None]:
    """Return the rank of every value, 1 for the best; ties share their mean rank.

    >>> ranks_of([0.5, None, 0.9, 0.5], "higher")
    [2.5, None, 1.0, 2.5]
    """
    known = np.array([value for value in values if value is not None])
    key = -known if better == "higher" else known
    ranks = iter(((key[:, None] > key).sum(1) + ((key[:, None] == key).sum(1) + 1) / 2).tolist())
    return [None if value is None else next(ranks) for value in values]


def _asked(names: Sequence[str] | None, known: bool) -> list[str]:
    """Return the predictors to ask, each once.

    Raises:
        ConfigError: there is no such predictor, or it needs known images and there are none.
    """
    if names is None:
        return [name for name in PREDICTORS if known or not PREDICTORS.get(name).known]
    for name in names:
        if PREDICTORS.get(name).known and not known:
            raise ConfigError(
                f"The predictor {name} needs images that the detector knows, and there are none. "
                "Give some, or use another predictor."
            )
    return list(dict.fromkeys(names))

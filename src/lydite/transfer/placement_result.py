"""The result of asking predictors where an adapter belongs, as one append-only JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lydite.config import Frozen, Sha256, validation_sentence
from lydite.errors import DataError, unknown_name
from lydite.files import read_json, write_json
from lydite.transfer.placement_sweep import Sweep

PLACEMENT_FORMAT = "lydite-placement"
PLACEMENT_VERSION = 1


class Prediction(Frozen):
    """What a predictor says of one place.

    Attributes:
        value: its number; None where it is not defined.
        rank: 1 for the place that it promises most of; places that tie share their mean rank.
    """

    value: float | None
    rank: float | None


class PlaceRow(Frozen):
    """One place.

    Attributes:
        stage: behind which an adapter would sit.
        channels: of the map there.
        predictions: by predictor.
    """

    stage: str
    channels: int
    predictions: dict[str, Prediction]


class Placement(Frozen):
    """Where predictors would put an adapter.

    Attributes:
        format: always "lydite-placement".
        version: of this format.
        detector: its name.
        card_digest: of its card.
        images: digest of the images that crops were drawn of.
        known: the same of images that it knows; None where there were none.
        crops: how many were drawn, of each of the two.
        seed: of the draw.
        created: ISO time, UTC.
        versions: of lydite and libraries.
        places: every free one, input side first.
        sweep: what adapters at these places turned out to be worth; None where none were trained.
    """

    format: Literal["lydite-placement"] = "lydite-placement"
    version: Annotated[int, Field(ge=1)] = PLACEMENT_VERSION
    detector: str
    card_digest: Sha256
    images: Sha256
    known: Sha256 | None
    crops: int
    seed: int
    created: str
    versions: dict[str, str]
    places: Annotated[tuple[PlaceRow, ...], Field(min_length=1)]
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _swept_where_ranked(self) -> Placement:
        if self.sweep is not None and set(self.sweep.places) != {row.stage for row in self.places}:
            raise ValueError("the sweep is not over the places that were ranked")
        return self

    @property
    def predictors(self) -> tuple[str, ...]:
        """Names of the predictors that were asked."""
        return tuple(self.places[0].predictions)

    def choice(self, predictor: str) -> str:
        """Return the place that a predictor puts first; of several, the one nearest to the input.

        Raises:
            DataError: it was not asked, or is defined nowhere.
        """
        if predictor not in self.predictors:
            raise DataError(unknown_name("predictor", predictor, self.predictors))
        ranked = [
            (prediction.rank, row.stage)
            for row in self.places
            if (prediction := row.predictions[predictor]).rank is not None
        ]
        if not ranked:
            raise DataError(
                f"`{predictor}` is not defined at any place of {self.detector} on these "
                f"{self.crops} crops. Use more images, or another predictor."
            )
        return min(ranked, key=lambda pair: pair[0] or 0.0)[1]


def write_placement(folder: Path, result: Placement) -> Path:
    """Write a result under a name that no other has; existing files are never changed."""
    stem = f"placement-{result.card_digest[:10]}-{result.images[:10]}"
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_json(path, result.model_dump(mode="json"))
    return path


def read_placement(path: Path) -> Placement:
    """Return the placement in a file.

    Raises:
        FileError: the file cannot be read.
        DataError: it holds something else, or a newer format.
    """
    value = read_json(path)
    if not is_placement(value):
        raise DataError(f"{path} is not a placement. Make one with: lydite place -o FOLDER")
    version = value.get("version")
    if isinstance(version, int) and version > PLACEMENT_VERSION:
        raise DataError(
            f"{path} has format version {version}; this lydite reads up to {PLACEMENT_VERSION}. "
            "Upgrade lydite to use it."
        )
    try:
        return Placement.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{path} is not a placement: {validation_sentence(error)}") from error


def is_placement(value: Any) -> bool:
    """Tell whether a JSON value says that it is a placement."""
    return isinstance(value, dict) and value.get("format") == PLACEMENT_FORMAT

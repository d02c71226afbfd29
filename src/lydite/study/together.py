"""What the folds of a protocol say together: one record, made from the scores of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from lydite.card import Figure
from lydite.config import Frozen, validation_sentence
from lydite.detector import versions
from lydite.errors import DataError
from lydite.evaluate.folds import FoldScores, across_folds
from lydite.evaluate.score import read_scores
from lydite.files import read_json, write_json
from lydite.study.protocol import Protocol
from lydite.study.results import TOGETHER_FILE, Result
from lydite.study.spec import Fold, Study

TOGETHER_VERSION = 1


class RecipeTogether(Frozen):
    """One recipe over all folds.

    Attributes:
        recipe: its name.
        approach: short name of its kind.
        reference: the others are compared with this one.
        made_of: the recipe that it comes after, with which it is compared too; None for none.
        seeds: its numbers are the means over these.
        figures: see `lydite.evaluate.folds.across_folds`.
    """

    recipe: str
    approach: str
    reference: bool
    made_of: str | None = None
    seeds: tuple[int, ...]
    figures: tuple[Figure, ...]

    def figure(self, metric: str, **where: str) -> Figure | None:
        """Return the figure of a metric on exactly this slice, or None."""
        return next((f for f in self.figures if f.metric == metric and f.slice == where), None)


class Together(Frozen):
    """All recipes over all folds of a protocol.

    Attributes:
        study: its name.
        protocol: what made the folds.
        folds: in the protocol's order.
        recipes: in the study's order.
        versions: of lydite and libraries.
    """

    format: Literal["lydite-protocol"] = "lydite-protocol"
    version: Annotated[int, Field(ge=1, le=TOGETHER_VERSION)] = TOGETHER_VERSION
    study: str
    protocol: Protocol
    folds: tuple[Fold, ...]
    recipes: tuple[RecipeTogether, ...]
    versions: dict[str, str] = {}

    @property
    def reference(self) -> str:
        """The recipe that others are compared with."""
        return next(r.recipe for r in self.recipes if r.reference)


def together(study: Study, folder: Path, results: Mapping[str, Sequence[Result]]) -> Together:
    """Return what all folds say together.

    Args:
        study: with its protocol and folds.
        folder: of all folds, which hold their scores.
        results: of each fold, by its name.

    Raises:
        DataError: scores are missing or do not fit together.
    """
    assert study.protocol is not None, "folds by hand have nothing that they hold out"
    first = next(iter(results.values()))
    seeds = {r.recipe: study.seeds_of(r.recipe) for r in first}
    folds = {
        fold.name: FoldScores(
            fold.held,
            {
                recipe: [
                    _scores(folder / fold.name, recipe, seed, several=len(wanted) > 1)
                    for seed in wanted
                ]
                for recipe, wanted in seeds.items()
            },
        )
        for fold in study.folds
    }
    made_of = study.made_of()
    found = across_folds(folds, study.reference_name, made_of=made_of)
    return Together(
        study=study.name,
        protocol=study.protocol,
        folds=study.folds,
        recipes=tuple(
            RecipeTogether(
                recipe=name,
                approach=study.approach_of(name),
                reference=name == study.reference_name,
                made_of=made_of.get(name),
                seeds=wanted,
                figures=found[name],
            )
            for name, wanted in seeds.items()
        ),
        versions=versions(),
    )


def write_together(folder: Path, value: Together) -> Path:
    """Write the record into the folder of all folds, and return its file."""
    path = folder / TOGETHER_FILE
    write_json(path, value.model_dump(mode="json"), compact=True)
    return path


def read_together(folder: Path) -> Together | None:
    """Return the record in a folder, or None where there is none.

    Raises:
        DataError: the file is no such record, or a newer one.
    """
    path = folder / TOGETHER_FILE
    if not path.is_file():
        return None
    try:
        return Together.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path} is no record of folds: {validation_sentence(error)}") from error


def _scores(fold: Path, recipe: str, seed: int, *, several: bool) -> pa.Table:
    """Return the scores of a fold's detector."""
    name = f"{recipe}-seed{seed}" if several else recipe
    return read_scores(fold / "scores" / f"{name}.parquet")

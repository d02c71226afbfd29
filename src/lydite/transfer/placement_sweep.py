"""What a sweep over the places measured: an adapter trained at each of them, as data.

`lydite.study.sweep` makes it; it is kept in the placement whose predictors it is held against.
"""

from __future__ import annotations

import statistics
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lydite.card import Figure
from lydite.config import Frozen, Sha256
from lydite.errors import DataError

#: the detector as it is, in studies and figures
BASE = "base"
#: what a sweep is compared by
Measure = Literal["auc", "accuracy"]
#: which images: those learned, those known already, or all others where nobody said what is known
Role = Literal["target", "source", "others"]


class Trial(Frozen):
    """One adapter, trained at one place with one seed and measured on the test split.

    Attributes:
        place: the stage behind which it sits.
        seed: of its recipe.
        card_digest: of the adapted detector's card.
        trainable_parameters: how many values learned.
        figures: `accuracy_gain`, paired by image, and `auc_gain`, both against the base; `slice`
            names role and split. The AUC of several other domains is a mean over them.
    """

    place: str
    seed: int
    card_digest: Sha256
    trainable_parameters: Annotated[int, Field(ge=1)]
    figures: tuple[Figure, ...]

    def gain(self, measure: Measure, role: Role = "target") -> float | None:
        """Return by how much the adapter changed a measure; None where that is not known."""
        figures = [f for f in self.figures if f.metric == f"{measure}_gain"]
        return next((f.value for f in figures if f.slice.get("role") == role), None)


class Sweep(Frozen):
    """Adapters trained and measured at every place of a detector, all in the same way.

    Attributes:
        target: domains that they learned.
        source: domains that the detector knows; none: it was not said.
        network: the detector's, as recipes call it.
        step: the entry of `adapt` in their recipes, without its place.
        shots: images of each class and domain that they learned from; None: all there are.
        data: digests of manifest and selections, by role.
        created: ISO time, UTC, of the last measurement.
        versions: of lydite and libraries.
        base: accuracy and AUC of the detector as it is; `slice` names role and split.
        trials: one for each place and seed.
    """

    target: Annotated[tuple[str, ...], Field(min_length=1)]
    source: tuple[str, ...]
    network: str
    step: dict[str, Any]
    shots: int | None
    data: dict[str, str]
    created: str
    versions: dict[str, str]
    base: tuple[Figure, ...]
    trials: Annotated[tuple[Trial, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_place_with_every_seed(self) -> Sweep:
        pairs = [(trial.place, trial.seed) for trial in self.trials]
        if sorted(pairs) != sorted((place, seed) for place in self.places for seed in self.seeds):
            raise ValueError("not every place was measured once with every seed")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """The places, each once."""
        return tuple(dict.fromkeys(trial.place for trial in self.trials))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, each once."""
        return tuple(dict.fromkeys(trial.seed for trial in self.trials))

    @property
    def rest(self) -> Role:
        """The role of the images that were not learned."""
        return "source" if self.source else "others"

    def at(self, place: str) -> list[Trial]:
        """Return the trials at a place, one for each seed."""
        return [trial for trial in self.trials if trial.place == place]

    def gains(self, place: str, measure: Measure, role: Role = "target") -> list[float]:
        """Return the gains at a place, one for each seed where it is defined."""
        found = [trial.gain(measure, role) for trial in self.at(place)]
        return [value for value in found if value is not None]

    def mean_gains(self, measure: Measure) -> dict[str, float]:
        """Return the gain on the target by place, as a mean over seeds.

        Raises:
            DataError: it is not defined at some place with some seed.
        """
        means = {}
        for place in self.places:
            gains = self.gains(place, measure)
            if len(gains) < len(self.seeds):
                raise DataError(
                    f"The sweep has no {measure} on {', '.join(self.target)} for an adapter at "
                    f"{place}. It is defined where the test split holds both classes of them."
                )
            means[place] = statistics.mean(gains)
        return means

"""The step `adapt`: a frozen detector learns something new through one small module.

Transfer as in the paper's TL+KD+A and TL+P+A (arXiv 2504.21066): an adapter is put behind one block
and trained, and everything that the detector knew stays as it is, bit for bit.
"""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from lydite.card import ScoreMeaning
from lydite.config import Fraction
from lydite.detector import Detector
from lydite.edits import RANKED, AdapterKind, AddAdapter
from lydite.errors import CardError, ConfigError, unknown_name
from lydite.models.contract import ADAPTERS_NAME, Network, adapter_key
from lydite.models.surgery import add_adapter_
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.loop import fit, require_trained
from lydite.training.objectives import cross_entropy
from lydite.training.settings import TrainSettings
from lydite.transfer.layers import parameters_of

WORDS = ("first", "middle", "last", "paper")
RANK = 8


def find_place(network: Network, place: int | str, name: str) -> str:
    """Return the stage that a recipe means.

    Args:
        network: with stages.
        place: a stage's name; its number from 0 on the input side, negative from the end; "first",
            "middle" (the fourth of eight) or "last"; or "paper": the middle of the paper's baseline
            and the last of its students.
        name: of the network in recipes.

    Raises:
        ConfigError: the network has no stages, or not this one.
    """
    stages = network.stages()
    if not stages:
        raise ConfigError(
            f"`adapt` finds no place for an adapter in networks of {network.family}: only those of "
            "`lydite models` say where one may sit. Use `finetune` with `layers: head`."
        )
    if place == "paper":
        if network.family != "paper":
            raise ConfigError(
                f"`place: paper` of adapt is known for the paper's own networks; this is {name}. "
                "Use first, middle or last."
            )
        place = "middle" if name == "paper-baseline" else "last"
    if isinstance(place, str):
        numbers = {"first": 0, "middle": (len(stages) - 1) // 2, "last": len(stages) - 1}
        if place not in numbers and place not in stages:
            raise ConfigError(
                f"`place` of adapt: {unknown_name('place', place, (*WORDS, *stages))}"
            )
        return stages[numbers[place]] if place in numbers else place
    if not -len(stages) <= place < len(stages):
        raise ConfigError(
            f"`place` of adapt must be a number from {-len(stages)} to {len(stages) - 1} for this "
            f"network: {', '.join(stages)}. Got {place}."
        )
    return stages[place]


@STEPS.add("adapt")
class Adapt(Step, TrainSettings):
    """Put an adapter into the detector and train it; all else stays frozen.

    Frozen batch norms keep their running statistics, so without the adapter the detector would
    still answer as before. A place takes one adapter; a further `adapt` at another place freezes
    the adapters before it.

    Attributes:
        place: behind which stage: a name such as "body.relu4"; a number from 0 on the input side,
            negative from the end; "first", "middle" or "last"; or "paper", where the paper has it.
        adapter: "separable", the paper's, which changes answers at once; or one that starts by
            changing nothing: "residual-separable", "bottleneck", "lora", "affine" or "linear" (the
            paper's control); see `lydite.models.adapter`.
        rank: channels inside "bottleneck" and "lora"; 8 unless given, or all where there are fewer.
        also: what learns besides: "head", "norms" or both.
    """

    kind: ClassVar[str] = "adapt"

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 300
    warmup: Fraction = 0.05
    place: StrictInt | str
    adapter: AdapterKind = "separable"
    rank: Annotated[int, Field(ge=1)] | None = None
    also: tuple[Literal["head", "norms"], ...] = ()

    @field_validator("also")
    @classmethod
    def _each_once(
        cls, value: tuple[Literal["head", "norms"], ...]
    ) -> tuple[Literal["head", "norms"], ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _rank_where_there_is_one(self) -> Adapt:
        if self.rank is not None and self.adapter not in RANKED:
            raise ValueError(
                f"`rank` says nothing of the adapter {self.adapter}; take it out, or use one of "
                f"{', '.join(sorted(RANKED))}"
            )
        return self

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network."""
        super().check(stage)
        require_trained(self, stage, "an adapter changes what a detector already knows.")
        stage.images += self.steps * self.batch

    def outline(self, detector: Detector) -> Detector:
        """Return the detector with its adapter, untrained.

        Raises:
            ConfigError: no such place, an adapter is there already, or `rank` or `also` do not fit.
        """
        adapted, _ = self._inserted(detector, 0)
        self._trainable(adapted)
        return adapted

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with its adapter, trained.

        The meaning of the score is reset: scores are fitted anew.

        Raises:
            ConfigError: as in `outline`.
        """
        adapted, edit = self._inserted(parent, context.seed)
        fitted = fit(
            adapted.network,
            cross_entropy(self.label_smoothing),
            adapted,
            self,
            context,
            what=self.kind,
            trainable=self._trainable(adapted),
        )
        report = fitted.report | {"adapter": edit.kind, "after": edit.after}
        return adapted.evolve(network=fitted.network, training=report)

    def _inserted(self, parent: Detector, seed: int) -> tuple[Detector, AddAdapter]:
        """Return the detector with a new adapter, and the edit that says so."""
        edit = self._edit(parent)
        network = copy.deepcopy(parent.network)
        try:
            add_adapter_(network, edit, seed)
        except CardError as error:
            raise ConfigError(f"`adapt` is not possible here. {error}") from error
        edits = (*parent.card.edits, edit)
        made = parent.evolve(network=network, edits=edits, score=ScoreMeaning(), measured=())
        return made, edit

    def _edit(self, parent: Detector) -> AddAdapter:
        """Return what is added where."""
        network = parent.network
        after = find_place(network, self.place, parent.card.architecture.network)
        channels = network.channels_after(after)
        if self.adapter not in RANKED:
            return AddAdapter(after=after, kind=self.adapter, channels=channels)
        rank = min(RANK, channels) if self.rank is None else self.rank
        if rank > channels:
            raise ConfigError(
                f"`rank` of adapt must be 1 to {channels}, the channels behind '{after}'. "
                f"Got {rank}."
            )
        return AddAdapter(after=after, kind=self.adapter, channels=channels, rank=rank)

    def _trainable(self, adapted: Detector) -> frozenset[str]:
        """Return the parameters that learn: those of the new adapter, and what `also` names."""
        network, (*_, edit) = adapted.network, adapted.card.edits
        assert isinstance(edit, AddAdapter)
        own = f"{ADAPTERS_NAME}.{adapter_key(edit.after)}."
        found = {name for name, _ in network.named_parameters() if name.startswith(own)}
        return frozenset(found.union(*(parameters_of(network, layers) for layers in self.also)))

"""The step `adapt`: a frozen detector learns something new through one small module.

Transfer as in the paper's TL+KD+A and TL+P+A (arXiv 2504.21066): an adapter is put behind one block
and trained, and everything that the detector knew stays as it is, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictInt, ValidationInfo, field_validator, model_validator

from lydite.card import ScoreMeaning
from lydite.config import Fraction, validate
from lydite.detector import Detector
from lydite.edits import RANKED, AdapterKind, AddAdapter
from lydite.errors import CardError, ConfigError, unknown_name
from lydite.export.calibration import balanced_sample, calibration_tiles
from lydite.files import read_json, write_json
from lydite.models.contract import ADAPTERS_NAME, Network, adapter_key
from lydite.models.surgery import add_adapter_
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.labels import FromLabels
from lydite.training.team import Team
from lydite.training.train import fit_labels, require_trained
from lydite.transfer.layers import parameters_of
from lydite.transfer.observe import free_places
from lydite.transfer.packs import as_exported
from lydite.transfer.placement import CROPS, measure_placement
from lydite.transfer.placement_result import Placement
from lydite.transfer.predictors import PREDICTORS

Place = StrictInt | str
WORDS = ("first", "middle", "last", "paper")
RANK = 8
AUTO = "auto"
#: training images that the ranges behind an adapter are measured on, half of each class
CALIBRATION_IMAGES = 64
#: what `place: auto` asks; the placement study decides which predictor this is
PREDICTOR = "gradient-rank"


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
                f"`place` of adapt: {unknown_name('place', place, (*WORDS, AUTO, *stages))}"
            )
        return stages[numbers[place]] if place in numbers else place
    if not -len(stages) <= place < len(stages):
        raise ConfigError(
            f"`place` of adapt must be a number from {-len(stages)} to {len(stages) - 1} for this "
            f"network: {', '.join(stages)}. Got {place}."
        )
    return stages[place]


@STEPS.add("adapt")
class Adapt(Step, FromLabels):
    """Put an adapter into the detector and train it; all else stays frozen.

    Frozen batch norms keep their running statistics, so without the adapter the detector would
    still answer as before. A place takes one adapter; a further `adapt` at another place freezes
    the adapters before it.

    Attributes:
        place: behind which stage: a name such as "body.relu4"; a number from 0 on the input side,
            negative from the end; "first", "middle" or "last"; "paper", where the paper has it; or
            "auto": where `predictor` puts it, asked of training images. A list of places puts an
            adapter behind each, and they learn together.
        adapter: "separable", the paper's, which changes answers at once; or one that starts by
            changing nothing: "residual-separable", "bottleneck", "lora", "affine" or "linear" (the
            paper's control); see `lydite.models.adapter`.
        rank: channels inside "bottleneck" and "lora"; 8 unless given, or all where there are fewer.
        also: what learns besides: "head", "norms" or both.
        predictor: with `place: auto`, what chooses the place: a name of
            `lydite.transfer.predictors` that needs no known images; "gradient-rank" unless given.
    """

    kind: ClassVar[str] = "adapt"
    quiet: ClassVar[frozenset[str]] = FromLabels.newer | {"predictor"}

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 600
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-3
    warmup: Fraction = 0.05
    place: Place | Annotated[tuple[Place, ...], Field(min_length=1)]
    adapter: AdapterKind = "separable"
    rank: Annotated[int, Field(ge=1)] | None = None
    also: tuple[Literal["head", "norms"], ...] = ()
    predictor: Annotated[str | None, Field(validate_default=True)] = None

    @field_validator("place")
    @classmethod
    def _known_before(cls, value: Place | tuple[Place, ...]) -> Place | tuple[Place, ...]:
        if isinstance(value, tuple) and AUTO in value:
            raise ValueError("`auto` chooses one place; it cannot stand in a list of them")
        return value

    @field_validator("also")
    @classmethod
    def _each_once(
        cls, value: tuple[Literal["head", "norms"], ...]
    ) -> tuple[Literal["head", "norms"], ...]:
        return tuple(sorted(set(value)))

    @field_validator("predictor")
    @classmethod
    def _where_it_chooses(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("place") != AUTO:
            if value is not None:
                raise ValueError("only `place: auto` asks a predictor; take it out, or use that")
            return None
        # the name stands in the step's entry, so that another default is another key
        value = PREDICTOR if value is None else value
        usable = [name for name in PREDICTORS if not PREDICTORS.get(name).known]
        if value not in usable:
            if value in PREDICTORS:
                raise ValueError(
                    f"the predictor {value} needs images that the detector knows, which a recipe "
                    f"does not have; ask it with `lydite place`, or use {', '.join(usable)}"
                )
            raise ValueError(unknown_name("predictor", value, usable))
        return value

    @model_validator(mode="after")
    def _rank_where_there_is_one(self) -> Adapt:
        if self.rank is not None and self.adapter not in RANKED:
            raise ValueError(
                f"`rank` says nothing of the adapter {self.adapter}; take it out, or use one of "
                f"{', '.join(sorted(RANKED))}"
            )
        return self

    @property
    def places(self) -> tuple[Place, ...]:
        """Where adapters go, each once as it was named."""
        return self.place if isinstance(self.place, tuple) else (self.place,)

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network, and say what cannot be known before the work.

        Unlike other steps it may follow `quantize` and `qat`: the layers that were rounded stay so.
        """
        require_trained(self, stage, "an adapter changes what a detector already knows.")
        stage.images += self.pushed_images
        if self.place == AUTO:
            stage.images += CROPS
            stage.notes.append(
                f"`adapt` with `place: auto`: {self.predictor} chooses the place from training "
                "images, so it is known only then. The size in this plan is that of an adapter in "
                "the middle."
            )

    def outline(self, detector: Detector) -> Detector:
        """Return the detector with its adapter, untrained.

        Raises:
            ConfigError: no such place, an adapter is there already, or `rank`, `also` or `degrade`
                do not fit.
        """
        self.require_lesson(detector)
        step = self
        if self.place == AUTO:
            free = free_places(detector.network)
            step = self._at(free[(len(free) - 1) // 2])
        adapted = step._inserted(detector, 0)
        step._trainable(adapted)
        return adapted

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with its adapter, trained.

        The meaning of the score is reset: scores are fitted anew.

        Raises:
            ConfigError: as in `outline`.
            DataError: too few images for the ranges of an int8 detector, or `place: auto` with a
                predictor that says nothing of these images.
        """
        plain = parent.evolve(quantization=None)  # an adapter learns in float beside rounded layers
        step = self._at(self._predicted(plain, context)) if self.place == AUTO else self
        adapted = step._inserted(plain, context.seed)
        some = step._trainable(adapted)
        fitted = fit_labels(adapted.network, self, adapted, context, what=self.kind, trainable=some)
        after = ", ".join(edit.after for edit in step._added(adapted))
        report = fitted.report | {"adapter": self.adapter, "after": after}
        if self.predictor is not None:
            report["predictor"] = self.predictor
        made = adapted.evolve(network=fitted.network, training=report)
        return as_exported(parent.card, made, self._tiles(made, context))

    def _tiles(self, made: Detector, context: Context) -> Iterator[NDArray[np.float32]]:
        """Yield what a range behind the adapter is measured on, if one is needed."""
        images = balanced_sample(context.train, CALIBRATION_IMAGES, context.seed)
        yield from calibration_tiles(images, made.card.preprocess, context, self.kind)

    def _at(self, stage: str) -> Adapt:
        """Return the same step at a known place."""
        return self.model_copy(update={"place": stage, "predictor": None})

    def _predicted(self, parent: Detector, context: Context) -> str:
        """Return the place that the predictor puts first.

        It is kept in the step's folder, so that a run that goes on and every process of a team
        have the same, whatever the last digits of their numbers.
        """
        assert self.predictor is not None, "validated with `place: auto`"
        kept, team = context.folder / "place.json", Team.current()
        if not team.agree(team.leads and kept.is_file()):
            if team.leads:
                found = measure_placement(
                    parent,
                    context.train,
                    predictors=[self.predictor],
                    seed=context.seed,
                    settings=self,
                    device=context.device,
                    progress=context.progress,
                )
                write_json(kept, found.model_dump(mode="json"))
            team.agree(True)  # from here on the others can read it
        placement = validate(Placement, read_json(kept), f"The placement in {kept}")
        return placement.choice(self.predictor)

    def _inserted(self, parent: Detector, seed: int) -> Detector:
        """Return the detector with new adapters, as its last edits."""
        added = [self._edit(parent, place) for place in self.places]
        network = copy.deepcopy(parent.network)
        try:
            for edit in added:
                add_adapter_(network, edit, seed)
        except CardError as error:
            raise ConfigError(f"`adapt` is not possible here. {error}") from error
        edits = (*parent.card.edits, *added)
        return parent.evolve(network=network, edits=edits, score=ScoreMeaning(), measured=())

    def _added(self, adapted: Detector) -> list[AddAdapter]:
        """Return the edits of this step's adapters."""
        last = adapted.card.edits[-len(self.places) :]
        return [edit for edit in last if isinstance(edit, AddAdapter)]

    def _edit(self, parent: Detector, place: Place) -> AddAdapter:
        """Return what is added where."""
        network = parent.network
        after = find_place(network, place, parent.card.architecture.network)
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
        """Return the parameters that learn: those of new adapters, and what `also` names."""
        network = adapted.network
        own = tuple(f"{ADAPTERS_NAME}.{adapter_key(edit.after)}." for edit in self._added(adapted))
        found = {name for name, _ in network.named_parameters() if name.startswith(own)}
        return frozenset(found.union(*(parameters_of(network, layers) for layers in self.also)))

"""Recipes and steps: what is done to a detector, as validated data that runs.

A `Step` is one change (train, prune, ...) with one signature for all: it takes a detector and a
context and gives a detector. A `Recipe` is a start and a list of steps. A step's key is a digest
of its configuration, its parent's key and the data; a detector stored under that key is never made
twice, which is how killed runs resume and how recipes that begin alike share work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from lydite.card import Architecture, Preprocess
from lydite.config import Frozen, validation_sentence
from lydite.errors import ConfigError
from lydite.files import digest
from lydite.registry import Registry

if TYPE_CHECKING:
    from lydite.data.manifest import Manifest
    from lydite.detector import Detector

STEPS: Registry[type[Step]] = Registry("step")
#: the modules in which steps register themselves
STEP_MODULES = (
    "lydite.training.train",
    "lydite.compress.prune",
    "lydite.compress.mask",
    "lydite.compress.factorize",
    "lydite.compress.distill",
    "lydite.compress.quantize",
    "lydite.compress.qat",
    "lydite.compress.dequantize",
    "lydite.transfer.finetune",
    "lydite.transfer.adapt",
)

#: called with (what, done, total, note), done and total in units of the step's own
Progress = Callable[[str, int, int, str], None]


def silent(_what: str, _done: int, _total: int, _note: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Context:
    """What a step may use besides its own configuration.

    Attributes:
        train: images to learn from.
        val: images for early choices, calibration, threshold.
        seed: of the recipe; every random choice derives from it.
        folder: the step's own scratch folder, for checkpoints; kept until the step is done.
        progress: told about the work.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16".
    """

    train: Manifest
    val: Manifest
    seed: int
    folder: Path
    progress: Progress = silent
    device: str = "auto"
    precision: str = "auto"


@dataclass
class Stage:
    """What is known of a detector while a recipe is checked, before any work.

    Attributes:
        network: name of the network.
        trained: it has learned something.
        quantized: nothing but an adapter may follow, and what takes the rounding back.
        parameters: how many, as far as known.
        images: how many images the steps so far push through training (for time estimates).
        notes: what the plan should tell the user.
    """

    network: str
    trained: bool = False
    quantized: bool = False
    parameters: int = 0
    images: int = 0
    notes: list[str] = field(default_factory=list)


class Step(Frozen):
    """One change of a detector; subclasses add the fields and `run`."""

    #: name in recipes
    kind: ClassVar[str]
    #: raised when the same configuration would give another result than before
    version: ClassVar[int] = 1
    #: fields that the entry leaves out while they have their defaults, so that a step which does
    #: not use them has the same key with and without them
    quiet: ClassVar[frozenset[str]] = frozenset()
    #: the result is to decide as its parent does, so that its threshold follows the parent's
    copies: ClassVar[bool] = False

    @property
    def together(self) -> bool:
        """Whether every process of a team has to run it, rather than the leader alone."""
        return False

    def check(self, stage: Stage) -> None:
        """Refuse an impossible order, and update what is known, in place.

        Raises:
            ConfigError: this step makes no sense here; the message says why.
        """
        if stage.quantized:
            raise ConfigError(
                f"`{self.kind}` cannot follow `quantize` or `qat`: what they give is final. "
                "Put that step last, or `dequantize` after it."
            )

    def outline(self, detector: Detector) -> Detector:
        """Return a detector of the shape that this step will give, without data or training.

        A plan walks through the outlines, so that sizes are known and impossible steps are
        refused before any work.

        Args:
            detector: outline of what the step will start from; its weights mean nothing.

        Raises:
            ConfigError: the step cannot be done on this network.
        """
        return detector

    def remarks(self, detector: Detector) -> tuple[str, ...]:
        """Return what the plan should say of this step on such a detector.

        Args:
            detector: outline of what the step will start from.
        """
        return ()

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the changed detector; `parent` stays as it is."""
        raise NotImplementedError

    def spec(self) -> dict[str, Any]:
        """Return the step as it stands in a recipe: {kind: {every field}}, less unused ones."""
        fields = type(self).model_fields
        unused = {name for name in self.quiet if getattr(self, name) == fields[name].default}
        return {self.kind: self.model_dump(mode="json", exclude=unused)}

    def material(self) -> dict[str, Any]:
        """Return digests of what the step reads besides its parent and the data, by role.

        Raises:
            LyditeError: something that the step names is missing or damaged.
        """
        return {}

    def further_images(self) -> frozenset[str]:
        """Return the SHA-256 of every image that the step learns from besides the training split.

        Raises:
            LyditeError: they cannot be read.
        """
        return frozenset()

    def key(self, parent: str, data: dict[str, str], seed: int) -> str:
        """Return the cache key of this step's result.

        Args:
            parent: key of the detector it starts from.
            data: digests of the selections, by role.
            seed: of the recipe.
        """
        material = self.material()
        return digest(
            {
                "step": self.spec(),
                "version": self.version,
                "parent": parent,
                "data": data,
                "seed": seed,
                **({"material": material} if material else {}),
            }
        )


def load_steps() -> None:
    """Import every module that registers a step."""
    for module in STEP_MODULES:
        importlib.import_module(module)


def parse_step(value: Any) -> Step:
    """Return the step in a recipe's entry: `prune`, or `{prune: {rate: 0.9}}`.

    Raises:
        ConfigError: unknown step or field, or a value that is not allowed.
    """
    if isinstance(value, Step):
        return value
    load_steps()
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(f"A step is a name, or one name with its options. Got {value!r}.")
    ((name, options),) = value.items()
    cls = STEPS.get(str(name))
    try:
        return cls.model_validate({} if options is None else options)
    except ValidationError as error:
        raise ConfigError(f"Step `{name}` is not valid. {validation_sentence(error)}") from error


AnyStep = Annotated[
    Step,
    BeforeValidator(parse_step),
    PlainSerializer(lambda step: step.spec(), return_type=dict[str, Any]),
]


Shots = Annotated[int, Field(ge=2, le=1_000_000)]


class Start(Frozen):
    """What a recipe begins with: an untrained network, or a detector folder.

    Attributes:
        network: a name of `lydite models`, or `timm/<name>`.
        size: input side in pixels; tiles of this size are cut, unless `preprocess` says otherwise.
        config: further arguments of the network.
        preprocess: how images become input; its size must be `size`.
        detector: a detector folder to go on from, instead of `network`.
    """

    network: str | None = None
    size: Annotated[int, Field(ge=32, le=1024)] = 64
    config: dict[str, Any] = {}
    preprocess: Preprocess | None = None
    detector: Path | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Start:
        if self.preprocess is not None and self.preprocess.size != self.size:
            raise ValueError(
                f"`size` is {self.size} and the preprocessing's {self.preprocess.size}: "
                "the network takes what that gives; write both alike"
            )
        return self

    def architecture(self) -> Architecture:
        """Return the network's description for the card.

        Raises:
            ConfigError: neither or both of `network` and `detector` were given.
        """
        if (self.network is None) == (self.detector is None):
            raise ConfigError("A recipe's start needs either `network` or `detector`, not both.")
        return Architecture(
            network=self.network or "", input_size=self.size, config=dict(self.config)
        )


#: fields of recipes that older recipes do not have
NEWER = ("shots", "replay", "replay_only")


class Recipe(Frozen):
    """A start, a list of steps, and a seed; with `shots`, few images to learn from.

    With `replay`, experience replay from a tiny memory (Chaudhry et al. 2019, "On Tiny Episodic
    Memories in Continual Learning", arXiv 1902.10486): images of what the starting detector learned
    before stand among those it learns now. Steps with `balance: class` or `pairs` draw every domain
    of a class equally, so that a small memory counts as much as the images that are new; with
    `none` it counts by its size.

    Attributes:
        name: of the recipe.
        start: where it begins.
        steps: what is done, in order.
        seed: of every random choice.
        shots: images of each class and domain, threshold included (see `lydite.data.few`); all
            there are unless given.
        replay: images of each class and source domain to learn from beside these, against
            forgetting, a quarter of them for the threshold; none unless given.
        replay_only: the label of the images to replay, "real" say; both unless given. A pack is
            asked together with its base, which goes on to know its fakes: it only has to leave
            the photographs alone.

    >>> Recipe.model_validate(
    ...     {"name": "CPF-90", "start": {"network": "paper-baseline"},
    ...      "steps": [{"train": {"steps": 100}}, {"prune": {"rate": 0.9}}, "finetune"]}
    ... ).name
    'CPF-90'
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
    start: Start
    steps: tuple[AnyStep, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    shots: Shots | None = None
    replay: Shots | None = None
    replay_only: str | None = None

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not used and newer than recipes, so that old ones read as they did."""
        value: dict[str, Any] = handler(self)
        unused = {name for name in NEWER if value[name] is None}
        return {name: item for name, item in value.items() if name not in unused}

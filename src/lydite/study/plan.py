"""The plan of a study: everything that can be known, and refused, before any work is done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError, FileError
from lydite.models.cost import count_parameters
from lydite.recipe import Recipe, Stage
from lydite.study.cache import Cache
from lydite.study.estimate import Speedometer
from lydite.study.execute import Learning, keys_of, start_of, trains
from lydite.study.spec import Study

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class PlannedStep:
    """One step that will be done once, however many recipes share it.

    Attributes:
        recipe: the first recipe that needs it.
        step: its entry.
        key: of its result.
        cached: it was done before.
        seconds: expected time, from a short measurement here and now.
        parameters: of the network after it.
        notes: what the step wants the user to know.
    """

    recipe: str
    step: dict[str, Any]
    key: str
    cached: bool
    seconds: float
    parameters: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a study is going to do.

    Attributes:
        study: its name.
        train: number of training images.
        val: number of validation images.
        test: number of test images.
        steps: every step, each once.
        seconds: expected time of the steps that are not done yet.
        disk_bytes: expected size of what will be written.
        free_bytes: free space where it will be written.
        source: domains that the starting detectors learned before.
    """

    study: str
    train: int
    val: int
    test: int
    steps: tuple[PlannedStep, ...]
    seconds: float
    disk_bytes: int
    free_bytes: int
    source: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; the source only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "source" or value}


def make_plan(
    study: Study, learning: Learning, test: int, cache: Cache, folder: Path, *, estimate: bool
) -> Plan:
    """Check every recipe and return what will be done.

    Args:
        study: what is wanted.
        learning: its training and validation images.
        test: how many test images.
        cache: where finished steps lie.
        folder: where the study writes.
        estimate: measure this machine's speed for expected times (takes seconds).

    Raises:
        ConfigError: an unknown network or step, steps in an order that makes no sense, or a
            recipe with `replay` in a study without a source.
        DataError: too few images for a recipe's shots or its replay, or of one class only.
        FileError: too little free disk space.
    """
    require_replayable(study, learning)
    planned: dict[str, PlannedStep] = {}
    disk = 0
    speed = Speedometer() if estimate else None
    for recipe in study.runs():
        detector = start_of(recipe)
        own = learning.of(recipe)
        _require_both(recipe, own, study.data.labels)
        keys = keys_of(recipe, detector.card.key, own.digests)
        items = _check(recipe, detector, keys, cache, speed)
        if items and recipe.replay is not None:
            items[0] = replace(items[0], notes=(_replayed(study, recipe), *items[0].notes))
        items = _with_notes_on_shares(recipe, items, set(own.train.column("domain")))
        for item in items:
            known = planned.get(item.key)
            # what one recipe finds behind it another may have to do
            if known is None or (known.cached and not item.cached):
                planned[item.key] = item
                disk += 0 if item.cached else _FLOAT_BYTES * item.parameters
        # the study's own copy: weights and exported file
        disk += 2 * _FLOAT_BYTES * (items[-1].parameters if items else 0)
    free = shutil.disk_usage(_existing(folder)).free
    if disk > free:
        raise FileError(
            f"The study writes about {disk / 1e6:.0f} MB, but {folder} has "
            f"{free / 1e6:.0f} MB free. Free some space or choose another folder with -o."
        )
    steps = tuple(planned.values())
    return Plan(
        study=study.name,
        train=len(learning.train),
        val=len(learning.val),
        test=test,
        steps=steps,
        seconds=sum(step.seconds for step in steps if not step.cached),
        disk_bytes=disk,
        free_bytes=free,
        source=study.data.source,
    )


def _with_notes_on_shares(
    recipe: Recipe, items: Sequence[PlannedStep], domains: set[str]
) -> list[PlannedStep]:
    """Return the steps, those noted whose `domain_shares` name what no training image is of.

    That is no error: a study may leave out one domain after the other.
    """
    noted = []
    for step, item in zip(recipe.steps, items, strict=True):
        absent = sorted(set(getattr(step, "domain_shares", {})) - domains)
        if absent:
            note = (
                f"`domain_shares` names {', '.join(absent)}, which no training image is of; that "
                f"share does not count. Training images are of {', '.join(sorted(domains))}."
            )
            item = replace(item, notes=(*item.notes, note))
        noted.append(item)
    return noted


def require_replayable(study: Study, learning: Learning) -> None:
    """Refuse recipes with `replay` where a source domain has nothing to learn from again.

    Args:
        study: what is wanted.
        learning: its images.

    Raises:
        DataError: a source domain has no training image of a class; the message names the recipe.
    """
    old = learning.old
    if old is None:  # a recipe that needs it is told so where its images are chosen
        return
    there = set(zip(old.column("domain"), old.column("label"), strict=True))
    for recipe in study.runs():
        for domain in study.data.source if recipe.replay is not None else ():
            wanted = (recipe.replay_only,) if recipe.replay_only else study.data.labels
            missing = [label for label in wanted if (domain, label) not in there]
            if missing:
                raise DataError(
                    f"Recipe {recipe.name}: `replay` needs images labeled {' and '.join(wanted)}, "
                    f"but the train split of {domain} has no {missing[0]} one. Take the domain out "
                    "of `source`, or `replay` out of the recipe."
                )


def _require_both(recipe: Recipe, learning: Learning, labels: tuple[str, str]) -> None:
    """Refuse steps without images of both classes: to learn from, and to fit the threshold on.

    Raises:
        DataError: a class is missing; the message names recipe and split.
    """
    needed = {"val": learning.val} if recipe.steps else {}
    if any(trains(step) for step in recipe.steps):
        needed["train"] = learning.train
    for split, images in needed.items():
        missing = sorted(set(labels) - set(images.column("label")))
        if missing:
            raise DataError(
                f"Recipe {recipe.name}: the {split} split of what is learned here holds no "
                f"{missing[0]} image. Training and its threshold need both classes in both splits."
            )


def require_apart(study: Study, test: Manifest, val: Manifest) -> None:
    """Refuse steps that learn from further images some of which are to be measured on.

    Args:
        study: what is wanted.
        test: the images that detectors are measured on.
        val: those that their thresholds are fitted on.

    Raises:
        DataError: one of them is among a step's; the message names the recipe.
    """
    for split, images in (("test", test), ("validation", val)):
        measured = set(images.column("sha256"))
        for recipe in study.runs():
            for step in recipe.steps:
                shared = len(step.further_images() & measured)
                if shared:
                    raise DataError(
                        f"Recipe {recipe.name}: `{step.kind}` learns from {shared} images of the "
                        f"{split} split, so that its figures would mean nothing. Take them out of "
                        "its images."
                    )


def _replayed(study: Study, recipe: Recipe) -> str:
    """Return what a plan says of a recipe's replay."""
    what = f"{recipe.replay_only} images" if recipe.replay_only else "images of each class"
    return (
        f"{recipe.name} learns from {recipe.replay} {what} of "
        f"{', '.join(study.data.source)} besides, against forgetting."
    )


def _check(
    recipe: Recipe,
    detector: Detector,
    keys: list[str],
    cache: Cache,
    speed: Speedometer | None,
) -> list[PlannedStep]:
    """Walk through a recipe's steps without doing them.

    Raises:
        ConfigError: a step makes no sense where it stands; the message names the recipe.
    """
    stage = Stage(
        network=detector.card.architecture.network,
        trained=bool(detector.card.steps),
        quantized=detector.card.quantization is not None,
        parameters=count_parameters(detector.network),
    )
    planned = []
    reached = cache.reached(keys)
    for number, (step, key) in enumerate(zip(recipe.steps, keys, strict=True)):
        before = stage.images
        stage.notes.clear()
        try:
            step.check(stage)
            stage.notes += step.remarks(detector)
            after = step.outline(detector)
        except ConfigError as error:
            raise ConfigError(f"Recipe {recipe.name}: {error}") from error
        stage.parameters = count_parameters(after.network)
        cached = number < reached
        images = stage.images - before
        seconds = 0.0
        if speed is not None and not cached:
            seconds = speed.seconds(images, detector, after)
        notes = tuple(stage.notes)
        planned.append(
            PlannedStep(recipe.name, step.spec(), key, cached, seconds, stage.parameters, notes)
        )
        detector = after
    return planned


def _existing(folder: Path) -> Path:
    """Return the nearest folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder

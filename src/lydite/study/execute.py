"""Running one recipe: step by step, each from the cache where it was done before."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lydite.data.few import few
from lydite.data.manifest import Manifest
from lydite.detector import Detector, versions
from lydite.errors import ConfigError
from lydite.evaluate import calibrate as calibration
from lydite.files import lock_folder
from lydite.recipe import Context, Progress, Recipe, Step, silent
from lydite.study.cache import Cache
from lydite.study.results import StepCost
from lydite.study.twins import Twins, with_twins
from lydite.training.settings import TrainSettings
from lydite.training.team import Team

#: what a step's training says in words, and results repeat
_NOTES = ("swad", "group_weights")


@dataclass(frozen=True)
class Learning:
    """What recipes learn from.

    Attributes:
        train: images to learn from.
        val: images for threshold, calibration and choices.
        old: training images of the source domains, which were learned before; None without any.
        spared: those of them that are replayed alone, being photographs; None without any. The
            threshold leaves them alone.
        twins: of the training images, which hold them; None without any.
    """

    train: Manifest
    val: Manifest
    old: Manifest | None = None
    spared: Manifest | None = None
    twins: Twins | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Digests by role."""
        return {"train": self.train.digest, "val": self.val.digest}

    def of(self, recipe: Recipe) -> Learning:
        """Return what a recipe may learn from: everything, or its few shots of the training split.

        With `replay`, so many images of each class and source domain stand beside these on both
        sides: a quarter of them is validation, and no group is on both.

        Raises:
            ConfigError: there is nothing to replay, as the study names no source.
            DataError: there are too few images for its shots or its replay.
        """
        few_of = self._few(recipe)
        if recipe.replay is None:
            return self if few_of is None else Learning(*few_of)
        if self.old is None:
            raise ConfigError(
                f"Recipe {recipe.name}: `replay: {recipe.replay}` learns from images of the source "
                "domains too, but none is named. Name what the starting detector learned before "
                "as `source` of the study's data (--source), or take `replay` out."
            )
        mine = few_of or (self.train, self.val)
        chosen = self.old
        if recipe.replay_only is not None:
            chosen = chosen.select(label=recipe.replay_only)
        old = few(chosen, recipe.replay, recipe.seed, option="replay", beside=mine)
        both = old[0].joined(old[1])
        spared = None if both.targets.any() else both
        return Learning(mine[0].joined(old[0]), mine[1].joined(old[1]), spared=spared)

    def _few(self, recipe: Recipe) -> tuple[Manifest, Manifest] | None:
        """Return a recipe's few images to learn from and to validate on; twins only of the first.

        They are chosen before twins join them, as a twin does not say which group it is of.
        """
        if recipe.shots is None:
            return None
        if self.twins is None:
            return few(self.train, recipe.shots, recipe.seed)
        train, val = few(self.twins.plain, recipe.shots, recipe.seed)
        return with_twins(train, self.twins.paths), val


@dataclass(frozen=True)
class Options:
    """How recipes are run: where, and told to whom."""

    progress: Progress = silent
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Made:
    """A recipe's detector and what its steps took."""

    recipe: Recipe
    detector: Detector
    steps: tuple[StepCost, ...]


def start_of(recipe: Recipe) -> Detector:
    """Return the detector that a recipe begins with.

    Raises:
        ConfigError: no such network.
        CardError: the detector folder to begin from is not sound.
    """
    start = recipe.start
    if start.detector is not None:
        return Detector.load(start.detector)
    return Detector.start(start.architecture(), start.preprocess, seed=recipe.seed)


def keys_of(recipe: Recipe, start_key: str, data: dict[str, str]) -> list[str]:
    """Return the cache key of every step's result, before any work."""
    if calibration.RULE > 1:  # keys without it are of the first rule
        data = data | {"calibration": str(calibration.RULE)}
    keys, key = [], start_key
    for step in recipe.steps:
        key = step.key(key, data, recipe.seed)
        keys.append(key)
    return keys


def execute(recipe: Recipe, data: Learning, cache: Cache, options: Options) -> Made:
    """Return the recipe's detector; finished steps come from the cache.

    What comes before a finished step is not done again, and of its costs nothing is known where it
    is no longer in the cache.

    Killed at any moment, the same call goes on where it stopped, and gives the same weights as an
    uninterrupted one.

    Under `torchrun` every process calls this; the first one reads and writes for all.

    Raises:
        BusyError: another process is doing the same step.
        ConfigError: the recipe replays, and there is no source.
        DataError: too few images for the recipe's shots or its replay.
        LyditeError: a step failed; everything before it is kept.
    """
    data = data.of(recipe)
    detector = start_of(recipe)
    keys = keys_of(recipe, detector.card.key, data.digests)
    team = Team.current()
    costs: list[StepCost] = []
    reached = _reached(keys, cache, team)
    for number, (step, key) in enumerate(zip(recipe.steps, keys, strict=True)):
        done = cache.load(key) if team.leads and number < reached else None
        cached = number < reached
        if cached and team.agree(done is None):  # not needed: a later one is finished
            costs.append(StepCost(step=step.spec(), key=key, cached=True))
            continue
        if not cached and team.leads:
            named = _named(options.progress, recipe.name)
            done = _do(step, key, detector, data, cache, options, named)
        elif not cached and trains(step):
            step.run(detector, _context(key, data, cache, options, silent))
        team.agree(True)  # from here on the leader's result can be loaded
        done = done or cache.load(key)
        assert done is not None, "the leader has stored it"
        if number == len(keys) - 1 and done.card.name != recipe.name:
            done = Detector(done.card.model_copy(update={"name": recipe.name}), done.network)
        detector = done
        costs.append(_cost(step, detector, cached=cached))
    return Made(recipe, detector, tuple(costs))


def _reached(keys: list[str], cache: Cache, team: Team) -> int:
    """Return how many steps are behind a recipe that goes on from its last sound one."""
    for number in reversed(range(len(keys))):
        found = cache.load(keys[number]) is not None if team.leads else False
        if team.agree(found):
            return number + 1
    return 0


def _do(
    step: Step,
    key: str,
    parent: Detector,
    data: Learning,
    cache: Cache,
    options: Options,
    progress: Progress,
) -> Detector:
    """Do one step, fit what its score means on the validation split, and keep the result."""
    scratch = cache.scratch(key)
    with lock_folder(scratch):
        started = time.perf_counter()
        made = step.run(parent, _context(key, data, cache, options, progress))
        copied = parent if step.copies else None
        made = calibration.calibrate(made, data.val, like=copied, spared=data.spared)
        seconds = time.perf_counter() - started
        # a resumed step reports the time of all its parts; what does not train has only one
        spent = made.card.training.get("seconds") if trains(step) else None
        training = made.card.training | {"wall_s": round(max(seconds, float(spent or 0.0)), 1)}
        made = made.evolve(
            score=made.card.score,
            measured=made.card.measured,
            name=parent.card.name,
            key=key,
            parent=parent.card.key,
            steps=(*parent.card.steps, step.spec()),
            data=data.digests,
            versions=versions(),
            training=training,
        )
        return cache.store(made)


def trains(step: Step) -> bool:
    """Tell whether a step trains, and so reports its seconds and works on several devices."""
    return step.together or isinstance(step, TrainSettings)


def _context(
    key: str, data: Learning, cache: Cache, options: Options, progress: Progress
) -> Context:
    """Return what a step may use."""
    return Context(
        data.train,
        data.val,
        seed=int(key[:12], 16) % 2**31,  # every step of every recipe draws its own numbers
        folder=cache.scratch(key),
        progress=progress,
        device=options.device,
        precision=options.precision,
    )


def _cost(step: Step, detector: Detector, *, cached: bool) -> StepCost:
    """Return what a step took, out of its card."""
    from lydite.models.cost import count_parameters

    report = detector.card.training
    seconds = report.get("wall_s")
    # what does not train may still carry the report of the training before it
    trained = report if trains(step) else {}
    return StepCost(
        step=step.spec(),
        key=detector.card.key,
        seconds=None if seconds is None else float(seconds),
        cached=cached,
        figures=detector.card.measured,
        parameters=count_parameters(detector.network),
        trainable_parameters=_whole(trained.get("trainable_parameters")),
        peak_bytes=_whole(trained.get("peak_bytes")),
        notes={name: str(trained[name]) for name in _NOTES if name in trained},
    )


def _whole(value: float | int | str | None) -> int | None:
    """Return a number of a report as a count, None where it was not noted."""
    return None if value is None else int(value)


def _named(progress: Progress, name: str) -> Progress:
    """Return a progress reporter that puts the recipe's name before each step."""

    def report(what: str, done: int, total: int, note: str) -> None:
        progress(f"{name} {what}", done, total, note)

    return report

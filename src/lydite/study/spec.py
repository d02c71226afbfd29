"""A study as data: images, recipes to compare, and what to measure. Written in YAML by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from lydite.config import Frozen
from lydite.errors import ConfigError, unknown_name
from lydite.evaluate.degrade import named
from lydite.evaluate.unseen import Roles
from lydite.recipe import NEWER, AnyStep, Recipe, Shots, Start
from lydite.study.protocol import Protocol

STUDY_VERSION = 1
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]


class ScanSpec(Frozen):
    """A folder to scan: see `lydite data scan`."""

    root: Path
    layout: str = "auto"
    real: tuple[str, ...] = ()
    fake: tuple[str, ...] = ()


class DemoSpec(Frozen):
    """The built-in simulated data: see `lydite data demo`."""

    size: Annotated[int, Field(ge=32, le=512)] = 64
    count: Annotated[int, Field(ge=8)] = 400
    seed: int = 0


class DataSpec(Frozen):
    """Which images, and which of their domains may be learned from.

    Attributes:
        manifest: a Parquet manifest, or
        scan: a folder to scan, or
        demo: the built-in data.
        seen: domains whose train and val splits are used; every other domain is unseen, unless it
            is a `source`. Left out where the study has `folds` or a `protocol`.
        source: domains that the starting detectors learned before: neither seen nor unseen.
        exclude: domains that are left out altogether.
        unseen_generators: generators whose fakes are never learned, whatever their domain; they
            are tested on and count as unseen.
        labels: the task's two labels, the positive one last.
        twins: manifests of `lydite data align`: what they hold of the photographs that a fold or
            the study learns from is learned too, a domain for each autoencoder. Twins of others are
            left out, so that nothing held out comes in by them; neither validation nor test has
            any.
        sources: what the data are and under which licenses, for the detectors' cards.
    """

    manifest: Path | None = None
    scan: ScanSpec | None = None
    demo: DemoSpec | None = None
    seen: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    unseen_generators: tuple[str, ...] = ()
    labels: tuple[str, str] = ("real", "fake")
    twins: tuple[Path, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def roles(self) -> Roles:
        """What domains and generators are to the study's detectors."""
        return Roles(self.seen, self.source, self.unseen_generators)

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if sum(x is not None for x in (self.manifest, self.scan, self.demo)) != 1:
            raise ValueError("give exactly one of `manifest`, `scan`, `demo`")
        return self

    @model_validator(mode="after")
    def _source_apart(self) -> DataSpec:
        for name, domains in (("seen", self.seen), ("exclude", self.exclude)):
            if both := sorted(set(self.source) & set(domains)):
                raise ValueError(
                    f"the domain '{both[0]}' stands in both `source` and `{name}`; `source` is for "
                    "what was learned before this study. Take it out of one"
                )
        return self


_Slice = Annotated[str, Field(pattern=r"^(domain|generator)$")]
#: folders beside those of the folds
SHARED = ("cache", "data")


class Fold(Frozen):
    """One of the divisions of the data that a study is repeated over.

    Attributes:
        name: of the fold, and of its folder.
        seen: instead of that of `data`.
        source: instead of that of `data`.
        exclude: further domains that are left out.
        unseen_generators: further generators whose fakes are not learned.
        held: what the fold holds out, as {"domain": d} or {"domain": d, "generator": g}; a
            protocol says so, and takes its figures on these.
        labels: instead of those of `data`.
        skip: recipes that this fold leaves out, having too few images for them, say.
        values: what `{name}` in the recipes' strings stands for, by name; `{seen}` and
            `{source}` are known.
    """

    name: Name
    seen: Annotated[tuple[str, ...], Field(min_length=1)]
    source: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    unseen_generators: tuple[str, ...] = ()
    held: tuple[dict[_Slice, str], ...] = ()
    labels: tuple[str, str] | None = None
    skip: tuple[Name, ...] = ()
    values: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {}


class Entry(Frozen):
    """One recipe of a study.

    Attributes:
        name: of the recipe; unique in the study.
        approach: short name of its kind, for grouping in tables ("BL", "CPF", ...); the name's
            part before the first "-" unless given.
        after: name of an earlier recipe that this one begins like; its steps come first.
        start: where it begins, unless `after` says so.
        steps: what it adds.
        seeds: it is run once for each; those of the study unless given.
        shots: few images to learn from, see `Recipe`; those of `after` unless given.
        replay: images of each class and source domain to learn from besides, see `Recipe`; those
            of `after` unless given.
        replay_only: the label of those, see `Recipe`; that of `after` unless given.
    """

    name: Name
    approach: str = ""
    after: Name | None = None
    start: Start | None = None
    steps: tuple[AnyStep, ...] = ()
    seeds: Seeds | None = None
    shots: Shots | None = None
    replay: Shots | None = None
    replay_only: str | None = None


class BenchSpec(Frozen):
    """How latency is measured, all detectors in one interleaved run of onnxruntime."""

    threads: Annotated[int, Field(ge=1, le=256)] = 1
    warmup: Annotated[int, Field(ge=1)] = 10
    repeats: Annotated[int, Field(ge=3)] = 60


class Study(Frozen):
    """Several recipes over one data set.

    Attributes:
        version: of this format.
        name: of the study.
        title: one line for the report.
        data: images and what is seen.
        folds: divisions of the data; the study is run once for each, see `lydite.study.folds`.
        protocol: makes the folds out of the data, see `lydite.study.expand`.
        recipes: what to compare, in the order of the tables.
        reference: the recipe that rates and ratios are taken against; the first unless given.
        seeds: every recipe is run once per seed, unless it has its own.
        bench: how latency is measured.
        degrade: degradations, or lists of them, that the detectors are measured under too, see
            `lydite.evaluate.degrade`.
        validation: measure the validation images too, as they are and degraded, so that a choice
            between recipes needs no look at test images and can be read in the results.
        limits: what the detectors cannot do, in plain words, for their cards.
        probes: look for what gives the classes away beside a generator's traces, see
            `lydite.evaluate.probes`.
    """

    version: Annotated[int, Field(ge=1, le=STUDY_VERSION)] = STUDY_VERSION
    name: Name
    title: str = ""
    data: DataSpec
    folds: tuple[Fold, ...] = ()
    protocol: Protocol | None = None
    recipes: Annotated[tuple[Entry, ...], Field(min_length=1)]
    reference: Name | None = None
    seeds: Seeds = (0,)
    bench: BenchSpec = BenchSpec()
    degrade: tuple[str, ...] = ()
    validation: bool = False
    limits: tuple[str, ...] = ()
    probes: bool = True

    @field_validator("degrade")
    @classmethod
    def _degradations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return named(names)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _names(self) -> Study:
        names = [entry.name for entry in self.recipes]
        if len(set(names)) != len(names):
            raise ValueError("two recipes have the same name")
        if len({fold.name for fold in self.folds}) != len(self.folds):
            raise ValueError("two folds have the same name")
        for fold in self.folds:
            if fold.name in SHARED:
                raise ValueError(
                    f"a fold cannot be called {fold.name}: all folds share that folder"
                )
            for name in fold.skip:
                if name not in names:
                    raise ValueError(f"fold {fold.name}: {unknown_name('recipe', name, names)}")
        if bool(self.data.seen) == bool(self.folds or self.protocol):
            raise ValueError(
                "give either `seen` in `data`, or `folds` with one each, or a `protocol`"
            )
        if self.reference is not None and self.reference not in names:
            raise ValueError(unknown_name("recipe", self.reference, names))
        for index, entry in enumerate(self.recipes):
            if (entry.after is None) == (entry.start is None):
                raise ValueError(f"recipe {entry.name} needs either `after` or `start`")
            if entry.after is not None and entry.after not in names[:index]:
                raise ValueError(unknown_name("earlier recipe", entry.after, names[:index]))
        files = [self.file_stem(name, seed) for name in names for seed in self.seeds_of(name)]
        twice = next((name for name in files if files.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"two detectors would be called {twice}: a recipe of several seeds has their "
                "numbers in the names of its files; rename the other recipe"
            )
        self._require_same_images()
        return self

    def _require_same_images(self) -> None:
        """Refuse few images for a recipe whose steps before were to learn from others.

        A recipe learns from the same images in all of its steps, those that it shares among them.
        """
        full = {recipe.name: recipe for recipe in self.resolved(0)}
        for entry in self.recipes:
            if entry.after is None or not full[entry.after].steps:
                continue
            for name in NEWER:
                if getattr(full[entry.name], name) != getattr(full[entry.after], name):
                    raise ValueError(
                        f"recipe {entry.name} comes after {entry.after}, whose steps learn from "
                        f"other images: `{name}` would hold for them too. Let it start from that "
                        "recipe's detector instead (`start: {detector: ...}`)"
                    )

    @property
    def reference_name(self) -> str:
        """Name of the recipe that all others are compared with."""
        return self.reference or self.recipes[0].name

    def resolved(self, seed: int) -> list[Recipe]:
        """Return every recipe written out in full, `after` followed, for one seed."""
        full: dict[str, Recipe] = {}
        for entry in self.recipes:
            value = {name: getattr(entry, name) for name in ("start", "steps", *NEWER)}
            if entry.after is not None:
                base = full[entry.after]
                value |= {"start": base.start, "steps": base.steps + entry.steps}
                value |= {name: value[name] or getattr(base, name) for name in NEWER}
            full[entry.name] = Recipe(name=entry.name, seed=seed, **value)
        return list(full.values())

    def runs(self) -> list[Recipe]:
        """Return every recipe once for each of its seeds, seed by seed."""
        every = {seed for entry in self.recipes for seed in self.seeds_of(entry.name)}
        return [
            recipe
            for seed in sorted(every)
            for recipe in self.resolved(seed)
            if seed in self.seeds_of(recipe.name)
        ]

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """Return the seeds that a recipe is run with."""
        entry = next(e for e in self.recipes if e.name == name)
        return entry.seeds or self.seeds

    def file_stem(self, name: str, seed: int) -> str:
        """Return what a recipe's detector and scores are called in the study's folder."""
        return f"{name}-seed{seed}" if len(self.seeds_of(name)) > 1 else name

    def made_of(self) -> dict[str, str]:
        """Return by recipe the one that it comes after, where it comes after one."""
        return {entry.name: entry.after for entry in self.recipes if entry.after is not None}

    def approach_of(self, name: str) -> str:
        """Return the approach that a recipe belongs to."""
        entry = next(e for e in self.recipes if e.name == name)
        return entry.approach or name.split("-")[0]

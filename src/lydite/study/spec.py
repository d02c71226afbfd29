"""A study as data: images, recipes to compare, and what to measure. Written in YAML by people."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from lydite.config import Frozen, validate
from lydite.errors import ConfigError, FileError, unknown_name
from lydite.recipe import NEWER, AnyStep, Recipe, Shots, Start

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
            is a `source`. Left out where the study has `folds`.
        source: domains that the starting detectors learned before: neither seen nor unseen.
        exclude: domains that are left out altogether.
        labels: the task's two labels, the positive one last.
        sources: what the data are and under which licenses, for the detectors' cards.
    """

    manifest: Path | None = None
    scan: ScanSpec | None = None
    demo: DemoSpec | None = None
    seen: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labels: tuple[str, str] = ("real", "fake")
    sources: tuple[str, ...] = ()

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


#: folders beside those of the folds
SHARED = ("cache", "data")


class Fold(Frozen):
    """One of the divisions of the data that a study is repeated over.

    Attributes:
        name: of the fold, and of its folder.
        seen: instead of that of `data`.
        source: instead of that of `data`.
        exclude: further domains that are left out.
        labels: instead of those of `data`.
        skip: recipes that this fold leaves out, having too few images for them, say.
        values: what `{name}` in the recipes' strings stands for, by name; `{seen}` and
            `{source}` are known.
    """

    name: Name
    seen: Annotated[tuple[str, ...], Field(min_length=1)]
    source: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
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


def _require_same_images(entry: Entry, entries: tuple[Entry, ...]) -> None:
    """Refuse few images for a recipe whose steps before were to learn from others.

    A recipe learns from the same images in all of its steps, those that it shares among them.
    """
    known = {other.name: other for other in entries}
    own = [name for name in NEWER if getattr(entry, name) is not None]
    before = known.get(entry.after or "")
    while own and before is not None:
        if before.steps and any(getattr(before, name) != getattr(entry, name) for name in own):
            raise ValueError(
                f"recipe {entry.name} comes after {before.name}, whose steps learn from other "
                f"images: `{own[0]}` would hold for them too. Let it start from that recipe's "
                "detector instead (`start: {detector: ...}`)"
            )
        before = known.get(before.after or "")


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
        recipes: what to compare, in the order of the tables.
        reference: the recipe that rates and ratios are taken against; the first unless given.
        seeds: every recipe is run once per seed, unless it has its own.
        bench: how latency is measured.
        limits: what the detectors cannot do, in plain words, for their cards.
    """

    version: Annotated[int, Field(ge=1, le=STUDY_VERSION)] = STUDY_VERSION
    name: Name
    title: str = ""
    data: DataSpec
    folds: tuple[Fold, ...] = ()
    recipes: Annotated[tuple[Entry, ...], Field(min_length=1)]
    reference: Name | None = None
    seeds: Seeds = (0,)
    bench: BenchSpec = BenchSpec()
    limits: tuple[str, ...] = ()

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
        if bool(self.data.seen) == bool(self.folds):
            raise ValueError("give either `seen` in `data`, or `folds` with one each")
        if self.reference is not None and self.reference not in names:
            raise ValueError(unknown_name("recipe", self.reference, names))
        for index, entry in enumerate(self.recipes):
            if (entry.after is None) == (entry.start is None):
                raise ValueError(f"recipe {entry.name} needs either `after` or `start`")
            if entry.after is not None and entry.after in names[:index]:
                _require_same_images(entry, self.recipes)
            if entry.after is not None and entry.after not in names[:index]:
                raise ValueError(unknown_name("earlier recipe", entry.after, names[:index]))
        return self

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

    def approach_of(self, name: str) -> str:
        """Return the approach that a recipe belongs to."""
        entry = next(e for e in self.recipes if e.name == name)
        return entry.approach or name.split("-")[0]


def builtin_studies() -> list[str]:
    """Return the names of the studies inside the package."""
    folder = resources.files("lydite.study") / "builtin"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def read_study(source: str) -> Study:
    """Read a study from a YAML file, or a built-in one by name ("demo").

    Raises:
        FileError: no such file and no such built-in study.
        ConfigError: not a valid study; the message says where and why.
    """
    if source in builtin_studies():
        text = (resources.files("lydite.study") / "builtin" / f"{source}.yaml").read_text("utf-8")
        return validate(Study, parse_yaml(text, source), f"Study {source}")
    path = Path(source)
    if path.is_dir():
        path = path / "study.yaml"
    value = parse_yaml(
        _read_text(path, f"built-in studies: {', '.join(builtin_studies())}"), source
    )
    return validate(Study, value, f"Study {path}")


def read_recipe(path: Path) -> Recipe:
    """Read one recipe from a YAML file.

    Raises:
        FileError: no such file.
        ConfigError: not a valid recipe.
    """
    value = parse_yaml(_read_text(path, "a recipe is a YAML file"), str(path))
    return validate(Recipe, value, f"Recipe {path}")


def parse_yaml(text: str, where: str) -> Any:
    """Return the value in a YAML text, `${NAME}` in strings replaced from the environment.

    Raises:
        ConfigError: not YAML, or a variable is not set.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    return _expand(value, where)


def _read_text(path: Path, hint: str) -> str:
    """Read a text file of at most a megabyte."""
    from lydite.files import read_bytes

    if not path.is_file():
        raise FileError(f"There is no file {path} ({hint}).")
    try:
        return read_bytes(path, 1024 * 1024).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a UTF-8 text file.") from error


def _expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` in every string of a JSON-like value."""
    if isinstance(value, dict):
        return {k: _expand(v, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, where) for v in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(
                f"{where} uses ${{{match[1]}}}, but the environment variable {match[1]} is not "
                f"set. Set it to the folder it stands for: export {match[1]}=/path"
            )
        return found

    return re.sub(r"\$\{([A-Z_][A-Z0-9_]*)\}", variable, value)

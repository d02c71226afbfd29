"""Layouts in which the name of a folder says what its images are."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from lydite.data.scan.entries import (
    LAYOUTS,
    SPLIT_NAMES,
    Entry,
    Layout,
    Source,
    lower_parts,
    stem_of,
)
from lydite.errors import DataError

_FORENSYNTHS = {"0_real": "real", "1_fake": "fake"}
_GENIMAGE = {"nature": "real", "ai": "fake"}
_GENIMAGE_ENDS = {(name,) for name in _GENIMAGE}
#: the 20 LSUN classes that the training set of ForenSynths is sorted by, all made by ProGAN
_LSUN = frozenset(
    ["airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"]
    + ["diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"]
    + ["train", "tvmonitor"]
)
PHOTOGRAPHS = "photographs"
Folders = tuple[str, ...]


def _found(source: Source, names: dict[str, str]) -> dict[str, int]:
    """Return how many images lie directly in a folder of each name."""
    counts = dict.fromkeys(names, 0)
    for path in source.images:
        parts = lower_parts(path)
        if parts and parts[-1] in counts:
            counts[parts[-1]] += 1
    return counts


def _evidence_of(source: Source, names: dict[str, str]) -> str | None:
    """Say that folders of both names hold images."""
    counts = _found(source, names)
    if not all(counts.values()):
        return None
    return " and ".join(f"{count} images in {name}" for name, count in counts.items())


def _split_off(
    parts: Sequence[str], beside: Mapping[Folders, set[str]]
) -> tuple[str | None, Folders]:
    """Return the split that one of an image's folders names, and the folders without it.

    Args:
        parts: names of the folders, from the outermost on.
        beside: names of the folders in each folder. `train` is also an LSUN class: beside other
            classes it is no split.
    """
    for place, name in enumerate(parts):
        others = beside.get(tuple(parts[:place]), set())
        if name in SPLIT_NAMES and not others & (_LSUN - {"train"}):
            return SPLIT_NAMES[name], (*parts[:place], *parts[place + 1 :])
    return None, tuple(parts)


def _beside(paths: Iterable[PurePosixPath]) -> dict[Folders, set[str]]:
    """Return the names of the folders in each folder that leads to images."""
    found: dict[Folders, set[str]] = defaultdict(set)
    for path in paths:
        parts = lower_parts(path)
        for place, name in enumerate(parts):
            found[tuple(parts[:place])].add(name)
    return found


def _forensynths(source: Source) -> list[Entry]:
    """Read `[generator/][class/]0_real|1_fake/file`, a split above any of these."""
    labeled = [
        path for path in source.images if lower_parts(path)[-1:] in {("0_real",), ("1_fake",)}
    ]
    beside = _beside(labeled)
    entries = []
    for path in labeled:
        *folders, folder = lower_parts(path)
        split, above = _split_off(folders, beside)
        generator = above[0] if above else source.root.name.lower()
        if len(above) == 1 and generator in _LSUN:
            generator = "progan"
        label = _FORENSYNTHS[folder]
        # Files are numbered anew in every split, so a name says something only within one.
        group = "/".join((generator, split or "", *above[-1:], stem_of(path)))
        maker = generator if label == "fake" else PHOTOGRAPHS
        entries.append(Entry(str(path), label, maker, generator, split, group))
    return entries


def _genimage(source: Source) -> list[Entry]:
    """Read `generator/train|val/ai|nature/file`, the split above or below the generator.

    What the benchmark calls `val` is what it tests on, so it is the test split where no folder is
    called that.
    """
    labeled = [path for path in source.images if lower_parts(path)[-1:] in _GENIMAGE_ENDS]
    beside = _beside(labeled)
    entries = []
    for path in labeled:
        *folders, folder = lower_parts(path)
        split, above = _split_off(folders, beside)
        generator = above[0] if above else source.root.name.lower()
        label = _GENIMAGE[folder]
        # The same ImageNet photographs stand beside several generators: their name is the group.
        group = f"nature/{stem_of(path)}"
        if label == "fake":
            group = f"{generator}/{split or ''}/{stem_of(path)}"
        maker = generator if label == "fake" else "imagenet"
        entries.append(Entry(str(path), label, maker, generator, split, group))
    # as published: there, and in no folder beside it that somebody divided otherwise
    tested = {entry.domain for entry in entries if entry.split == "test"}
    return [
        dataclasses.replace(entry, split="test")
        if entry.split == "val" and entry.domain not in tested
        else entry
        for entry in entries
    ]


def _synthbuster_folder(path: PurePosixPath) -> str | None:
    """Return the folder that names the source of an image; a folder `synthbuster` is no source."""
    parts = [part for part in lower_parts(path) if part != "synthbuster"]
    return parts[0] if parts else None


def _raise_folders(source: Source) -> set[str]:
    """Return the names of the folders called RAISE."""
    names = {_synthbuster_folder(path) for path in source.images} - {None}
    return {name for name in names if name and name.startswith("raise")}


def _synthbuster(source: Source) -> list[Entry]:
    """Read `generator/file` beside `RAISE/file`; equal names are the same photograph."""
    photos = _raise_folders(source)
    if not source.real and not photos:
        raise DataError(
            f"{source.root} has no folder called RAISE. "
            "Name the folder of photographs with --real FOLDER."
        )
    for real in source.real:
        if not any(real in path.parents for path in source.images):
            raise DataError(f"--real names {str(real)!r}, but no image lies there.")
    entries = []
    for path in source.images:
        folder = _synthbuster_folder(path)
        if folder:
            # what the user named is a path, which may lie deeper than the folders of generators
            named = next((real for real in source.real if real in path.parents), None)
            if named is not None:
                folder = named.name.lower() or folder
            is_photo = named is not None if source.real else folder in photos
            label = "real" if is_photo else "fake"
            entries.append(Entry(str(path), label, folder, "synthbuster", None, stem_of(path)))
    return entries


def _synthbuster_evidence(source: Source) -> str | None:
    """Say which folders are photographs and which are generators."""
    if source.fake:
        return None
    photos = _raise_folders(source)
    if source.real:
        photos &= {folder.name.lower() for folder in source.real}
    others = {_synthbuster_folder(path) for path in source.images} - photos - {None}
    if not photos or not others:
        return None
    return f"{len(others)} folders beside {', '.join(sorted(photos))}"


def _explicit(source: Source) -> list[Entry]:
    """Read the folders that the user called real and fake."""
    if not source.real or not source.fake:
        raise DataError(
            "The layout folders needs both classes: name them with --real FOLDER --fake FOLDER."
        )
    named = [(folder, "real") for folder in source.real]
    named += [(folder, "fake") for folder in source.fake]
    for folder, _ in named:
        clash = [other for other, _ in named if other != folder and other in folder.parents]
        if clash or sum(other == folder for other, _ in named) > 1:
            outer = clash[0] if clash else folder
            raise DataError(
                f"The folder {str(folder)!r} lies in {str(outer)!r}, which is named as well: "
                "an image would have two labels. Name folders that do not overlap."
            )
    return _with_known_splits(
        [entry for folder, label in named for entry in _of_folder(source, folder, label)]
    )


def _with_known_splits(entries: list[Entry]) -> list[Entry]:
    """Give entries without a split that of their namesake, where only the other class has splits.

    A group is a photograph and what was made of it, and its name begins with its split, as numbers
    begin anew in each. So a group without one joins the group of the same name in the one split
    that has it; a name that stands in several splits says nothing.
    """
    divided: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.split is not None:
            divided[entry.group.partition("/")[2]].add(entry.split)
    joined = []
    for entry in entries:
        found = divided.get(entry.group, set()) if entry.split is None else set()
        if len(found) == 1:
            (split,) = found
            entry = dataclasses.replace(entry, split=split, group=f"{split}/{entry.group}")
        joined.append(entry)
    return joined


def _of_folder(source: Source, folder: PurePosixPath, label: str) -> list[Entry]:
    """Return the entries of one named folder; folders below it are classes or splits."""
    entries = []
    for path in source.images:
        if folder not in path.parents:
            continue
        split = next((SPLIT_NAMES[p] for p in lower_parts(path) if p in SPLIT_NAMES), None)
        inner = [p for p in lower_parts(path.relative_to(folder)) if p not in SPLIT_NAMES]
        group = "/".join((*([split] if split else []), *inner, stem_of(path)))
        name = next(
            (p for p in reversed(folder.parts) if p.lower() not in SPLIT_NAMES), source.root.name
        )
        entries.append(Entry(str(path), label, name, source.root.name, split, group))
    return entries


def _explicit_evidence(source: Source) -> str | None:
    """Say that both classes were named."""
    return "--real and --fake were given" if source.real and source.fake else None


LAYOUTS.add("forensynths")(
    Layout(
        "folders 0_real and 1_fake",
        lambda source: _evidence_of(source, _FORENSYNTHS),
        _forensynths,
    )
)
LAYOUTS.add("genimage")(
    Layout(
        "generator/train|val/ai|nature", lambda source: _evidence_of(source, _GENIMAGE), _genimage
    )
)
LAYOUTS.add("synthbuster")(
    Layout("one folder a generator beside a folder RAISE", _synthbuster_evidence, _synthbuster)
)
LAYOUTS.add("folders")(
    Layout("folders named with --real and --fake", _explicit_evidence, _explicit)
)

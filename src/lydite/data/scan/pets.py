"""The layout `dogs-vs-cats`: the source task of transfer learning, in both forms it comes in."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from lydite.data.scan.entries import LAYOUTS, Entry, Layout, Source, lower_parts, stem_of

_NUMBERED = re.compile(r"(cat|dog)\.\d+")
_CLASSES = ("cat", "dog")


def _label(path: PurePosixPath) -> str | None:
    """Return cat or dog by the file's own name (`cat.7.jpg`), else by its folder's."""
    match = _NUMBERED.fullmatch(stem_of(path))
    if match:
        return match[1]
    parts = lower_parts(path)
    beside = len(parts) < 2 or parts[-2] in ("petimages", "train", "test", "val", "pets")
    return parts[-1] if parts and beside and parts[-1] in _CLASSES else None


def _group(path: PurePosixPath, label: str) -> str:
    """Return `cat.7` for `cat.7.jpg` and for `Cat/7.jpg`, which are the same photograph."""
    stem = stem_of(path)
    return stem if stem.startswith(label + ".") else f"{label}.{stem}"


def _evidence(source: Source) -> str | None:
    """Say which of the two forms the folder has."""
    numbered = {stem_of(path)[:3] for path in source.images if _NUMBERED.fullmatch(stem_of(path))}
    if numbered == set(_CLASSES):
        return "files are called cat.N and dog.N"
    pet = [lower_parts(path) for path in source.images]
    folders = {parts[-1] for parts in pet if len(parts) > 1 and parts[-2] == "petimages"}
    rooted = {parts[-1] for parts in pet if len(parts) == 1}
    if set(_CLASSES) <= folders or (set(_CLASSES) == rooted):
        return "there are the folders Cat and Dog"
    return None


def _entries(source: Source) -> list[Entry]:
    """Return all cats and dogs; the unlabeled test images of the competition are left out."""
    entries = []
    for path in source.images:
        label = _label(path)
        if label:
            entries.append(
                Entry(str(path), label, "kaggle", "dogs-vs-cats", None, _group(path, label))
            )
    return entries


LAYOUTS.add("dogs-vs-cats")(
    Layout("cat.N.jpg and dog.N.jpg, or PetImages/Cat and PetImages/Dog", _evidence, _entries)
)

"""What every layout hands over: one entry an image file, decided but not yet read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lydite.registry import Registry

#: folder and column spellings of the three splits
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Entry:
    """One image as its layout describes it.

    Attributes:
        path: relative to the root, with "/".
        label: real, fake, cat or dog.
        generator: or the source of photographs.
        domain: images that belong together, real and fake.
        split: as the layout says, or None where it does not.
        group: what must never span two splits.
        sha256: the digest that a table promised, or None.
    """

    path: str
    label: str
    generator: str
    domain: str
    split: str | None
    group: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A folder as it lies on disk, and what the user said about it.

    Attributes:
        root: the folder that paths are relative to.
        images: relative paths of everything that looks like an image, sorted.
        table: the CSV file that describes the folder, where the user named one.
        real: folders that the user called real, relative to the root.
        fake: folders that the user called fake, relative to the root.
    """

    root: Path
    images: tuple[PurePosixPath, ...]
    table: Path | None = None
    real: tuple[PurePosixPath, ...] = ()
    fake: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which data sets lie on disk.

    Attributes:
        expects: the shape of the folder in a few words, for messages.
        evidence: why a folder fits this layout, or None where it does not.
        entries: the images that the layout recognizes; others are left out.
    """

    expects: str
    evidence: Callable[[Source], str | None]
    entries: Callable[[Source], Sequence[Entry]]


LAYOUTS: Registry[Layout] = Registry("layout")


def stem_of(path: PurePosixPath) -> str:
    """Return a file's name without its suffix, in lower case."""
    return path.stem.lower()


def lower_parts(path: PurePosixPath) -> tuple[str, ...]:
    """Return the folders of a path, in lower case."""
    return tuple(part.lower() for part in path.parent.parts)

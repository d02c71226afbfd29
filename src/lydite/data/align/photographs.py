"""Which photographs of a folder or a manifest get a twin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lydite.data.align.crop import LEAST_SIDE, side_of
from lydite.data.manifest import SPLITS, Manifest, Row
from lydite.data.scan.entries import SPLIT_NAMES, Entry, lower_parts
from lydite.data.scan.folders import PHOTOGRAPHS
from lydite.data.scan.read import read_entries
from lydite.data.scan.splits import Fractions, assign_splits, parse_split
from lydite.data.scan.walk import find_images
from lydite.errors import ConfigError, DataError, unknown_name
from lydite.files import digest

if TYPE_CHECKING:
    from lydite.recipe import Progress

#: folders whose images are hardly photographs, whatever lies around them
FAKE_FOLDERS = frozenset({"1_fake", "fake", "fakes", "generated", "synthetic"})
#: hex digits of a photograph's digest that name its copies
NAME_DIGITS = 16


@dataclass(frozen=True)
class Skipped:
    """A file without a twin; `code` is a reason code of the decoder or of a scan."""

    path: str
    code: str


@dataclass(frozen=True)
class Photographs:
    """Photographs to make twins of.

    Attributes:
        manifest: one row each; contents differ from each other.
        sizes: (width, height) of each, as stored.
        skipped: those that cannot be used.
        copies: files left out because their content is that of another.
    """

    manifest: Manifest
    sizes: tuple[tuple[int, int], ...]
    skipped: tuple[Skipped, ...]
    copies: int

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def digest(self) -> str:
        """SHA-256 over the photographs and their splits, whatever the order."""
        columns = (self.manifest.column(name) for name in ("sha256", "split"))
        return digest(sorted(zip(*columns, strict=True)))

    def formats(self) -> dict[str, int]:
        """Count the files by format."""
        return dict(Counter(self.manifest.column("format")).most_common())

    def rows(self) -> Iterator[tuple[Row, str]]:
        """Yield every photograph and the name of its copies."""
        for row in self.manifest.rows():
            yield row, row.sha256[:NAME_DIGITS]


def find_photographs(
    source: Path,
    *,
    split: str | None = None,
    domains: tuple[str, ...] = (),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Photographs:
    """Find the photographs in a folder, or the real images of a manifest. No file is changed.

    Args:
        source: a folder, all of whose images count as real, or a Parquet manifest.
        split: of a folder, as `lydite data scan` takes it; of a manifest, the one split to use.
        domains: of a manifest, the only ones to use.
        limit: at most so many, drawn by content and seed.
        seed: of the division into splits and of the draw.
        progress: told about the work.

    Raises:
        ConfigError: an option does not fit.
        DataError: no such folder or manifest, generated images in it, or no usable photograph.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"`limit` must be 1 or more. Got {limit}.")
    if source.is_dir():
        if domains:
            raise ConfigError("`domain` chooses from a manifest; a folder has no domains.")
        found = _of_folder(source, parse_split(split) if split else None, seed, progress)
    else:
        found = _of_manifest(source, split, domains)
    return _usable(found, limit, seed, source)


def _of_folder(
    folder: Path, split: str | Fractions | None, seed: int, progress: Progress | None
) -> Manifest:
    """Read the headers of all images of a folder."""
    root = folder.resolve()
    kept = sorted(root.glob("*.parquet"))
    if kept:
        raise DataError(
            f"{folder} holds the manifest {kept[0].name}, which says which of its images are "
            f"real. Name the manifest instead: {kept[0]}"
        )
    paths = find_images(root)
    strange = [path for path in paths if FAKE_FOLDERS & set(lower_parts(path))]
    if strange or root.name.lower() in FAKE_FOLDERS:
        named = str(strange[0]) if strange else root.name
        raise DataError(
            f"{folder} must hold photographs alone. {named!r} looks generated. "
            "Name the folder of photographs, or the manifest that `lydite data scan` makes."
        )
    entries = assign_splits([_entry(path, root.name) for path in paths], split, seed)
    return read_entries(entries, root, progress=progress)


def _entry(path: PurePosixPath, domain: str) -> Entry:
    """Return the entry of a photograph; equal names in one folder belong together."""
    split = next((SPLIT_NAMES[part] for part in lower_parts(path) if part in SPLIT_NAMES), None)
    return Entry(str(path), "real", PHOTOGRAPHS, domain, split, str(path.with_suffix("")))


def _of_manifest(path: Path, split: str | None, domains: tuple[str, ...]) -> Manifest:
    """Return the real images of a manifest."""
    if not path.exists():
        raise DataError(f"There is no folder or manifest {path}.")
    manifest = Manifest.read(path)
    known = sorted(set(manifest.column("domain")))
    for name in domains:
        if name not in known:
            raise ConfigError(unknown_name("domain", name, known))
    if split is not None and split not in SPLITS:
        raise ConfigError(
            "`split` chooses one split of a manifest: train, val or test, which stay as they are. "
            f"Got {split!r}."
        )
    return manifest.select(
        label="real", domain=domains or known, split=SPLITS if split is None else split
    )


def _usable(manifest: Manifest, limit: int | None, seed: int, source: Path) -> Photographs:
    """Leave out what cannot be used, and what is there twice."""
    sizes = list(zip(*(manifest.table[c].to_pylist() for c in ("width", "height")), strict=True))
    facts = zip(*(manifest.column(c) for c in ("path", "error", "sha256")), sizes, strict=True)
    skipped, chosen, seen, copies = [], [], set(), 0
    for place, (path, error, sha256, (width, height)) in enumerate(facts):
        if error is None and side_of(width, height, LEAST_SIDE) < LEAST_SIDE:
            error = "too-small"
        if error is not None:
            skipped.append(Skipped(path, error))
        elif sha256 in seen:
            copies += 1
        else:
            seen.add(sha256)
            chosen.append((digest([seed, sha256]), place))
    places = sorted(place for _, place in sorted(chosen)[:limit])
    if not places:
        why = ", ".join(f"{n} {code}" for code, n in Counter(s.code for s in skipped).items())
        raise DataError(
            f"{source} holds no photograph of at least {LEAST_SIDE} pixels a side"
            + (f" ({why})." if why else ".")
        )
    return Photographs(
        Manifest(manifest.table.take(places), manifest.root),
        tuple(sizes[place] for place in places),
        tuple(skipped),
        copies,
    )

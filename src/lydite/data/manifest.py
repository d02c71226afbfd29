"""The manifest: a table with one row an image, in which labels are decided once and for all.

On disk it is one Parquet file; the folder that its paths start from travels in the file's
metadata. Needs the `[data]` extra (pyarrow).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lydite.errors import DataError, FileError, MissingExtraError
from lydite.files import digest, is_file, write_bytes

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError("data", "pyarrow") from error

MANIFEST_VERSION = 1
#: the two classes of each task; the second is the positive one
TASKS: tuple[tuple[str, str], ...] = (("real", "fake"), ("cat", "dog"))
TARGETS = {name: index for pair in TASKS for index, name in enumerate(pair)}
SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # relative to the root, with "/"
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),  # real, fake, cat or dog
        pa.field("generator", pa.string(), nullable=False),  # or the source of photographs
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train, val or test
        pa.field("group", pa.string(), nullable=False),  # never spans two splits
        pa.field("width", pa.int32()),  # pixels as stored; null where unreadable
        pa.field("height", pa.int32()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string()),  # as the content says: JPEG, PNG, ...
        pa.field("quality", pa.float32()),  # JPEG quality estimated from the tables, else null
        pa.field("error", pa.string()),  # reason code of an unreadable file, else null
    ]
)


@dataclass(frozen=True)
class Row:
    """One image of a manifest; `file` is its absolute path."""

    file: Path
    path: str
    sha256: str
    label: str
    generator: str
    domain: str
    split: str
    group: str

    @property
    def target(self) -> int:
        """Class index: 1 for fake (or dog), 0 for real (or cat)."""
        return TARGETS[self.label]


class Manifest:
    """An immutable table of images.

    Args:
        table: columns as in `SCHEMA`.
        root: the folder that `path` is relative to.

    Raises:
        DataError: columns are missing, or a label or split is unknown.
    """

    def __init__(self, table: pa.Table, root: Path) -> None:
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise DataError(f"The manifest lacks the columns {', '.join(missing)}.")
        try:
            self.table: pa.Table = table.select(SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
            raise DataError(f"The manifest's columns have the wrong types: {error}") from error
        self.root = root
        for column, allowed in (("label", set(TARGETS)), ("split", set(SPLITS))):
            strange = set(self.table[column].unique().to_pylist()) - allowed
            if strange:
                raise DataError(
                    f"Unknown {column} {sorted(map(str, strange))[0]!r} in the manifest. "
                    f"Allowed: {', '.join(sorted(allowed))}."
                )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> list[str]:
        """Return a column as a list."""
        return list(self.table[name].to_pylist())

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class index of every row: 1 for fake (or dog), 0 for real (or cat). (N,) int64."""
        return np.array([TARGETS[label] for label in self.column("label")], dtype=np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over what images these are and how they are labelled, whatever the row order."""
        columns = ("sha256", "label", "split", "generator", "domain", "group")
        return digest(sorted(zip(*(self.column(name) for name in columns), strict=True)))

    def select(self, **wanted: str | Sequence[str]) -> Manifest:
        """Return the rows whose columns hold one of the wanted values.

        >>> manifest.select(split="train", domain=["stargan", "cyclegan"])  # doctest: +SKIP
        """
        mask = pa.array(np.ones(len(self), dtype=bool))
        for name, values in wanted.items():
            if name not in SCHEMA.names:
                raise DataError(f"No manifest column is called {name!r}.")
            options = [values] if isinstance(values, str) else list(values)
            mask = pc.and_(mask, pc.is_in(self.table[name], pa.array(options, pa.string())))
        return Manifest(self.table.filter(mask), self.root)

    def of_one_task(self) -> tuple[Manifest, int]:
        """Return the images of one pair of classes, and how many others were left out.

        Where there are several pairs, real and fake are meant: cats and dogs, which a network may
        begin with, are no answer to the question of what was generated.
        """
        there = set(self.column("label"))
        if sum(bool(there & set(pair)) for pair in TASKS) < 2:
            return self, 0
        kept = self.select(label=TASKS[0])
        return kept, len(self) - len(kept)

    def in_split(self, split: str) -> Manifest:
        """Return the same images, all of them filed under one split."""
        place = SCHEMA.get_field_index("split")
        column = pa.array([split] * len(self), pa.string())
        return Manifest(self.table.set_column(place, SCHEMA.field("split"), column), self.root)

    def readable(self) -> Manifest:
        """Return the rows whose files decoded when they were scanned."""
        return Manifest(self.table.filter(pc.is_null(self.table["error"])), self.root)

    def joined(self, other: Manifest) -> Manifest:
        """Return the rows of both, its own first; paths start from a folder above both.

        Raises:
            DataError: there is no such folder (two drives of Windows).
        """
        if self.root == other.root:
            return Manifest(pa.concat_tables([self.table, other.table]), self.root)
        roots = [manifest.root.resolve() for manifest in (self, other)]
        try:
            above = os.path.commonpath(roots)
        except ValueError as error:
            raise DataError(
                f"Images of {self.root} and of {other.root} do not fit into one manifest: {error}."
            ) from error
        tables = []
        for manifest, root in zip((self, other), roots, strict=True):
            way = Path(os.path.relpath(root, above))
            paths = [(way / path).as_posix() for path in manifest.column("path")]
            place = SCHEMA.get_field_index("path")
            tables.append(manifest.table.set_column(place, SCHEMA.field("path"), [paths]))
        return Manifest(pa.concat_tables(tables), Path(above))

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        names = ("path", "sha256", "label", "generator", "domain", "split", "group")
        for values in zip(*(self.column(name) for name in names), strict=True):
            yield Row(self.root / values[0], *values)

    def write(self, path: Path) -> None:
        """Write the manifest as one Parquet file, atomically."""
        # a folder's name need not be text
        root = os.fsencode(self.root)
        metadata = {b"lydite.manifest": str(MANIFEST_VERSION).encode(), b"lydite.root": root}
        buffer = io.BytesIO()
        pq.write_table(self.table.replace_schema_metadata(metadata), buffer, compression="zstd")
        write_bytes(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path, root: Path | None = None) -> Manifest:
        """Read a manifest.

        Args:
            path: the Parquet file.
            root: the images' folder, where it has moved since the scan.

        Raises:
            FileError: no such file.
            DataError: not a manifest, a newer one, or its folder is gone.
        """
        if not is_file(path):
            raise FileError(f"There is no manifest at {path}. Make one with: lydite data scan DIR")
        try:
            table = read_parquet(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a Parquet manifest: {error}") from error
        metadata = table.schema.metadata or {}
        version = metadata.get(b"lydite.manifest", b"")
        if not version.isdigit() or len(version) > 9:
            raise DataError(f"{path} is no manifest. Make one with: lydite data scan DIR")
        if int(version) > MANIFEST_VERSION:
            raise DataError(f"{path} has format version {int(version)}; upgrade lydite to read it.")
        folder = root or Path(os.fsdecode(metadata.get(b"lydite.root", b".")))
        if not folder.is_dir():
            raise DataError(
                f"The images' folder {folder} is gone. Scan it where it is now (lydite data scan), "
                "or name it with --root where the command has that option."
            )
        return cls(table, folder)


def read_parquet(path: Path) -> pa.Table:
    """Return a Parquet file's table; by its name, pyarrow opens no file whose name is not UTF-8."""
    with path.open("rb") as stream:
        return pq.read_table(stream)


def from_columns(columns: dict[str, list[object]], root: Path) -> Manifest:
    """Return a manifest from plain lists, one per column of `SCHEMA` (missing ones are null)."""
    length = len(columns["path"])
    full = {name: columns.get(name, [None] * length) for name in SCHEMA.names}
    return Manifest(pa.table(full, schema=SCHEMA), root)

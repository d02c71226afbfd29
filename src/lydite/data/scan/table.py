"""The layout `csv`: a table says what each file is."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath, PureWindowsPath

from lydite.data.manifest import TARGETS
from lydite.data.scan.entries import LAYOUTS, SPLIT_NAMES, Entry, Layout, Source
from lydite.errors import DataError

_MAX_FIELD = 65_536
_NEEDED = ("path", "label")
_USED = (*_NEEDED, "generator", "domain", "split", "group", "sha256")


def read_table(path: Path, domain: str) -> list[Entry]:
    """Return the entries of a CSV table.

    Columns `path` and `label` are needed; `generator`, `domain`, `split`, `group` and `sha256` are
    used where they are there, all others are ignored.

    Args:
        path: the table, UTF-8 with a header line.
        domain: the domain of rows that name none.

    Raises:
        DataError: not such a table, a label or split is unknown, a path is listed twice or leaves
            the folder.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    try:
        csv.field_size_limit(_MAX_FIELD)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_header(path, reader.fieldnames)
            for row in reader:
                entry = _entry(row, domain, f"{path}, line {reader.line_num}")
                if entry.path in seen:
                    raise DataError(f"{path}, line {reader.line_num}: {entry.path!r} comes twice.")
                seen.add(entry.path)
                entries.append(entry)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV table in UTF-8: {error}.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    if not entries:
        raise DataError(f"{path} has a header, and no rows.")
    return entries


def _check_header(path: Path, names: object) -> None:
    """Refuse a table without the two columns that decide, or with one of them twice."""
    present = list(names) if isinstance(names, (list, tuple)) else []
    for mark, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(present) == 1 and mark in present[0]:
            raise DataError(f"{path} has {called} between its fields. It must have commas.")
    if twice := [name for name in _USED if present.count(name) > 1]:
        raise DataError(f"{path} has the column {twice[0]!r} twice. Keep one of them.")
    missing = [name for name in _NEEDED if name not in present]
    if missing:
        raise DataError(
            f"{path} lacks the column {missing[0]!r}. Its header must name path and label; "
            "generator, domain, split, group and sha256 are used where they are there."
        )


def _entry(row: dict[str, str | None], domain: str, where: str) -> Entry:
    """Return the entry of one row; `where` names file and line in messages."""
    if None in row or row["path"] is None or row["label"] is None:
        raise DataError(f"{where}: the number of fields differs from the header's.")
    label = row["label"].strip().lower()
    if label not in TARGETS:
        raise DataError(
            f"{where}: unknown label {row['label']!r}. Allowed: {', '.join(sorted(TARGETS))}."
        )
    split = (row.get("split") or "").strip().lower()
    if split and split not in SPLIT_NAMES:
        raise DataError(f"{where}: unknown split {row['split']!r}. Allowed: train, val, test.")
    path = safe_path(row["path"], where)
    return Entry(
        path=path,
        label=label,
        generator=(row.get("generator") or "").strip() or label,
        domain=(row.get("domain") or "").strip() or domain,
        split=SPLIT_NAMES[split] if split else None,
        group=(row.get("group") or "").strip() or str(PurePosixPath(path).with_suffix("")),
        sha256=(row.get("sha256") or "").strip().lower() or None,
    )


def safe_path(text: str, where: str) -> str:
    """Return a table's path in its one spelling.

    Raises:
        DataError: empty, absolute, or it leaves the folder.
    """
    path = PurePosixPath(text)
    absolute = path.is_absolute() or bool(PureWindowsPath(text).anchor)
    if absolute or ".." in path.parts or "\0" in text or not path.parts:
        raise DataError(
            f"{where}: the path {text!r} is not below the table's folder. "
            "Paths must be relative, with '/', and without '..'."
        )
    return str(path)


def _table_of(source: Source) -> Path | None:
    """Return the one CSV file of the folder that has the header of a table."""
    if source.table is not None:
        return source.table
    fitting = []
    for path in sorted(source.root.glob("*.csv")):
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                names = next(csv.reader([stream.readline(_MAX_FIELD)]), [])
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        if {"path", "label"} <= set(names):
            fitting.append(path)
    if len(fitting) > 1:
        raise DataError(
            f"{source.root} holds more than one table: "
            f"{', '.join(path.name for path in fitting)}. Name the one to scan."
        )
    return fitting[0] if fitting else None


def _evidence(source: Source) -> str | None:
    """Say which table describes the folder."""
    table = _table_of(source)
    return f"{table.name} has the columns path and label" if table else None


def _entries(source: Source) -> list[Entry]:
    """Return the entries of the folder's table."""
    table = _table_of(source)
    return read_table(table, source.root.name) if table else []


LAYOUTS.add("csv")(Layout("a CSV file with the columns path and label", _evidence, _entries))

"""Read what a manifest says about each file: its size, digest and header. No file is changed."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lydite.data.decode import decode, inspect
from lydite.data.manifest import Manifest, from_columns
from lydite.data.scan.entries import Entry
from lydite.errors import DecodeError, FileError
from lydite.files import sha256_file

if TYPE_CHECKING:
    from lydite.recipe import Progress


@dataclass(frozen=True)
class FileFacts:
    """What was measured on one file; `error` is a reason code where it cannot be used."""

    sha256: str = ""
    bytes: int = 0
    width: int | None = None
    height: int | None = None
    format: str | None = None
    quality: float | None = None
    error: str | None = None


def read_facts(path: Path, promised: str | None = None, *, verify: bool = False) -> FileFacts:
    """Measure one file.

    Args:
        path: the file.
        promised: the digest that it should have.
        verify: decode every pixel, not only the header.

    Returns:
        The facts. Reason codes are those of the decoder, and `missing`, `not-a-file`,
        `unreadable`, `digest` (another content than promised) and `name` (not UTF-8).
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return FileFacts(error="missing")
    except (OSError, ValueError):
        return FileFacts(error="unreadable")
    if not stat.S_ISREG(status.st_mode):
        return FileFacts(error="not-a-file")
    facts = FileFacts(bytes=status.st_size)
    try:
        facts = dataclasses.replace(facts, sha256=sha256_file(path))
        info = inspect(path)
        facts = dataclasses.replace(
            facts, width=info.width, height=info.height, format=info.format, quality=info.quality
        )
        if verify:
            decode(path)
    except FileError:
        return dataclasses.replace(facts, error="unreadable")
    except DecodeError as error:
        return dataclasses.replace(facts, error=error.code)
    if promised is not None and promised != facts.sha256:
        return dataclasses.replace(facts, error="digest")
    return facts


def read_entries(
    entries: Sequence[Entry],
    root: Path,
    *,
    verify: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Measure all files, several at a time, and return the manifest in the entries' order.

    Args:
        entries: with their splits.
        root: the folder that paths are relative to.
        verify: decode every pixel, not only the headers.
        progress: told about the work.
    """
    facts: list[FileFacts] = []
    total = len(entries)
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as pool:
        results = pool.map(
            lambda entry: read_facts(root / entry.path, entry.sha256, verify=verify), entries
        )
        for fact in results:
            facts.append(fact)
            if progress and (len(facts) % 64 == 0 or len(facts) == total):
                progress("scan", len(facts), total, "")
    columns: dict[str, list[object]] = {
        field.name: [getattr(fact, field.name) for fact in facts]
        for field in dataclasses.fields(FileFacts)
    }
    for name in ("label", "generator", "domain", "split", "group"):
        columns[name] = [_text(getattr(entry, name)) for entry in entries]
    columns["path"] = [_text(entry.path) for entry in entries]
    columns["error"] = [
        "name" if _text(entry.path) != entry.path else fact.error
        for entry, fact in zip(entries, facts, strict=True)
    ]
    return from_columns(columns, root)


def _text(value: str) -> str:
    """Return a name as valid UTF-8; bytes that are not become visible escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")

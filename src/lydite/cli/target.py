"""Files that commands write: new ones, or older ones of the same kind, and never what they read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lydite.errors import ConfigError, FileError

#: what a file of a kind begins with, in small letters
_BEGINNINGS = {"manifest": b"par1", "scores": b"par1", "page": b"<!doctype html"}
_NAMES = {"manifest": "an older manifest", "scores": "older scores", "page": "an older HTML page"}


def require_target(
    path: Path,
    kind: Literal["manifest", "scores", "page"],
    *,
    option: str,
    reads: Sequence[Path] = (),
) -> None:
    """Refuse to write over something else than an older file of the same kind.

    Args:
        path: where to write.
        kind: of what will be written.
        option: that named the path, for messages.
        reads: files that the command reads; none of them is written over.

    Raises:
        ConfigError: it is one of `reads`, a folder, or a file of another kind.
        FileError: it cannot be looked at, or its folder cannot be written to.
    """
    try:
        if not path.exists():
            _require_place(path)
            return
        if path.is_char_device() or path.is_fifo():
            return
        if path.is_dir():
            found = "a folder"
        elif any(source.exists() and source.samefile(path) for source in reads):
            found = "what this command reads"
        elif _is(path, kind):
            return
        else:
            found = "something else"
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.") from error
    raise ConfigError(
        f"`{option}` must be a new file or {_NAMES[kind]}. {path} is {found}; choose another."
    )


def _require_place(path: Path) -> None:
    """Refuse a new file where none can be made, before hours of work are lost to that.

    Raises:
        FileError: the nearest folder above that is there already is a file, or is not writable.
    """
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise FileError(f"Cannot write {path}: {above} is a file.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise FileError(f"Cannot write {path}: {above} is not writable.")


def _is(path: Path, kind: str) -> bool:
    """Tell whether a file is of a kind, or empty."""
    wanted = _BEGINNINGS[kind]
    with path.open("rb") as stream:
        start = stream.read(len(wanted))
    if start.lower() != wanted:
        return not start
    return kind == "page" or _holds_manifest(path) == (kind == "manifest")


def _holds_manifest(path: Path) -> bool:
    """Tell whether a Parquet file is a manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:  # by its name, pyarrow opens none that is not UTF-8
            return b"lydite.manifest" in (pq.read_schema(stream).metadata or {})
    except pa.ArrowInvalid:
        return False

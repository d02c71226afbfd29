"""Files that are either whole or not there: atomic writes, digests, folder locks.

Every file that Lydite writes passes through here: written to a temporary name in the same folder,
flushed to disk, then moved over the old one in one step, so that a kill or a full disk leaves the
old file standing and no half file is ever visible under a real name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lydite.errors import BusyError, FileError

MAX_JSON_BYTES = 10 * 1024 * 1024
TEMPORARY_PREFIX = ".lydite-"
LOCK = ".lock"
#: longest line of compact JSON that could be broken: a figure, with its slice, is one
LINE = 240


def canonical_json(value: Any) -> bytes:
    """Return the one JSON spelling of `value` that digests are taken of (sorted, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as 64 hex digits.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror or error}.") from error


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return a file's content, refusing files over `max_bytes`.

    Raises:
        FileError: the file is missing, unreadable or too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror or error}.") from error
    if len(data) > max_bytes:
        raise FileError(f"{path} is larger than the {max_bytes:,} bytes allowed here.")
    return data


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document; `NaN` and `Infinity` are none.

    Raises:
        ValueError: not JSON, or not UTF-8.
        RecursionError: it is nested too deeply.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON value")

    return json.loads(data, parse_constant=refuse)


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value in a JSON file.

    Raises:
        FileError: the file is missing, too large, or not JSON.
    """
    try:
        return parse_json(read_bytes(path, max_bytes))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is not valid JSON: {error}.") from error


def is_file(path: Path) -> bool:
    """Return whether a path is a file.

    Raises:
        FileError: it cannot be asked: no permission, or no name that the system allows.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror or error}.") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, creating the folders above it.

    Of a link, the file that it leads to is written. A device or a pipe is written into, and stays
    what it is.

    Raises:
        FileError: no permission, no space, not a folder: the old file still stands.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                stream.write(data)
            return
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> FileError:
    """Return our error for one of the system's, or of Python's for names that none allows."""
    name = str(path).replace("\0", "\\0")
    return FileError(f"Cannot write {name}: {getattr(error, 'strerror', None) or error}.")


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write `value` as readable JSON (indented, key order kept), atomically.

    Args:
        path: of the file.
        value: what JSON can hold.
        compact: what fits on a line stands on one, such as a figure among a thousand.
    """
    text = _folded(value) if compact else _dumped(value, indent=2)
    write_bytes(path, (text + "\n").encode("utf-8"))


def _dumped(value: Any, indent: int | None = None) -> str:
    """Return JSON, with its keys in the order they have."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def _folded(value: Any, room: int = LINE, margin: str = "") -> str:
    """Return JSON whose lists and objects are broken into lines only where they are too long."""
    line = _dumped(value)
    if len(line) <= room or not value or not isinstance(value, dict | list):
        return line
    inner = margin + "  "
    if isinstance(value, dict):
        items = {f"{_dumped(str(key))}: ": item for key, item in value.items()}
        parts = [k + _folded(v, LINE - len(inner) - len(k), inner) for k, v in items.items()]
        opened, closed = "{}"
    else:
        parts = [_folded(item, LINE - len(inner), inner) for item in value]
        opened, closed = "[]"
    return f"{opened}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{closed}"


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends without an error.

    An older folder at `path` is replaced only then, by one of the same permissions. After an error
    nothing has changed. Of a link, the folder that it leads to is replaced. An empty folder that
    cannot be replaced, a mount point say, is filled at the end.

    Raises:
        FileError: the folder cannot be written, or a file is there; the message names `path`.
    """
    try:
        if "\0" in str(path):  # which every call would find, the last one too late
            raise ValueError("no name may hold this character")
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_dir():
            raise FileError(f"Cannot write the folder {path}: a file of that name is there.")
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = _must_stay(path)
        temporary = (path if inside else path.parent) / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        temporary.mkdir()
    except (OSError, ValueError, RuntimeError) as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                # elsewhere than on POSIX, only what may be written can be flushed
                with file.open("rb" if os.name == "posix" else "rb+") as stream:
                    os.fsync(stream.fileno())
        if inside:
            _fill(temporary, path)
        else:
            _swap(temporary, path)
        _sync_folder(path if inside else path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    except FileError as error:  # of a file in a folder that nobody will find
        raise FileError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _must_stay(path: Path) -> bool:
    """Tell whether a folder is there that cannot be replaced, only filled.

    Raises:
        FileError: such a folder has something in it.
    """
    if not path.is_dir():
        return False
    mounted = os.path.ismount(path)
    if not mounted and os.access(path.parent, os.W_OK):
        return False
    if any(path.iterdir()):
        why = "it is a mount point" if mounted else "the folder around it cannot be written"
        raise FileError(
            f"{path} is not empty and cannot be replaced: {why}. Name a new folder in it."
        )
    return True


def _fill(new: Path, path: Path) -> None:
    """Move what a folder holds into an empty one, the JSON file that tells what it is at last."""
    names = sorted(child.name for child in new.iterdir())
    for name in sorted(names, key=lambda name: name.endswith(".json")):
        (new / name).replace(path / name)


def _swap(new: Path, path: Path) -> None:
    """Put a folder in the place of another one, which comes back if that fails."""
    if not path.exists():
        new.replace(path)
        return
    old = new.with_name(new.name + "-old")
    new.chmod(stat.S_IMODE(path.stat().st_mode))
    try:
        path.replace(old)
        new.replace(path)
    except BaseException:  # a signal too
        if old.exists() and not path.exists():
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def lock_folder(folder: Path, *, tidy: bool = False) -> Iterator[None]:
    """Hold the one right to write in `folder` for the length of the block.

    The lock is the operating system's, so that a killed process leaves none behind.

    Args:
        folder: made where it is not there.
        tidy: a folder that was made for the block, and in which nothing came of it, goes again.

    Raises:
        BusyError: another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"Another lydite process is working in {folder}. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise FileError(f"Cannot write in {folder}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        if tidy and new:
            with contextlib.suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()
        lock.release()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (POSIX only)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

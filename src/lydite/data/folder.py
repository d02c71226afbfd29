"""Which files a folder stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lydite.data.reasons import refuse
from lydite.errors import DecodeError


def image_files(folder: Path) -> Iterator[tuple[Path, DecodeError | None]]:
    """Yield every file in a folder and below, sorted by path.

    Names that begin with a dot are left out and links to folders are not followed, so that links
    in a loop end. Suffixes do not matter: a file's content decides whether it is an image.

    Yields:
        A file and None, or a folder that cannot be listed and the error.
    """
    pending = [folder]
    while pending:
        path = pending.pop()
        if not is_folder(path):
            yield path, None
        elif path is folder or not path.is_symlink():
            try:
                inside = sorted(item for item in path.iterdir() if item.name[0] != ".")
            except OSError as error:
                yield path, refuse("unreadable", str(path), error.strerror or "")
            else:
                pending.extend(reversed(inside))


def is_folder(source: str | Path) -> bool:
    """Return whether a path is a folder; one that cannot be asked is not, nor is an empty name.

    An empty name is what a script makes of a variable that is not set, never the folder one is in.
    """
    try:
        return str(source) != "" and Path(source).is_dir()
    except (OSError, ValueError):
        return False

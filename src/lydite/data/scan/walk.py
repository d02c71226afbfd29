"""Find the images below a folder: links in a loop, hidden files and odd names do no harm."""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path, PurePosixPath

from lydite.errors import DataError

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif"]
    + [".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k"]
    + [".jxl", ".tga", ".ico", ".psd"]
)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")


def find_images(root: Path) -> tuple[PurePosixPath, ...]:
    """Return the paths of all images below `root`, relative to it and sorted.

    Links are followed, but a folder that is reached twice counts once. Hidden files and folders,
    pipes and devices are skipped. A file counts by its suffix or, under any other name, by its
    first bytes.

    Raises:
        DataError: `root` is not a folder, or cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    found: list[PurePosixPath] = []
    seen: set[tuple[int, int]] = set()
    waiting = deque([root])
    linked: deque[Path] = deque()  # after all real folders, so that those keep their own paths
    while waiting or linked:
        folder = waiting.popleft() if waiting else linked.popleft()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for item in _list(folder):
            path = folder / item.name
            if _is_folder(item):
                (linked if item.is_symlink() else waiting).append(path)
            elif _is_image(path):
                found.append(PurePosixPath(path.relative_to(root).as_posix()))
    return tuple(sorted(found))


def _list(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as items:
            visible = [item for item in items if not item.name.startswith(".")]
    except OSError as error:
        raise DataError(f"Cannot list the folder {folder}: {error.strerror}.") from error
    return sorted(visible, key=lambda item: item.name)


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder; a link to itself is not one."""
    try:
        return item.is_dir()
    except OSError:
        return False


def _is_image(path: Path) -> bool:
    """Tell whether a file is meant to be an image: by suffix, else by its first bytes."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return True
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_symlink()
    return (
        head.startswith(_MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1")
    )

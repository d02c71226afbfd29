"""Folders that commands write their pictures to: new ones, so that nothing is written over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lydite.errors import FileError
from lydite.files import TEMPORARY_PREFIX, publish_folder

#: letters of an image's name that go into the name of its picture
_LONGEST = 40


def require_free(out: Path) -> None:
    """Refuse a place where something is.

    Raises:
        FileError: it is no new name and no empty folder.
    """
    try:
        taken = out.is_symlink() or (out.exists() and not (out.is_dir() and _empty(out)))
    except OSError as error:
        raise FileError(f"Cannot write {out}: {error.strerror or error}.") from error
    if taken:
        raise FileError(f"{out} is there already. Name a new or empty folder with --out.")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` at the end of the block, whole or not at all.

    Raises:
        FileError: something is at `out`, now or at the end, or it cannot be written.
    """
    require_free(out)
    if out.exists() and out.samefile(Path.cwd()):
        # a folder is put in place whole, and whoever stands in the old one would not see it
        raise FileError("The folder that you are in cannot be written whole. Name another (--out).")
    with publish_folder(out) as temporary:
        yield temporary
        require_free(out)


def safe_name(number: int, name: str) -> str:
    r"""Return a file name, without a suffix, that is allowed everywhere and says what it is of.

    >>> safe_name(1, "holiday photo.jpg"), safe_name(12, "../<b>\n.png")
    ('001-holiday_photo', '012-_b__')
    """
    stem = Path(name).stem
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
    return f"{number:03d}-{kept[:_LONGEST]}"


def _empty(folder: Path) -> bool:
    names = (child.name for child in folder.iterdir())
    return all(name.startswith(TEMPORARY_PREFIX) for name in names)

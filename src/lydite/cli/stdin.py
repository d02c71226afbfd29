"""One image from standard input."""

from __future__ import annotations

import sys

from lydite.data.reasons import MAX_FILE_BYTES, refuse


def read_stdin() -> bytes:
    """Return what stands on standard input, no more than one byte over the allowed size.

    Raises:
        DecodeError: it is closed, or cannot be read.
    """
    try:
        if sys.stdin is None:
            raise refuse("unreadable", "-", "standard input is closed")
        return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise refuse("unreadable", "-", str(error)) from error

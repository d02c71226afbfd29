"""Decoded images kept in memory, so that an image is decoded once for many detectors or epochs."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lydite.data.decode import decode
from lydite.data.manifest import Row
from lydite.data.reasons import refuse
from lydite.errors import DecodeError, LyditeError
from lydite.files import sha256_file

UInt8 = NDArray[np.uint8]
DEFAULT_LIMIT_BYTES = 2 * 1024**3


class ImageStore:
    """Reads the images of manifests and keeps as many as fit.

    It fills until it is full and then keeps what it has: images are read in whole passes, where
    throwing out the longest unused one would throw out exactly what the next pass needs first.
    Refused files are remembered too. Any number of threads may ask at the same time.

    Args:
        limit_bytes: how many bytes of decoded pixels to keep; 0 keeps none.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[Path, UInt8 | tuple[str, str]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, row: Row) -> UInt8:
        """Return the upright image of a row: (H, W, 3) uint8, read-only.

        Raises:
            DecodeError: the file was refused; the code says why ("missing" where it is gone,
                "digest" where it is another than the one that was scanned).
        """
        with self._lock:
            kept = self._kept.get(row.file)
        if kept is None:
            kept = _read(row)
            self._keep(row.file, kept)
        if isinstance(kept, tuple):
            raise DecodeError(*kept)
        return kept

    def _keep(self, file: Path, read: UInt8 | tuple[str, str]) -> None:
        """Remember what was read, if there is room."""
        size = 0 if isinstance(read, tuple) else read.nbytes
        with self._lock:
            if file not in self._kept and self.used_bytes + size <= self.limit_bytes:
                self._kept[file] = read
                self.used_bytes += size


def _read(row: Row) -> UInt8 | tuple[str, str]:
    """Return the decoded image, or (sentence, code) of its refusal."""
    try:
        rgb = decode(row.file)
        # what is known of images, their labels and results go by the digests of the manifest
        if row.sha256 and sha256_file(row.file) != row.sha256:
            raise refuse("digest", str(row.file))
    except LyditeError as error:
        return str(error), error.code
    rgb.setflags(write=False)
    return rgb

"""Which images the ranges of an int8 file are measured on, and their tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lydite.card import Preprocess
from lydite.data.decode import decode
from lydite.data.manifest import Manifest
from lydite.data.preprocess import prepare
from lydite.errors import DataError
from lydite.recipe import Context


def balanced_sample(manifest: Manifest, count: int, seed: int) -> Manifest:
    """Return `count` readable images, half of them of each class, chosen by the seed alone.

    Where a class has fewer images than its half, all of it is taken. The order of the manifest's
    rows does not matter.

    Raises:
        DataError: a class is missing.
    """
    readable = manifest.readable()
    targets = readable.targets
    # Sorted by content first: the same images are chosen from any order of the same rows.
    order = np.argsort(np.array(readable.column("sha256")), kind="stable")
    draw = np.random.default_rng(seed)
    chosen: list[int] = []
    for target, share in ((0, count // 2), (1, count - count // 2)):
        members = order[targets[order] == target]
        if not len(members):
            raise DataError(
                "Calibration needs images of both classes. The training images lack the "
                f"{('negative (real)', 'positive (fake)')[target]} one."
            )
        chosen += draw.permutation(members)[:share].tolist()
    return Manifest(readable.table.take(sorted(chosen)), readable.root)


def calibration_tiles(
    images: Manifest, preprocess: Preprocess, context: Context, what: str
) -> Iterator[NDArray[np.float32]]:
    """Yield the tiles of each image, preprocessed, (T, 3, S, S); progress is told about `what`."""
    for done, row in enumerate(images.rows(), start=1):
        yield prepare(decode(row.file), preprocess)
        context.progress(what, done, len(images), "calibrating")

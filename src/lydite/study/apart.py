"""Keeping a generator out of what is learned."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lydite.data.manifest import Manifest
from lydite.errors import DataError, unknown_name


def without_generators(manifest: Manifest, names: Sequence[str], fake: str) -> Manifest:
    """Return the images without the fakes of some generators.

    The same picture filed under another generator or domain goes with them.

    Args:
        manifest: the images.
        names: of the generators.
        fake: the label of fakes; photographs from a source of the same name stay.

    Raises:
        DataError: a generator has no fake among the images.
    """
    if not names:
        return manifest
    columns = (manifest.column(name) for name in ("generator", "label", "sha256"))
    rows = list(zip(*columns, strict=True))
    there = sorted({generator for generator, label, _ in rows if label == fake})
    for name in names:
        if name not in there:
            raise DataError(f"`unseen_generators`: {unknown_name('generator', name, there)}")
    held = {content for generator, label, content in rows if label == fake and generator in names}
    kept = [content not in held for _, _, content in rows]
    return Manifest(manifest.table.filter(pa.array(kept, pa.bool_())), manifest.root)

"""Twins of `lydite data align` among the images that a study learns from.

A twin goes with its photograph: it is learned where its photograph is, and nowhere else. So a fold
that holds a domain out holds out the twins of that domain's photographs as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lydite.data.align.make import DOMAIN_PREFIX
from lydite.data.align.photographs import NAME_DIGITS
from lydite.data.manifest import Manifest
from lydite.errors import DataError


@dataclass(frozen=True)
class Twins:
    """Training images before their twins joined them, and the manifests of these."""

    plain: Manifest
    paths: tuple[Path, ...]


def with_twins(train: Manifest, paths: Sequence[Path]) -> Manifest:
    """Return the training images, and what manifests hold of the photographs among them.

    Args:
        train: what is learned.
        paths: manifests of `lydite data align`; of each, the copies and twins of photographs in
            `train`, whatever split they had.

    Raises:
        DataError: not such a manifest, one without a twin of these photographs, or a domain of it
            is there already.
        FileError: no manifest there.
    """
    photographs = {sha256[:NAME_DIGITS] for sha256 in train.select(label="real").column("sha256")}
    for path in paths:
        train = train.joined(_of(photographs, path, set(train.column("domain"))))
    return train


def _of(photographs: set[str], path: Path, there: set[str]) -> Manifest:
    """Return the copies and twins of photographs, in the training split."""
    made = Manifest.read(path).readable()
    domains = set(made.column("domain"))
    if strange := sorted(name for name in domains if not name.startswith(DOMAIN_PREFIX)):
        raise DataError(
            f"`twins`: {path} is no manifest of `lydite data align`; it has the domain "
            f"'{strange[0]}'. Images of any kind belong into `manifest` or `scan`."
        )
    if both := sorted(domains & there):
        raise DataError(
            f"`twins`: the domain '{both[0]}' of {path} is there already. Name every manifest once."
        )
    groups = pa.array(sorted(photographs), pa.string())
    table = made.table.filter(pc.is_in(made.table["group"], groups))
    if not table.num_rows:
        raise DataError(
            f"`twins`: {path} holds nothing of the photographs that are learned here. Make "
            "twins of them with: lydite data align MANIFEST --split train"
        )
    return Manifest(table, made.root).in_split("train")

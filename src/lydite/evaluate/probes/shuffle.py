"""A world in which there is nothing to learn: labels that are drawn at random for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lydite.data.manifest import Row

Int64 = NDArray[np.int64]


def shuffled(rows: Sequence[Row], labels: tuple[str, str], seed: int) -> list[Row]:
    """Return rows with labels that have nothing to do with what they show.

    A label is drawn once for all rows that are one picture: those of the same bytes, and those of
    one group, in whatever splits they lie. The two labels alternate over the pictures of a domain
    in random order, those in the same splits by themselves, so that no split loses a class.

    Args:
        rows: of all splits together, the digest of their bytes and their group set.
        labels: to draw from.
        seed: equal seeds draw equal labels, whatever the order of the rows.
    """
    picture = pictures(rows)
    places: dict[str, list[tuple[str, str]]] = {}
    for name, row in zip(picture, rows, strict=True):
        places.setdefault(name, []).append((row.domain, row.split))
    strata: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in sorted(places):
        strata.setdefault(tuple(sorted(set(places[name]))), []).append(name)
    rng = np.random.default_rng(seed)
    drawn: dict[str, str] = {}
    for where in sorted(strata):
        first = int(rng.integers(2))
        order = rng.permutation(len(strata[where]))
        drawn |= {strata[where][i]: labels[(first + n) % 2] for n, i in enumerate(order)}
    return [replace(row, label=drawn[name]) for name, row in zip(picture, rows, strict=True)]


def pictures(rows: Sequence[Row]) -> list[str]:
    """Return a name for the picture of each row, the same for all that share bytes or a group."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in rows:
        one, other = root(f"bytes {row.sha256}"), root(f"group {row.group}")
        # the smaller name stays, so that the order of rows changes nothing
        parent[max(one, other)] = min(one, other)
    return [root(f"bytes {row.sha256}") for row in rows]

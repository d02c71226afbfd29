"""A few images of a selection, as somebody has them who meets a new generator."""

from __future__ import annotations

from collections import defaultdict

from lydite.data.manifest import Manifest
from lydite.errors import DataError
from lydite.files import digest

#: of the few images, the share that fixes the threshold instead of being learned from
VALIDATION_SHARE = 0.25


def few(manifest: Manifest, shots: int, seed: int) -> tuple[Manifest, Manifest]:
    """Return `shots` images of each class and domain, divided into (train, val).

    A quarter of them, one at least, is validation: who has few images fixes the threshold on few.
    Whole groups are taken as far as possible, so that a photograph comes with the fakes made from
    it, and no group stands on both sides. Which images these are follows from content and seed
    alone, and more shots keep the groups of fewer.

    Args:
        manifest: to choose from, of both classes in every domain.
        shots: images of each class and domain in all, at least 2.
        seed: of the choice.

    Raises:
        DataError: a domain has too few readable images of a class.
    """
    readable = manifest.readable()
    rows = list(readable.rows())
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.domain, row.label].append(place)
    validation = max(1, round(VALIDATION_SHARE * shots))
    ordered: dict[tuple[str, str], list[int]] = {}
    for (domain, label), members in sorted(places.items()):
        ordered[domain, label] = sorted(
            members,
            key=lambda place: (
                digest([seed, rows[place].group or rows[place].sha256]),
                digest([seed, rows[place].sha256]),
            ),
        )
    check = [place for members in ordered.values() for place in members[:validation]]
    apart = {rows[place].group for place in check} - {""}
    learn = []
    for (domain, label), members in ordered.items():
        free = [place for place in members[validation:] if rows[place].group not in apart]
        if len(free) < shots - validation:
            raise DataError(
                f"`shots: {shots}` needs as many {label} images of {domain}, {validation} of them "
                f"of other groups than the rest; there are {len(members)}. Use fewer."
            )
        learn += free[: shots - validation]
    table = readable.table
    return (
        Manifest(table.take(sorted(learn)), readable.root),
        Manifest(table.take(sorted(check)), readable.root),
    )

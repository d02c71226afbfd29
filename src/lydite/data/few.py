"""A few images of a selection, as somebody has them who meets a new generator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lydite.data.manifest import Manifest, Row
from lydite.errors import DataError
from lydite.files import digest

#: of the few images, the share that fixes the threshold instead of being learned from
VALIDATION_SHARE = 0.25


def few(
    manifest: Manifest,
    shots: int,
    seed: int,
    *,
    option: str = "shots",
    beside: tuple[Manifest, Manifest] | None = None,
) -> tuple[Manifest, Manifest]:
    """Return `shots` images of each class and domain, divided into (train, val).

    A quarter of them, one at least, is validation: who has few images fixes the threshold on few.
    Whole groups are taken as far as possible, so that a photograph comes with the fakes made from
    it, and no group stands on both sides. Which images these are follows from content and seed
    alone, and more shots keep the groups of fewer.

    Args:
        manifest: to choose from, of both classes in every domain.
        shots: images of each class and domain in all, at least 2.
        seed: of the choice.
        option: what a recipe calls `shots`, for messages.
        beside: (train, val) that they join, whose groups and images do not change sides either.

    Raises:
        DataError: a domain has too few readable images of a class.
    """
    readable = manifest.readable()
    rows = list(readable.rows())
    ordered = _ordered(rows, seed)
    validation = max(1, round(VALIDATION_SHARE * shots))
    learned, checked = (_marks(part) for part in beside) if beside else (set(), set())
    marks = [{row.group, row.sha256} - {""} for row in rows]
    check = {
        kind: [place for place in members if not marks[place] & learned][:validation]
        for kind, members in ordered.items()
    }
    chosen = [place for places in check.values() for place in places]
    apart = checked.union(*(marks[place] for place in chosen))
    learn: list[int] = []
    for kind, members in ordered.items():
        taken = set(check[kind])
        rest = [place for place in members if place not in taken]
        free = [place for place in rest if not marks[place] & apart]
        if len(check[kind]) < validation or len(free) < shots - validation:
            raise DataError(_too_few(option, shots, validation, kind, len(members), beside))
        learn += free[: shots - validation]
    table = readable.table
    return (
        Manifest(table.take(sorted(learn)), readable.root),
        Manifest(table.take(sorted(chosen)), readable.root),
    )


def _ordered(rows: Sequence[Row], seed: int) -> dict[tuple[str, str], list[int]]:
    """Return the places of each domain and label, drawn by the content of groups and images."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.domain, row.label].append(place)
    return {
        kind: sorted(
            members,
            key=lambda place: (
                digest([seed, rows[place].group or rows[place].sha256]),
                digest([seed, rows[place].sha256]),
            ),
        )
        for kind, members in sorted(places.items())
    }


def _marks(part: Manifest) -> set[str]:
    """Return what the images of a selection must not share with the other side."""
    return {*part.column("group"), *part.column("sha256")} - {""}


def _too_few(
    option: str,
    shots: int,
    validation: int,
    kind: tuple[str, str],
    there: int,
    beside: tuple[Manifest, Manifest] | None,
) -> str:
    """Return what to tell somebody who asked for more than there is."""
    joined = ", and none of a group that the seen domains have on the other side" if beside else ""
    return (
        f"`{option}: {shots}` needs as many {kind[1]} images of {kind[0]}, {validation} of them of "
        f"other groups than the rest{joined}; there are {there}. Use fewer."
    )

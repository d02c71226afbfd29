"""Give every image a split, so that the same folder and seed give the same splits everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from lydite.data.manifest import SPLITS
from lydite.data.scan.entries import Entry
from lydite.errors import ConfigError

Fractions = tuple[float, float, float]
DEFAULT_FRACTIONS: Fractions = (0.7, 0.1, 0.2)


def parse_split(text: str) -> str | Fractions:
    """Read `--split`: a split's name, or three fractions for train, val and test.

    >>> parse_split("0.8,0.1,0.1")
    (0.8, 0.1, 0.1)

    Raises:
        ConfigError: neither.
    """
    if text in SPLITS:
        return text
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        train = val = test = math.nan
    fractions = (train, val, test)
    if not (min(fractions) >= 0 and math.isclose(sum(fractions), 1.0, abs_tol=1e-6)):
        raise ConfigError(
            "`split` must be train, val or test, or three fractions that sum to 1. "
            f"Got {text!r}. Use for instance 0.7,0.1,0.2."
        )
    return fractions


def split_of(group: str, fractions: Fractions, seed: int) -> str:
    """Return the split of a group: a hash of group and seed decides, never order or count."""
    head = hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogatepass")).digest()[:8]
    position = int.from_bytes(head) / 2**64
    if position < fractions[0]:
        return "train"
    return "val" if position < fractions[0] + fractions[1] else "test"


def assign_splits(
    entries: Sequence[Entry], split: str | Fractions | None, seed: int
) -> list[Entry]:
    """Return the entries, each with a split.

    A split's name is taken for all images. Otherwise what the layout says stands, and only the
    others are divided by their group; a group that has a split already keeps it.

    Args:
        entries: as the layout gave them.
        split: a split's name, fractions for train, val and test, or None for 70, 10, 20 %.
        seed: another seed divides otherwise.
    """
    if isinstance(split, str):
        return [dataclasses.replace(entry, split=split) for entry in entries]
    fractions = split or DEFAULT_FRACTIONS
    known: dict[str, str] = {}
    for entry in entries:
        if entry.split is not None:  # of several the one that is learned from least
            named = (entry.split, known.get(entry.group, entry.split))
            known[entry.group] = max(named, key=SPLITS.index)
    return [
        entry
        if entry.split is not None
        else dataclasses.replace(
            entry, split=known.get(entry.group) or split_of(entry.group, fractions, seed)
        )
        for entry in entries
    ]


def with_validation(
    entries: Sequence[Entry], split: str | Fractions | None, seed: int
) -> list[Entry]:
    """Return the entries, a part of the training images being validation if nothing else is.

    That part is as large, beside what stays, as the fractions have it: an eighth unless they say
    otherwise. Each domain is asked for itself. Groups stay whole: what stands in training images
    of a domain that has validation images of its own stays there.

    Args:
        entries: each with a split.
        split: as in `assign_splits`; a split's name leaves all as it is.
        seed: likewise.
    """
    if isinstance(split, str):
        return list(entries)
    there: dict[str, set[str | None]] = defaultdict(set)
    for entry in entries:
        there[entry.domain].add(entry.split)
    if not any("test" in splits for splits in there.values()):  # a part of something larger
        return list(entries)
    divided = {domain for domain, splits in there.items() if "val" not in splits}
    fixed = {e.group for e in entries if e.split == "train" and e.domain not in divided}
    train, val, _ = split or DEFAULT_FRACTIONS
    if not train + val:
        return list(entries)
    share = val / (train + val)
    return [
        dataclasses.replace(entry, split=split_of(entry.group, (1 - share, share, 0.0), seed))
        if entry.split == "train" and entry.domain in divided and entry.group not in fixed
        else entry
        for entry in entries
    ]

"""Results as the page and its figures want them: one line a recipe, nothing measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lydite.card import Figure
from lydite.study.results import Result, newest

SPLIT = "test"
#: what a domain is to a study: learned in it, learned before it, or never met; in that order
Kind = Literal["seen", "source", "unseen"]
_KINDS: tuple[Kind, ...] = ("seen", "source", "unseen")
#: how many series the palette tells apart
_COLORS = 8


@dataclass(frozen=True)
class Column:
    """One column of the generator matrix.

    Attributes:
        domain: where the images are from.
        generator: whose fakes.
        kind: what the domain is to the study.
        label: domain alone where it has one generator.
    """

    domain: str
    generator: str
    kind: Kind
    label: str

    @property
    def slice(self) -> dict[str, str]:
        """What figures of this column are filed under."""
        return {"domain": self.domain, "generator": self.generator}


@dataclass(frozen=True)
class Group:
    """One row of the table of all figures: how it is called, how many images, its slice."""

    label: str
    n: int
    slice: dict[str, str]


@dataclass(frozen=True)
class Line:
    """One result, with its place in the palette.

    Attributes:
        result: what was measured.
        name: unique in the report.
        color: number of the approach, the reference's being 0.
    """

    result: Result
    name: str
    color: int

    @property
    def hue(self) -> int:
        """Number of the page's color for it; approaches from the eighth on share them."""
        return 1 + (self.color - 1) % (_COLORS - 1) if self.color else 0

    @property
    def approach(self) -> str:
        """Short name of the approach."""
        return self.result.approach

    @property
    def size_bytes(self) -> int:
        """Size of the exported file."""
        return self.result.cost.size_bytes

    def figure(self, metric: str, /, **where: str) -> Figure | None:
        """Return the figure of a slice of the test split."""
        return self.result.figure(metric, **where, split=SPLIT)

    def value(self, metric: str, /, **where: str) -> float | None:
        """Return the number of a slice of the test split."""
        figure = self.figure(metric, **where)
        return None if figure is None else figure.value

    def groups(self) -> list[Group]:
        """Return every slice of the test split that was measured, in the order of measuring."""
        found: dict[str, Group] = {}
        for figure in self.result.figures:
            where = {k: v for k, v in figure.slice.items() if k != "split"}
            if figure.metric == "unreadable" or figure.slice.get("split") != SPLIT or not where:
                continue
            if {"against", "with", "degradation", "domains"} & where.keys():
                continue
            label = where.get("group") or ": ".join(where.values())
            found.setdefault(label, Group(label, figure.n, where))
        # what stands for all comes first
        return sorted(found.values(), key=lambda group: "group" not in group.slice)

    def stops(self, metric: str) -> list[tuple[int, float]]:
        """Return (parameters, validation metric) after each step that measured both."""
        found = []
        for step in self.result.steps:
            value = next((f.value for f in step.figures if f.metric == metric), None)
            if step.parameters and value is not None:
                found.append((step.parameters, value))
        return found


def lines_of(results: Sequence[Result]) -> list[Line]:
    """Return the newest result of each recipe and seed, the reference first, then as given."""
    kept = sorted(newest(results), key=lambda result: not result.reference)
    several = len({result.seed for result in kept}) > 1
    approaches = list(dict.fromkeys(result.approach for result in kept))
    return [
        Line(
            result,
            f"{result.recipe} (seed {result.seed})" if several else result.recipe,
            approaches.index(result.approach),
        )
        for result in kept
    ]


def columns_of(lines: Sequence[Line]) -> list[Column]:
    """Return every pair of domain and generator that was measured, by kind of domain."""
    kinds: dict[str, Kind] = {name: "source" for line in lines for name in line.result.source}
    kinds |= {name: "seen" for line in lines for name in line.result.seen}
    pairs = {
        (figure.slice["domain"], figure.slice["generator"])
        for line in lines
        for figure in line.result.figures
        if {"domain", "generator"} <= figure.slice.keys()
    }
    single = [domain for domain, _ in pairs]
    held = {name for line in lines for name in line.result.unseen_generators}
    columns = [
        Column(
            d,
            g,
            "unseen" if g in held else kinds.get(d, "unseen"),
            d if single.count(d) == 1 else f"{d}: {g}",
        )
        for d, g in sorted(pairs)
    ]
    return sorted(columns, key=lambda column: _KINDS.index(column.kind))


def headline(lines: Sequence[Line]) -> str:
    """Return the study's outcome in one or two sentences.

    It speaks of the most accurate detector with nine tenths of the parameters removed; if there is
    none, of the smallest file.
    """
    base = next((line for line in lines if line.result.reference), None)
    others = [line for line in lines if line is not base]
    if base is None or not others:
        names = ", ".join(line.name for line in lines)
        return f"Measured: {names}." if lines else "Nothing has been measured yet."
    small = [line for line in others if (line.result.cost.compression_rate or 0) >= 0.895]
    chosen = max(small, key=_accuracy) if small else min(others, key=lambda x: x.size_bytes)
    cost = chosen.result.cost
    parts = [f"{kilobytes(chosen.size_bytes)} instead of {kilobytes(base.size_bytes)}"]
    if cost.latency_ratio:
        parts.append(f"{cost.latency_ratio:.1f} times the speed")
    sentence = f"{chosen.name}: {', '.join(parts)}"
    if len(small) > 1:  # a winner of many owes a part of its lead to these very images
        sentence = f"Most accurate here of {len(small)} at most a tenth as large, {sentence}"
    for group, domains in (("seen", chosen.result.seen), ("source", chosen.result.source)):
        ours, theirs = (line.value("accuracy", group=group) for line in (chosen, base))
        if ours is not None and theirs is not None:
            names = ", ".join(domains)
            sentence += f"; {ours:.1%} of {names} right, where {base.name} has {theirs:.1%}"
    best = max(lines, key=lambda line: line.value("auc", group="unseen-mean") or 0.0)
    area = best.value("auc", group="unseen-mean")
    if area is None:
        return f"{sentence}."
    reference = base.value("auc", group="unseen-mean")
    tail = f"; {base.name} {reference:.2f}" if best is not base and reference is not None else ""
    where = f"Best of {len(lines)} on unseen domains"
    return f"{sentence}. {where}: {best.name}, mean AUC {area:.2f}{tail}."


def remarks(lines: Sequence[Line]) -> list[str]:
    """Return what a reader must be warned of."""
    found = []
    for line in lines:
        area = line.value("auc", group="seen")
        if area is not None and area < 0.5:
            found.append(
                f"{line.name}: the AUC on seen domains is {area:.3f}, under 0.5. "
                "The labels may be swapped."
            )
        groups = ("seen", "source", "unseen-mean")
        unread = sum(int(line.value("unreadable", group=group) or 0) for group in groups)
        if unread:
            found.append(f"{line.name}: {unread} test images could not be scored.")
        found += [f"{line.name}: {note}" for note in line.result.notes]
    below = {
        column.label: sum((line.value("auc", **column.slice) or 1) < 0.5 for line in lines)
        for column in columns_of(lines)
        if column.kind != "seen"
    }
    worst = [f"{label} ({count} of {len(lines)})" for label, count in below.items() if count]
    if worst:
        found.append(f"Ranked worse than chance by some detectors: {', '.join(worst)}.")
    return found


def kilobytes(size_bytes: int) -> str:
    """Return a size in decimal units, as disks and networks count.

    >>> kilobytes(18_361_234), kilobytes(523_000), kilobytes(5_210_000_000)
    ('18.4 MB', '523 kB', '5.21 GB')
    """
    if size_bytes >= 999_500_000:
        return f"{size_bytes / 1e9:.3g} GB"
    if size_bytes >= 9_950_000:
        return f"{size_bytes / 1e6:.3g} MB"
    if size_bytes >= 999_500:
        return f"{size_bytes / 1e6:.2g} MB"
    return f"{size_bytes / 1e3:.3g} kB"


def _accuracy(line: Line) -> float:
    return line.value("accuracy", group="seen") or 0.0

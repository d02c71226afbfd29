"""From a protocol and the manifest at hand to folds.

| kind | a fold for | learns | is measured on |
|---|---|---|---|
| seen-unseen, real-against-real | all | `seen` | every other domain with test images |
| leave-one-domain-out | each domain | the other domains | that domain |
| leave-one-generator-out | each generator | all but its fakes | its fakes |
| leave-one-family-out | each family | all but its generators' fakes | likewise |
| pairwise | each domain | that domain alone | the other domains |

Held-out fakes are measured against the real images in the test split of their domain. A domain of
which all fakes are held out is not learned at all: its real images alone would teach that whatever
looks like this domain is real.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lydite.config import validate
from lydite.data.manifest import Manifest
from lydite.errors import ConfigError, DataError, unknown_name
from lydite.study.families import families_of
from lydite.study.protocol import GIVEN, Protocol
from lydite.study.spec import DataSpec, Fold, Study

Unit = dict[str, str]


def expand(study: Study, manifest: Manifest) -> Study:
    """Return the study with the folds that its protocol makes of a manifest.

    Args:
        study: one with a `protocol`; folds that stand in it already must be the same.
        manifest: all of its images, see `lydite.study.images.study_manifest`.

    Raises:
        DataError: a name is not in the data, or what a fold needs is not there.
        ConfigError: the study has other folds.
    """
    protocol = study.protocol
    assert protocol is not None, "the caller has looked"
    images = _Images(manifest, study.data)
    folds = tuple(_folds(protocol, images))
    if study.folds and study.folds != folds:
        raise ConfigError(
            f"The study has `folds` that its protocol {protocol.kind} does not make of these "
            "images. Give either `folds` or `protocol`."
        )
    for fold in folds:
        images.require_apart(fold)
    value = study.model_copy(update={"folds": folds}).model_dump(mode="json")
    return validate(Study, value, "The expanded study")


class _Images:
    """What a protocol must know of the images: who made how many of them, for which split."""

    def __init__(self, manifest: Manifest, data: DataSpec) -> None:
        usable = manifest.readable().select(label=list(data.labels))
        names = ("domain", "generator", "label", "split", "sha256")
        rows = zip(*(usable.column(name) for name in names), strict=True)
        self.labels, self.source = data.labels, data.source
        self.rows = [row for row in rows if row[0] not in data.exclude]
        self.domains = sorted({row[0] for row in self.rows})
        self.tested = sorted({row[0] for row in self.rows if row[3] == "test"})
        self.fakes = {(d, g, s) for d, g, label, s, _ in self.rows if label == data.labels[1]}
        self.there = {(d, label, s) for d, _, label, s, _ in self.rows}

    def require(self, option: str, names: Iterable[str]) -> None:
        """Refuse domains that are not there."""
        for name in names:
            if name not in self.domains:
                raise DataError(f"`{option}`: {unknown_name('domain', name, self.domains)}")

    def ranged(self, protocol: Protocol) -> list[str]:
        """Return the domains that folds learn and hold out.

        Raises:
            DataError: one is not there, or has no image of a class to learn from or to test on.
        """
        self.require("domains", protocol.domains)
        self.require("test_only", protocol.test_only)
        apart = {*protocol.test_only, *self.source}
        domains = list(protocol.domains) or [d for d in self.domains if d not in apart]
        for domain in domains:
            for split in ("train", "test"):
                for label in self.labels:
                    if (domain, label, split) not in self.there:
                        raise DataError(
                            f"The domain {domain} has no {label} image in its {split} split, which "
                            f"{protocol.kind} needs. Name it in `test_only` of the protocol, or in "
                            "`exclude` of the data."
                        )
        return domains

    def generators(self, domains: Sequence[str]) -> list[str]:
        """Return the generators of the domains' fakes."""
        return sorted({g for d, g, _ in self.fakes if d in domains})

    def require_apart(self, fold: Fold) -> None:
        """Refuse a fold that would learn a picture which it holds out, filed in two places."""
        held = {
            row[4]
            for unit in fold.held
            for row in self.rows
            if row[3] == "test" and _is_of(row, unit, self.labels[1])
        }
        for d, g, label, split, content in self.rows:
            learned = d in fold.seen and split != "test" and content in held
            if learned and not (label == self.labels[1] and g in fold.unseen_generators):
                raise DataError(
                    f"Fold {fold.name}: an image in the {split} split of {d} is also one of those "
                    f"that it holds out ({content[:12]}...). The same image must be in one split; "
                    "see lydite data audit."
                )


def _is_of(row: tuple[str, ...], unit: Unit, fake: str) -> bool:
    """Tell whether a row is of a domain, or of a domain's reals and one generator's fakes."""
    return row[0] == unit["domain"] and (
        "generator" not in unit or row[2] != fake or row[1] == unit["generator"]
    )


def _folds(protocol: Protocol, images: _Images) -> list[Fold]:
    """Return the folds of a protocol."""
    if protocol.kind in GIVEN:
        images.require("seen", protocol.seen)
        images.require("test_only", protocol.test_only)
        known = {*protocol.seen, *images.source}
        held = [d for d in images.tested if d not in known]
        if not held:
            raise DataError(
                f"{protocol.kind} holds nothing out: every domain with test images is learned, in "
                f"`seen` or as `source`. Test images are of: {', '.join(images.tested) or 'none'}. "
                "Leave one of these out of `seen`."
            )
        return [_fold(protocol.kind, protocol.seen, held)]
    domains = images.ranged(protocol)
    if protocol.kind == "pairwise":
        _require_two(protocol, "domains", domains)
        names = _folder_names("on", domains)
        return [_fold(names[one], [one], [d for d in domains if d != one]) for one in domains]
    if protocol.kind == "leave-one-domain-out":
        _require_two(protocol, "domains", domains)
        turns = _turns(protocol, "domain", domains)
        names = _folder_names("without", turns)
        return [_fold(names[one], [d for d in domains if d != one], [one]) for one in turns]
    generators = images.generators(domains)
    parts = {name: [name] for name in generators}
    word = "generator"
    if protocol.kind == "leave-one-family-out":
        parts, word = families_of(generators, protocol.families), "family"
    _require_two(protocol, "families" if word == "family" else "generators", parts)
    turns = _turns(protocol, word, list(parts))
    names = _folder_names("without", turns)
    return [_without(protocol, names[one], one, parts[one], domains, images) for one in turns]


def _without(
    protocol: Protocol,
    name: str,
    called: str,
    held: Sequence[str],
    domains: Sequence[str],
    images: _Images,
) -> Fold:
    """Return the fold that learns everything but the fakes of some generators."""
    left = {d for d, g, split in images.fakes if split == "train" and g not in held}
    units = [
        {"domain": d, "generator": g}
        for d in domains
        for g in held
        if (d, g, "test") in images.fakes
    ]
    if not units:
        raise DataError(
            f"{called} has no fake in the test split, so that holding it out measures nothing. "
            f"Name those to hold out in `hold_out` of the protocol {protocol.kind}."
        )
    seen = [domain for domain in domains if domain in left]
    if not seen:
        raise DataError(f"Without {called} there is no fake left to learn from.")
    return Fold(
        name=name,
        seen=tuple(seen),
        unseen_generators=tuple(held),
        held=tuple(units),
        values={"held": called},
    )


def _fold(name: str, seen: Sequence[str], held: Sequence[str]) -> Fold:
    """Return a fold of whole domains."""
    return Fold(
        name=name,
        seen=tuple(seen),
        held=tuple({"domain": domain} for domain in held),
        values={"held": "+".join(held)},
    )


def _turns(protocol: Protocol, kind: str, there: Sequence[str]) -> list[str]:
    """Return what is held out in turn.

    Raises:
        DataError: one of the names is not there.
    """
    for name in protocol.hold_out:
        if name not in there:
            raise DataError(f"`hold_out`: {unknown_name(kind, name, there)}")
    return list(protocol.hold_out) or list(there)


def _require_two(protocol: Protocol, what: str, there: Iterable[str]) -> None:
    """Refuse to range over less than two."""
    names = list(there)
    if len(names) < 2:
        raise DataError(f"{protocol.kind} needs two {what} at least. Found: {', '.join(names)}.")


def _folder_names(before: str, names: Sequence[str]) -> dict[str, str]:
    """Return a name for the fold of each, fit for a folder and unlike the others."""
    found: dict[str, str] = {}
    for name in names:
        plain = f"{before}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}"[:56]
        taken = {other.lower() for other in found.values()}
        number = 2
        fresh = plain
        while fresh.lower() in taken:
            fresh, number = f"{plain}-{number}", number + 1
        found[name] = fresh
    return found

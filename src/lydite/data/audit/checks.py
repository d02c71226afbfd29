"""The checks of an audit that need the manifest alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from lydite.data.audit.report import Count, Finding, Severity
from lydite.data.manifest import TASKS, Manifest

EXAMPLES = 5
#: folder names that say what is in them
_SAYS_REAL = {"real", "0_real", "nature", "raise", "raise-1k", "photos", "photographs"}
_SAYS_FAKE = {"fake", "1_fake", "ai", "generated", "synthetic"}


def some(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first few names, sorted."""
    return tuple(sorted(names)[:EXAMPLES])


def counts(manifest: Manifest) -> tuple[Count, ...]:
    """Count the images by domain, generator, label and split."""
    names = ("domain", "generator", "label", "split")
    columns = [manifest.column(name) for name in names]
    rows = Counter(zip(*columns, strict=True))
    return tuple(
        Count(domain, generator, label, split, images)
        for (domain, generator, label, split), images in sorted(rows.items())
    )


def check_changed(manifest: Manifest, now: Sequence[str | None]) -> list[Finding]:
    """Report files that are not the ones that were scanned.

    Args:
        manifest: which files.
        now: why each cannot be used today, or None.
    """
    changed = [
        path
        for path, new in zip(manifest.column("path"), _newly_other(manifest, now), strict=True)
        if new
    ]
    if not changed:
        return []
    return [
        Finding(
            "changed",
            "error",
            len(changed),
            f"{len(changed)} files are not the ones that were scanned: their labels may be wrong. "
            "They take no part in training or scoring; scan again.",
            some(changed),
        )
    ]


def _newly_other(manifest: Manifest, now: Sequence[str | None]) -> list[bool]:
    """Return which files are others than the scanned ones, and were what they should be then."""
    before = manifest.column("error")
    return [new == "digest" != old for new, old in zip(now, before, strict=True)]


def check_unreadable(manifest: Manifest, errors: Sequence[str | None]) -> list[Finding]:
    """Report the images that did not decode, by reason; not those that changed."""
    by_code: dict[str, list[str]] = defaultdict(list)
    others = _newly_other(manifest, errors)
    for path, code, other in zip(manifest.column("path"), errors, others, strict=True):
        if code and not other:
            by_code[code].append(path)
    return [
        Finding(
            "unreadable",
            "warning",
            len(paths),
            f"{len(paths)} of {len(manifest)} images cannot be used, reason: {code}. "
            "They take no part in training or scoring.",
            some(paths),
        )
        for code, paths in sorted(by_code.items())
    ]


def check_classes(manifest: Manifest, errors: Sequence[str | None] = ()) -> list[Finding]:
    """Report splits in which one class is missing, or has no image that can be used."""
    findings = []
    named: dict[str, set[str]] = defaultdict(set)
    usable: dict[str, set[str]] = defaultdict(set)
    bad = errors or [None] * len(manifest)
    columns = (manifest.column("split"), manifest.column("label"), bad)
    for split, label, error in zip(*columns, strict=True):
        named[split].add(label)
        if not error:
            usable[split].add(label)
    for split, labels in sorted(named.items()):
        for pair in TASKS:
            present = usable[split] & set(pair)
            if labels & set(pair) and len(present) < len(pair):
                only = f"no usable images but {' '.join(present)}" if present else "no usable image"
                findings.append(
                    Finding(
                        "one-class",
                        "warning",
                        1,
                        f"The split {split} holds {only}: nothing can be learned or measured on it "
                        "alone.",
                        (split,),
                    )
                )
    return findings


def check_exact(manifest: Manifest) -> list[Finding]:
    """Report files with equal bytes: with both labels, across splits, and within a split."""
    rows: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    names = ("sha256", "path", "label", "split")
    for sha, *row in zip(*(manifest.column(name) for name in names), strict=True):
        if sha:
            rows[sha].append((row[0], row[1], row[2]))
    copies = [same for same in rows.values() if len(same) > 1]
    kinds: dict[str, list[str]] = {"label-conflict": [], "duplicate-across": [], "duplicate": []}
    for same in copies:
        if len({label for _, label, _ in same}) > 1:
            kinds["label-conflict"].append(same[0][0])
        if len({split for *_, split in same}) > 1:
            kinds["duplicate-across"].append(same[0][0])
        elif len({label for _, label, _ in same}) == 1:
            kinds["duplicate"].append(same[0][0])
    said: dict[str, tuple[Severity, str]] = {
        "label-conflict": ("error", "files occur with two different labels"),
        "duplicate-across": (
            "error",
            "files occur in several splits: scores are leaked",
        ),
        "duplicate": ("note", "files occur more than once in the same split"),
    }
    return [
        Finding(code, severity, len(kinds[code]), f"{len(kinds[code])} {what}.", some(kinds[code]))
        for code, (severity, what) in said.items()
        if kinds[code]
    ]


def check_groups(manifest: Manifest) -> list[Finding]:
    """Report groups that span splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(manifest.column("group"), manifest.column("split"), strict=True):
        splits[group].add(split)
    spanning = [group for group, found in splits.items() if len(found) > 1]
    if not spanning:
        return []
    return [
        Finding(
            "group-across",
            "error",
            len(spanning),
            f"{len(spanning)} groups (one person, photograph or prompt) have images in more than "
            "one split: scores on it are leaked.",
            some(spanning),
        )
    ]


def check_names(manifest: Manifest) -> list[Finding]:
    """Report images whose label is the opposite of what their folder is called."""
    wrong = []
    for path, label in zip(manifest.column("path"), manifest.column("label"), strict=True):
        folders = {part.lower() for part in PurePosixPath(path).parts[:-1]}
        says_real, says_fake = bool(folders & _SAYS_REAL), bool(folders & _SAYS_FAKE)
        if says_real != says_fake and label == ("fake" if says_real else "real"):
            wrong.append(path)
    if not wrong:
        return []
    return [
        Finding(
            "label-against-folder",
            "warning",
            len(wrong),
            f"{len(wrong)} images are labeled the opposite of what their folder is called: "
            "labels may be swapped.",
            some(wrong),
        )
    ]

"""A read-only check of a manifest: what is broken, what leaks, and what betrays the label.

A detector that learns JPEG against PNG, or that meets its training images again in the test split,
scores well and is worth nothing. The audit looks for both before any training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lydite.data.audit import checks
from lydite.data.audit.confound import bootstrap_auc, enough, predict, separability, thin
from lydite.data.audit.measure import (
    AMBIGUOUS,
    FEATURES,
    PROBES,
    ImageMeasures,
    measure_files,
)
from lydite.data.audit.near import Hashes, find_matches
from lydite.data.audit.report import (
    AuditReport,
    Confound,
    Count,
    Finding,
    NearDuplicate,
    Severity,
)
from lydite.data.manifest import SPLITS, TASKS, Manifest
from lydite.errors import DataError

if TYPE_CHECKING:
    from lydite.recipe import Progress

__all__ = ["AuditReport", "Confound", "Count", "Finding", "NearDuplicate", "audit"]

#: a property whose AUC is above this with its whole interval is a confound
WARN_AUC = 0.6
#: labels of a split are doubted where properties learned on the others give less than this
SWAPPED_AUC = 0.4
ALL = "all"
_CONFOUND_KINDS: tuple[tuple[bool, str, Severity, str], ...] = (
    (True, "confound", "warning", "A detector may learn that instead of a generator's traces."),
    (
        False,
        "grid",
        "note",
        "Earlier JPEGs leave such a grid, but so does a generator's own upsampling.",
    ),
)


def audit(manifest: Manifest, *, seed: int = 0, progress: Progress | None = None) -> AuditReport:
    """Check a manifest. Every image is decoded; nothing is written.

    Args:
        manifest: of any size; 15,000 small images take minutes.
        seed: of cross-validation and bootstrap.
        progress: told about the work.

    Raises:
        DataError: the manifest is empty.

    >>> report = audit(Manifest.read(Path("manifest.parquet")))  # doctest: +SKIP
    """
    if not len(manifest):
        raise DataError("The manifest has no images. Scan a folder that has some.")
    measures = measure_files(list(manifest.rows()), progress)
    errors = [
        seen.error or known for seen, known in zip(measures, manifest.column("error"), strict=True)
    ]
    duplicates, cut_short = _near_duplicates(manifest, measures)
    confounds, swapped = _confounds(manifest, measures, seed, progress)
    findings = [
        *checks.check_changed(manifest, errors),
        *checks.check_exact(manifest),
        *checks.check_groups(manifest),
        *_near_findings(duplicates, cut_short),
        *checks.check_names(manifest),
        *swapped,
        *_confound_findings(confounds),
        *checks.check_unreadable(manifest, errors),
        *checks.check_classes(manifest, errors),
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return AuditReport(
        images=len(manifest),
        manifest_digest=manifest.digest,
        counts=checks.counts(manifest),
        findings=tuple(sorted(findings, key=lambda finding: rank[finding.severity])),
        duplicates=duplicates,
        confounds=tuple(confounds),
    )


def _near_duplicates(
    manifest: Manifest, measures: list[ImageMeasures]
) -> tuple[tuple[NearDuplicate, ...], bool]:
    """Return pairs in different splits that show the same picture but differ in their bytes."""
    hashes = Hashes(
        whole=np.stack([seen.whole for seen in measures]),
        views=np.stack([seen.views for seen in measures]),
        thumbnails=np.stack([seen.thumbnail for seen in measures]),
        usable=np.array([seen.usable for seen in measures]),
        splits=np.array([SPLITS.index(split) for split in manifest.column("split")]),
    )
    matches, cut_short = find_matches(hashes)
    paths, digests = manifest.column("path"), manifest.column("sha256")
    return tuple(
        NearDuplicate(
            paths[match.part], paths[match.whole], match.kind, match.distance, match.correlation
        )
        for match in matches
        if digests[match.part] != digests[match.whole]
    ), cut_short


def _near_findings(duplicates: tuple[NearDuplicate, ...], cut_short: bool) -> list[Finding]:
    """Report near-duplicates as one finding."""
    findings = []
    if duplicates:
        count = len(duplicates)
        findings.append(
            Finding(
                "near-duplicate",
                "error",
                count,
                f"{count} pairs of images in different splits show the same picture (saved again, "
                "scaled, mirrored left to right or cropped): scores on it are leaked.",
                checks.some(f"{pair.first} = {pair.second}" for pair in duplicates),
            )
        )
    if cut_short:
        findings.append(
            Finding(
                "near-duplicate-limit",
                "note",
                1,
                "So many images resemble each other that only the nearest pairs were compared.",
            )
        )
    return findings


def _confounds(
    manifest: Manifest, measures: list[ImageMeasures], seed: int, progress: Progress | None
) -> tuple[list[Confound], list[Finding]]:
    """Probe every domain and all images together; doubt the labels of a split that disagrees."""
    features = np.stack([seen.features for seen in measures])
    readable = np.array([seen.error is None for seen in measures])
    labels, domains = np.array(manifest.column("label")), np.array(manifest.column("domain"))
    _, groups = np.unique(np.array(manifest.column("group")), return_inverse=True)
    splits = np.array(manifest.column("split"))
    confounds: list[Confound] = []
    findings: list[Finding] = []
    selections = [(name, domains == name) for name in sorted(set(domains.tolist()))]
    if len(selections) > 1:
        selections.append((ALL, np.ones(len(labels), dtype=bool)))
    for number, (name, chosen) in enumerate(selections):
        for pair in TASKS:
            rows = np.flatnonzero(chosen & readable & np.isin(labels, pair))
            target = (labels[rows] == pair[1]).astype(np.int64)
            repeats = name == ALL and len(np.unique(domains[rows])) < 2
            if repeats or not enough(target, groups[rows]):
                continue
            findings += _swapped(name, features[rows], target, groups[rows], splits[rows], seed)
            kept = thin(groups[rows], seed)
            confounds += _probe(name, features[rows[kept]], target[kept], groups[rows[kept]], seed)
        if progress:
            progress("confounds", number + 1, len(selections), name)
    return confounds, findings


def _probe(
    domain: str,
    features: NDArray[np.float64],
    target: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int,
) -> list[Confound]:
    """Return one entry a probe for one selection of images."""
    found = []
    for probe, names in PROBES.items():
        columns = [FEATURES.index(name) for name in names]
        auc = separability(features[:, columns], target, groups, seed)
        values = (round(auc.value, 4), round(auc.low, 4), round(auc.high, 4))
        warning = auc.low > WARN_AUC and probe not in AMBIGUOUS
        found.append(Confound(domain, probe, *values, len(target), warning))
    return found


def _swapped(
    domain: str,
    features: NDArray[np.float64],
    target: NDArray[np.int64],
    groups: NDArray[np.int64],
    splits: NDArray[np.str_],
    seed: int,
) -> list[Finding]:
    """Report splits in which the properties of the classes are the other splits' reversed."""
    findings = []
    for split in sorted(set(splits.tolist())):
        mine = splits == split
        if not enough(target[mine], groups[mine]) or not enough(target[~mine], groups[~mine]):
            continue
        scores = predict(features[~mine], target[~mine], features[mine])
        auc = bootstrap_auc(scores, target[mine], groups[mine], seed)
        if auc.high < SWAPPED_AUC:
            findings.append(
                Finding(
                    "labels-swapped",
                    "warning",
                    int(mine.sum()),
                    f"In {domain}, the classes of the split {split} look like the opposite "
                    f"classes of the other splits (AUC {auc.value:.2f}): labels may be swapped.",
                    (f"{domain}/{split}",),
                )
            )
    return findings


def _confound_findings(confounds: list[Confound]) -> list[Finding]:
    """Report each domain's confounds, and the properties that may be one, as one finding each."""
    findings: list[Finding] = []
    for domain in dict.fromkeys(entry.domain for entry in confounds):
        high = [row for row in confounds if row.domain == domain and row.low > WARN_AUC]
        where = "Over all domains" if domain == ALL else f"In {domain}"
        for sure, code, severity, advice in _CONFOUND_KINDS:
            mine = [row for row in high if row.warning is sure]
            if mine:
                told = ", ".join(f"{row.probe} (AUC {row.auc:.2f})" for row in mine)
                message = f"{where}, the label can be told from: {told}. {advice}"
                names = tuple(f"{domain}/{row.probe}" for row in mine)
                findings.append(Finding(code, severity, len(mine), message, names))
    return findings

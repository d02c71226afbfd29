"""What an audit found, as plain frozen data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

REPORT_VERSION = 1
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: a stable name for machines.
        severity: "error" makes results wrong, "warning" makes them doubtful, "note" is harmless.
        count: how many images, pairs or groups are concerned.
        message: the sentence for people.
        examples: a few of the paths or names concerned.
    """

    code: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Count:
    """How many images share domain, generator, label and split."""

    domain: str
    generator: str
    label: str
    split: str
    images: int


@dataclass(frozen=True)
class NearDuplicate:
    """Two images in different splits that show the same picture.

    Attributes:
        first: path of the one image.
        second: path of the other.
        kind: "same", "flipped", "crop" or "flipped crop".
        distance: bits of 64 in which the perceptual hashes differ.
        correlation: of the aligned gray pictures, at most 1.
    """

    first: str
    second: str
    kind: str
    distance: int
    correlation: float


@dataclass(frozen=True)
class Confound:
    """How well one property that is no trace of a generator tells the classes apart.

    Attributes:
        domain: the images that were looked at, or "all".
        probe: the property.
        auc: cross-validated over groups; 0.5 is chance.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        images: how many were looked at.
        warning: the whole interval lies above the limit.
    """

    domain: str
    probe: str
    auc: float
    low: float
    high: float
    images: int
    warning: bool


@dataclass(frozen=True)
class AuditReport:
    """The outcome of an audit; `clean` decides the exit status of the command.

    Attributes:
        images: rows of the manifest.
        counts: by domain, generator, label and split.
        findings: errors first.
        duplicates: near-duplicates across splits.
        confounds: one entry a domain and probe.
    """

    images: int
    manifest_digest: str
    counts: tuple[Count, ...]
    findings: tuple[Finding, ...]
    duplicates: tuple[NearDuplicate, ...]
    confounds: tuple[Confound, ...]

    @property
    def clean(self) -> bool:
        """True where nothing but notes was found."""
        return all(finding.severity == "note" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"version": REPORT_VERSION, "clean": self.clean, **asdict(self)}

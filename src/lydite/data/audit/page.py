"""The audit as one offline HTML page: no script, nothing loaded, every name escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lydite.data.audit.report import AuditReport
from lydite.data.reasons import printable

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;"
    "border-bottom:1px solid #ccc;vertical-align:top;overflow-wrap:anywhere}"
    ".error,.bad{color:#a00;font-weight:600}.warning{color:#850}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html_page(report: AuditReport) -> str:
    """Return a report as one HTML document."""
    findings = [
        (found.severity, found.code, found.count, found.message, "; ".join(found.examples))
        for found in report.findings
    ]
    confounds = [
        (row.domain, row.probe, f"{row.auc:.3f}", f"{row.low:.3f} to {row.high:.3f}", row.images)
        for row in report.confounds
    ]
    pairs = [
        (pair.first, pair.second, pair.kind, f"{pair.correlation:.3f}")
        for pair in report.duplicates
    ]
    counts = [(c.domain, c.generator, c.label, c.split, c.images) for c in report.counts]
    body = [
        f"<h1>Check of {report.images:,} images</h1>",
        f"<p>Manifest {escape(report.manifest_digest)}</p>",
        "<h2>Findings</h2>",
        _table(
            ("severity", "code", "count", "finding", "examples"),
            findings,
            [found.severity for found in report.findings],
        )
        if findings
        else "<p>Nothing was found.</p>",
        "<h2>Can a property alone tell the classes apart?</h2>",
        "<p>Cross-validated AUC with its 95 % interval; 0.5 is chance.</p>",
        _table(
            ("domain", "property", "AUC", "interval", "images"),
            confounds,
            ["bad" if row.warning else "" for row in report.confounds],
        ),
        "<h2>Near-duplicates across splits</h2>",
        _table(("image", "same as", "how", "correlation"), pairs),
        "<h2>Counts</h2>",
        _table(("domain", "generator", "label", "split", "images"), counts),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Data check</title><style>{_STYLE}</style></head><body>"
        f"{''.join(body)}</body></html>\n"
    )


def _table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], classes: Sequence[str] = ()
) -> str:
    """Return a table; `classes` names the style of each row."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(printable(str(value)))}</td>" for value in row)
        style = classes[number] if number < len(classes) else ""
        lines.append(f'<tr class="{style}">{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

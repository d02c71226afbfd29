"""`lydite data`: scan folders into a manifest, check it, show it, make the built-in data."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from lydite.cli.align import align
from lydite.cli.output import emit, progress_reporter, table
from lydite.cli.spectra import spectra
from lydite.cli.target import require_target
from lydite.data.reasons import printable

if TYPE_CHECKING:
    from lydite.data.audit import AuditReport
    from lydite.data.manifest import Manifest
    from lydite.data.scan import ScanPlan

Folders = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]


def register(app: App) -> None:
    """Add the command and its parts."""
    data = App(name="data", help="Scan folders of images, check them, make demo data.")
    for part in (scan, check, show, demo, spectra, align):
        data.command(part)
    app.command(data)


def scan(
    folder: Path,
    *,
    layout: str = "auto",
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("manifest.parquet"),
    real: Folders = (),
    fake: Folders = (),
    split: str | None = None,
    seed: int = 0,
    verify: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Turn a folder of images into a manifest; the images are only read.

    Labels come from the layout, never from the order of names. Files that cannot be read stay in
    the manifest with the reason, and take no part in anything.

    Args:
        folder: the folder, or a CSV table in it.
        layout: forensynths, synthbuster, genimage, dogs-vs-cats, csv, folders, or auto where
            exactly one fits.
        out: the manifest to write.
        real: a folder of photographs, for folders and synthbuster; may be repeated.
        fake: a folder of generated images, for folders; may be repeated.
        split: train, val or test for all images; or fractions such as 0.7,0.1,0.2 for images whose
            split the layout does not say (this is the default).
        seed: another seed divides otherwise.
        verify: decode every pixel, not only the headers.
        dry_run: show what would be in the manifest; read no image and write nothing.
        json: print one JSON document.
    """
    from lydite.data.scan import parse_split, plan_scan
    from lydite.data.scan.read import read_entries

    require_target(out, "manifest", option="out")
    wanted = parse_split(split) if split is not None else None
    plan = plan_scan(folder, layout, real=real, fake=fake, split=wanted, seed=seed)
    value = _plan_value(plan, out)
    if dry_run:
        emit({**value, "dry_run": True}, json, lambda: _plan_text(plan, value))
        return 0
    manifest = read_entries(plan.entries, plan.root, verify=verify, progress=progress_reporter())
    manifest.write(out)
    errors = dict(Counter(code for code in manifest.column("error") if code).most_common())
    value |= {"digest": manifest.digest, "unreadable": errors}
    emit(value, json, lambda: _plan_text(plan, value))
    if sum(errors.values()) < len(manifest):
        return 0
    backslashes = any("\\" in path for path in manifest.column("path"))
    why = "; their paths hold backslashes, where a table needs '/'" if backslashes else ""
    sys.stderr.write(f"none of these images can be used{why}.\n")
    return 1


def check(
    manifest: Path,
    *,
    root: Path | None = None,
    html: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Check a manifest for leaks and giveaways; nothing but the --html file is written.

    Unreadable files, copies and near-copies across splits, groups across splits, labels that
    contradict each other, and whether format, size, JPEG quality, bytes per pixel, compression
    history or mean color alone tell real from fake. The exit status is 1 when something was found.

    Args:
        manifest: the Parquet file that `lydite data scan` wrote.
        root: the images' folder, where it has moved since the scan.
        html: write the report to this file, as one offline page.
        seed: of cross-validation and bootstrap.
        json: print one JSON document.
    """
    from lydite.data.audit import audit
    from lydite.data.audit.page import html_page
    from lydite.data.manifest import Manifest
    from lydite.files import write_bytes

    if html is not None:
        require_target(html, "page", option="--html", reads=[manifest])
    report = audit(Manifest.read(manifest, root), seed=seed, progress=progress_reporter())
    if html is not None:
        write_bytes(html, html_page(report).encode("utf-8"))
    emit(report.to_json(), json, lambda: report_text(report))
    return 0 if report.clean else 1


def show(manifest: Path, *, root: Path | None = None, json: bool = False) -> int:
    """Show what a manifest holds.

    Args:
        manifest: the Parquet file that `lydite data scan` wrote.
        root: the images' folder, where it has moved since the scan.
        json: print one JSON document.
    """
    from lydite.data.manifest import Manifest

    images = Manifest.read(manifest, root)
    errors = dict(Counter(code for code in images.column("error") if code).most_common())
    rows = _count_rows(images)
    value = {
        "images": len(images),
        "root": str(images.root),
        "digest": images.digest,
        "counts": [dict(zip(_COUNTED, row, strict=True)) for row in rows],
        "unreadable": errors,
    }
    head = f"{len(images)} images in {printable(str(images.root))}\ndigest {images.digest}\n\n"
    emit(value, json, lambda: head + table(_COUNTED, rows) + _unreadable_text(errors))
    return 0


def demo(
    folder: Path, *, size: int = 64, count: int = 400, seed: int = 0, json: bool = False
) -> int:
    """Make the built-in data: simulated photographs and simulated generators, without a network.

    It shows how everything works; a detector trained on it says nothing about real images.

    Args:
        folder: becomes the data's folder; its manifest.parquet is the manifest.
        size: sides of the images in pixels.
        count: images of each class in each domain.
        seed: another seed makes other images.
        json: print one JSON document.
    """
    from lydite.data.demo import make_demo

    made = make_demo(folder, size=size, count=count, seed=seed, progress=progress_reporter())
    path = folder / "manifest.parquet"
    value = {"manifest": str(path), "images": len(made), "digest": made.digest}
    emit(value, json, f"{len(made)} simulated images; the manifest is {path}")
    return 0


_COUNTED = ("domain", "generator", "label", "train", "val", "test")


def _count_rows(manifest: Manifest) -> list[tuple[object, ...]]:
    """Return a row for each domain, generator and label, with its images in each split."""
    columns = [manifest.column(name) for name in ("domain", "generator", "label")]
    keys = list(zip(*columns, strict=True))
    counts = Counter(zip(keys, manifest.column("split"), strict=True))
    return [
        (*key, *(counts[key, split] for split in ("train", "val", "test")))
        for key in sorted(set(keys))
    ]


def _plan_value(plan: ScanPlan, out: Path) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "manifest": str(out),
        "root": str(plan.root),
        "layout": plan.layout,
        "reason": plan.reason,
        "images": len(plan.entries),
        **{name: plan.count(name) for name in ("label", "split", "domain", "generator")},
        "left_out": {"images": len(plan.left_out), "examples": list(plan.left_out[:5])},
    }


def _plan_text(plan: ScanPlan, value: dict[str, Any]) -> str:
    """Return what people read after a scan or a dry run."""
    lines = [f"layout {plan.layout} ({plan.reason}), {len(plan.entries)} images in {plan.root}"]
    for name in ("label", "split", "domain", "generator"):
        shown = [f"{key} {count}" for key, count in value[name].items()]
        more = f", and {len(shown) - 12} more" if len(shown) > 12 else ""
        lines.append(f"{name:<10} {', '.join(shown[:12])}{more}")
    if len(value["label"]) == 1:
        lines.append("Only one class: nothing can be learned from this manifest alone.")
    if plan.left_out:
        lines.append(
            f"{len(plan.left_out)} images were left out because the layout does not say what they "
            f"are, for instance {plan.left_out[0]}"
        )
    if "digest" in value:
        lines.append(_unreadable_text(value["unreadable"]).strip())
        lines.append(f"wrote {value['manifest']}; next: lydite data check {value['manifest']}")
    else:
        lines.append(f"would write {value['manifest']}")
    return "\n".join(printable(line) for line in lines if line)


def _unreadable_text(errors: dict[str, int]) -> str:
    """Return a line about images that cannot be read, or nothing."""
    if not errors:
        return ""
    reasons = ", ".join(f"{code} {count}" for code, count in errors.items())
    return f"\n{sum(errors.values())} images cannot be used: {reasons}"


def report_text(report: AuditReport) -> str:
    """Return an audit as text: the confound table, then what was found."""
    rows = [
        (
            row.domain,
            row.probe,
            f"{row.auc:.3f}",
            f"{row.low:.3f}-{row.high:.3f}",
            row.images,
            "WARNING" if row.warning else "",
        )
        for row in report.confounds
    ]
    parts = [f"{report.images} images"]
    if rows:
        parts.append("Can one property alone tell the classes apart? (0.5 is chance)")
        parts.append(table(("domain", "property", "AUC", "95 %", "images", ""), rows))
    else:
        parts.append("Too few images of both classes to look for properties that betray the label.")
    if not report.findings:
        parts.append("Nothing was found.")
    for found in report.findings:
        parts.append(printable(f"{found.severity}: {found.message}"))
        parts += [
            printable(f"    {name}")
            for name in found.examples
            if found.code not in ("confound", "grid")
        ]
    return "\n".join(parts)

"""The audit as a whole: what is planted is found, what is matched raises no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lydite.data.audit import AuditReport, audit
from lydite.data.manifest import Manifest, from_columns
from lydite.data.scan.read import read_facts
from lydite.errors import DataError

Row = tuple[str, str, str, str]  # path, label, split, group


def texture(rng: np.random.Generator, side: int, power: float = 1.0) -> NDArray[np.float64]:
    """Return (side, side) noise whose spectrum falls with a power, mean 0 and deviation 1."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / side) ** power
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * amplitude).real
    return np.asarray((field - field.mean()) / field.std())


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Return a picture of a few ellipses on a texture, with noise."""
    rng = np.random.default_rng(seed)
    base = np.stack([texture(rng, side) for _ in range(3)], axis=-1)
    image = Image.fromarray(np.clip(128 + 30 * base, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, w, h = (*rng.uniform(0, 0.8, 2), *rng.uniform(0.15, 0.5, 2))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw.ellipse((x * side, y * side, (x + w) * side, (y + h) * side), fill=color)
    noise = rng.normal(0, 3, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix == ".png" else {"quality": quality}
    image.save(path, **options)


def manifest_of(root: Path, rows: list[Row]) -> Manifest:
    """Return a manifest of files that are there."""
    facts = [read_facts(root / row[0]) for row in rows]
    columns: dict[str, list[object]] = {
        name: [row[index] for row in rows]
        for index, name in enumerate(("path", "label", "split", "group"))
    }
    for name in ("sha256", "bytes", "width", "height", "format", "quality", "error"):
        columns[name] = [getattr(fact, name) for fact in facts]
    columns["generator"] = [row[1] for row in rows]
    columns["domain"] = ["made"] * len(rows)
    return from_columns(columns, root)


def codes(report: AuditReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


PLANTS: dict[str, tuple[Callable[[Image.Image], Image.Image], int, str]] = {
    "recompressed": (lambda image: image, 50, "same"),
    "resized": (lambda image: image.resize((61, 61)), 90, "same"),
    "enlarged": (lambda image: image.resize((150, 150), Image.Resampling.BICUBIC), 90, "same"),
    "flipped": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 85, "flipped"),
    "cropped in the middle": (lambda image: image.crop((10, 10, 86, 86)), 90, "crop"),
    "cropped at a corner": (lambda image: image.crop((0, 0, 68, 68)), 90, "crop"),
    "cropped and resized": (lambda image: image.crop((20, 6, 96, 82)).resize((96, 96)), 80, "crop"),
    "cropped and flipped": (
        lambda image: image.crop((0, 19, 77, 96)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        85,
        "flipped crop",
    ),
}


def test_planted_copies_across_splits_are_found_and_nothing_else(tmp_path: Path) -> None:
    rows: list[Row] = []
    for seed in range(40):
        name = f"p{seed}.png"
        save(photograph(seed), tmp_path / name)
        rows.append((name, "real", "train" if seed % 2 else "test", name))
    expected = {}
    for number, (what, (change, quality, kind)) in enumerate(PLANTS.items()):
        name = f"{what}.jpg"
        save(change(photograph(2 * number + 1)), tmp_path / name, quality)  # its source is in train
        rows.append((name, "real", "test", name))
        expected[frozenset({name, f"p{2 * number + 1}.png"})] = kind
    report = audit(manifest_of(tmp_path, rows))
    found = {frozenset({pair.first, pair.second}): pair.kind for pair in report.duplicates}
    assert found == expected
    assert codes(report)["near-duplicate"] == len(PLANTS)
    assert not report.clean


def test_unrelated_textures_are_not_copies(tmp_path: Path) -> None:
    rows: list[Row] = []
    for seed in range(90):
        rng = np.random.default_rng(seed)
        kind = seed % 3
        if kind == 0:
            gray = 128 + 40 * texture(rng, 64, power=0.5)
        elif kind == 1:
            gray = 128 + 40 * texture(rng, 64, power=1.5)
        else:  # flat but for noise: nothing to compare
            gray = 128 + rng.normal(0, 1, (64, 64))
        image = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert("RGB")
        save(image, tmp_path / f"{seed}.png")
        rows.append((f"{seed}.png", "real", ("train", "val", "test")[seed // 3 % 3], str(seed)))
    assert audit(manifest_of(tmp_path, rows)).duplicates == ()


def test_copies_inside_a_split_leak_nothing(tmp_path: Path) -> None:
    save(photograph(1), tmp_path / "a.png")
    save(photograph(1), tmp_path / "b.jpg", 60)
    rows = [("a.png", "real", "train", "a"), ("b.jpg", "real", "train", "b")]
    assert audit(manifest_of(tmp_path, rows)).duplicates == ()


def matched(
    root: Path, suffix: Callable[[int, str], str], quality: Callable[[int, str], int]
) -> list[Row]:
    """Write 60 pictures of each class, equal in all but what the arguments say."""
    rows: list[Row] = []
    for number in range(120):
        label = "fake" if number % 2 else "real"
        name = f"{number}{suffix(number, label)}"
        save(photograph(1000 + number, 64), root / name, quality(number, label))
        rows.append((name, label, ("train", "train", "val", "test")[number // 2 % 4], name))
    return rows


def warned(report: AuditReport) -> set[str]:
    return {entry.probe for entry in report.confounds if entry.warning}


def test_jpeg_against_png_raises_the_alarm(tmp_path: Path) -> None:
    rows = matched(tmp_path, lambda _, label: ".jpg" if label == "real" else ".png", lambda *_: 90)
    report = audit(manifest_of(tmp_path, rows))
    assert {"format", "jpeg quality", "bytes per pixel", "compression history"} <= warned(report)
    assert not {"size", "mean color"} & warned(report)
    probe = next(entry for entry in report.confounds if entry.probe == "format")
    assert (probe.auc, probe.low, probe.high) == (1.0, 1.0, 1.0)
    assert codes(report)["confound"] >= 4
    assert not report.clean


def test_another_jpeg_quality_raises_the_alarm(tmp_path: Path) -> None:
    rows = matched(tmp_path, lambda *_: ".jpg", lambda _, label: 95 if label == "real" else 80)
    found = warned(audit(manifest_of(tmp_path, rows)))
    assert "jpeg quality" in found
    assert not {"format", "size", "mean color"} & found


def test_matched_classes_raise_none(tmp_path: Path) -> None:
    rows = matched(
        tmp_path,
        lambda number, _: ".jpg" if number // 2 % 2 else ".png",
        lambda number, _: (75, 85, 95)[number // 2 % 3],
    )
    report = audit(manifest_of(tmp_path, rows))
    assert warned(report) == set()
    assert len(report.confounds) == 9
    assert report.clean, report.findings


def test_labels_swapped_in_one_split_are_noticed(tmp_path: Path) -> None:
    rows = matched(tmp_path, lambda *_: ".jpg", lambda _, label: 95 if label == "real" else 80)
    swap = {"real": "fake", "fake": "real"}
    # every fourth pair is in the test split; more of it, so that it can speak for itself
    rows = [
        (path, swap[label] if int(path[:-4]) < 60 else label, split, group)
        for path, label, _, group in rows
        for split in ["test" if int(path[:-4]) < 60 else "train"]
    ]
    report = audit(manifest_of(tmp_path, rows))
    assert "labels-swapped" in codes(report)


def test_leaks_that_need_no_pixels(tmp_path: Path) -> None:
    for name in ("real/a.png", "fake/b.png", "x.png", "y.png", "z.png"):
        save(photograph(5 if "/" in name else 6), tmp_path / name)
    save(photograph(7), tmp_path / "ai/c.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = audit(
        manifest_of(
            tmp_path,
            [
                ("real/a.png", "real", "train", "a"),
                ("fake/b.png", "fake", "train", "a"),
                ("x.png", "fake", "train", "x"),
                ("y.png", "fake", "test", "y"),
                ("z.png", "fake", "test", "y"),
                ("ai/c.png", "real", "test", "x"),
                ("broken.png", "real", "val", "q"),
            ],
        )
    )
    assert codes(report) == {
        "label-conflict": 1,
        "duplicate-across": 1,
        "group-across": 1,
        "label-against-folder": 1,
        "unreadable": 1,
        "one-class": 1,
    }
    assert report.duplicates == ()  # equal bytes are not told twice
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities)  # errors first
    assert sum(count.images for count in report.counts) == report.images == 7
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["clean"] is False


def test_an_audit_changes_nothing_and_repeats_itself(tmp_path: Path) -> None:
    rows = matched(tmp_path, lambda *_: ".jpg", lambda *_: 90)[:60]
    manifest = manifest_of(tmp_path, rows)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    calls: list[tuple[str, int, int, str]] = []
    first = audit(manifest, progress=lambda *call: calls.append(call))
    assert first == audit(manifest)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert calls[0][0] == "decode"
    assert calls[-1] == ("confounds", 1, 1, "made")


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        audit(from_columns({"path": []}, tmp_path))


def test_files_that_changed_since_the_scan_are_an_error(tmp_path: Path) -> None:
    rows: list[Row] = []
    for number in range(4):
        for label in ("real", "fake"):
            save(photograph(number + 10 * (label == "fake")), tmp_path / label / f"{number}.png")
            rows.append((f"{label}/{number}.png", label, "train", f"{label}{number}"))
    manifest = manifest_of(tmp_path, rows)
    assert "changed" not in codes(audit(manifest))
    (tmp_path / "real").rename(tmp_path / "other")
    (tmp_path / "fake").rename(tmp_path / "real")
    (tmp_path / "other").rename(tmp_path / "fake")
    report = audit(manifest)
    assert codes(report)["changed"] == 8
    assert "unreadable" not in codes(report)  # said once
    assert not report.clean


def test_a_jpeg_whose_table_has_zeros_is_checked_like_others(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    save(photograph(1), path)
    data = bytearray(path.read_bytes())
    table = data.index(b"\xff\xdb") + 5
    data[table + 1] = data[table + 2] = 0  # decoders multiply by it and ask no questions
    path.write_bytes(data)
    report = audit(manifest_of(tmp_path, [("odd.jpg", "real", "train", "odd")]))
    assert "unreadable" not in codes(report)


def test_a_class_that_cannot_be_read_is_missing(tmp_path: Path) -> None:
    save(photograph(1), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    rows = [("a.png", "real", "test", "a"), ("b.png", "fake", "test", "b")]
    (finding,) = [f for f in audit(manifest_of(tmp_path, rows)).findings if f.code == "one-class"]
    assert "no usable images but real" in finding.message

"""`lydite evaluate`: score a detector on a manifest and print what the scores say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lydite.cli.evaluate_calibration import ALPHA, calibration_text, cell
from lydite.cli.evaluate_degraded import degraded_failures, degraded_text
from lydite.cli.output import emit, progress_reporter, table
from lydite.cli.target import require_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

    from lydite.card import Figure

#: columns of the printed table
METRICS = ("accuracy", "balanced_accuracy", "f1", "auc", "ap")


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(evaluate, name="evaluate")


def evaluate(
    detector: Path,
    manifest: Path,
    *,
    split: str = "test",
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    degrade: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    root: Path | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Score a detector on a manifest's images and print every metric with its 95 % interval.

    A second table tells whether probabilities and verdicts can be believed: calibration errors,
    and how many images are decided, how many of them and of each class wrongly, beside what the
    card promises. The exit status is 1 when an image could not be scored, as it is or degraded.

    Args:
        detector: a detector folder.
        manifest: made by `lydite data scan`.
        split: train, val or test.
        seen: domains that the detector was trained on; all others count as unseen.
        out: write one row per image, and per degradation, to this Parquet file.
        degrade: measure the images degraded as well, and what that costs on the same images: names
            such as jpeg-75, webp-80, resize-0.75, blur-1, noise-5, crop-0.8, fit-1080, screenshot,
            social, repost, several in a row such as resize-0.5+jpeg-75, or a list of them: quick
            or standard.
        root: the images' folder, where it has moved since the scan.
        runtime: torch, onnxruntime, or auto (onnxruntime for exported and quantized detectors).
        threads: CPU threads to use.
        json: print one JSON document.
    """
    from lydite.data.manifest import SPLITS, Manifest
    from lydite.detector import Detector
    from lydite.errors import ConfigError, DataError
    from lydite.evaluate.degrade import NONE
    from lydite.evaluate.degraded import of_degradation, score_degraded, summarize_degraded
    from lydite.evaluate.score import write_scores
    from lydite.evaluate.summary import summarize
    from lydite.evaluate.unseen import Roles

    if split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}. Got {split!r}.")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be 1 or more. Got {threads}.")
    if out is not None:
        require_target(out, "scores", option="--out", reads=[manifest])
    loaded = Detector.load(detector)
    images, others = Manifest.read(manifest, root).select(split=split).of_one_task()
    if others:
        sys.stderr.write(f"{others} images that are neither real nor fake are left out.\n")
    strange = sorted(set(seen) - set(images.column("domain")))
    if strange:
        known = ", ".join(sorted(set(images.column("domain"))))
        raise DataError(f"No image of the domain {strange[0]!r} in this split. Domains: {known}.")
    scores = score_degraded(
        loaded,
        images,
        degrade,
        progress=progress_reporter(),
        runtime=runtime,  # type: ignore[arg-type]  # any string; a wrong one is refused there
        threads=threads,
    )
    clean = of_degradation(scores, NONE)
    figures = summarize(clean, loaded.card.score, roles=Roles(seen), split=split)
    degraded = summarize_degraded(scores, roles=Roles(seen), split=split)
    if out is not None:
        write_scores(out, scores)
    failed = clean["error"].length() - clean["error"].null_count
    failures = degraded_failures(scores)
    value = {
        "detector": {"name": loaded.card.name, "digest": loaded.card.digest},
        "runtime": scores["runtime"][0].as_py(),
        "split": split,
        "images": len(images),
        "unreadable": failed,
        "degraded_unreadable": failures,
        "figures": [figure.model_dump(mode="json") for figure in (*figures, *degraded)],
    }
    emit(value, json, lambda: _text(value, figures, degraded, out))
    return 1 if failed or failures else 0


def _text(
    value: dict[str, Any], figures: Sequence[Figure], degraded: Sequence[Figure], out: Path | None
) -> str:
    """Return the tables that people read."""
    found: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        if figure.metric == ALPHA:
            continue
        where = ": ".join(v for k, v in figure.slice.items() if k != "split")
        found.setdefault(where, {})[figure.metric] = figure
    rows = [
        [name, metrics["auc"].n, *(cell(metrics[metric]) for metric in METRICS)]
        for name, metrics in found.items()
    ]
    headers = ["images", "n", *(metric.replace("_", " ") for metric in METRICS)]
    notes = [f"{value['detector']['name']} in {value['runtime']}, split {value['split']}"]
    if value["unreadable"]:
        notes.append(f"{value['unreadable']} images could not be scored.")
    for name, codes in value["degraded_unreadable"].items():
        said = ", ".join(f"{count} {code}" for code, count in codes.items())
        notes.append(f"{name}: could not be scored: {said}.")
    if out is not None:
        notes.append(f"Scores: {out}")
    tables = [table(headers, rows), calibration_text(figures)]
    tables += [degraded_text(degraded)] if degraded else []
    return "\n".join(["\n\n".join(tables), "", *notes])

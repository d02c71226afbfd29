"""`lydite sensitivity`: which channel groups a detector can spare, measured one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.compress.sensitivity_result import Sensitivity


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(sensitivity)


def sensitivity(
    detector: Path,
    manifest: Path,
    *,
    score: str = "l1",
    shares: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (0.25, 0.5, 0.75, 0.9),
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    split: str = "val",
    images: int = 256,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    root: Path | None = None,
    json: bool = False,
) -> int:
    """Prune each channel group of a detector alone and print how much AUC that costs.

    Nothing is fine-tuned and the detector is left as it is. The exit status is 1 when an image
    could not be scored.

    Args:
        detector: a detector folder.
        manifest: made by `lydite data scan`.
        score: how channels are ranked: l1, l2, bn, random; taylor, fisher or domains ask images of
            the manifest's training split.
        shares: of a group's channels to remove.
        seen: domains to measure on and to score with; all of the manifest's unless given.
        split: which images to measure on: train, val or test.
        images: how many of them at most, half of each class; and how many crops the scores that
            ask images are made of.
        seed: of the choice of images.
        out: write the result as JSON and a figure as SVG into this folder.
        root: the images' folder, where it has moved since the scan.
        json: print one JSON document.
    """
    from typing import get_args

    from lydite.compress.importance import Score
    from lydite.compress.sensitivity import choose_images, measure_sensitivity
    from lydite.compress.sensitivity_result import write_sensitivity
    from lydite.data.manifest import SPLITS, Manifest
    from lydite.detector import Detector
    from lydite.errors import ConfigError, FileError, unknown_name
    from lydite.files import write_bytes
    from lydite.report.sensitivity import sensitivity_map

    if split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}. Got {split!r}.")
    if score not in get_args(Score):
        raise ConfigError(unknown_name("score", score, get_args(Score)))
    if images < 2:
        raise ConfigError(f"--images must be 2 or more, one of each class. Got {images}.")
    if out is not None and out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file. Name a folder with --out.")
    loaded = Detector.load(detector)
    table_of_images = Manifest.read(manifest, root)
    domains = sorted(set(table_of_images.column("domain")))
    for domain in seen:
        if domain not in domains:
            raise ConfigError(f"--seen: {unknown_name('domain', domain, domains)}")
    table_of_images = table_of_images.select(domain=seen or domains)
    result = measure_sensitivity(
        loaded,
        choose_images(table_of_images.select(split=split), images, seed),
        score=score,  # type: ignore[arg-type]  # checked above
        shares=shares,
        seed=seed,
        train=table_of_images.select(split="train").readable(),
        crops=images,
        progress=progress_reporter(),
    )
    written = None
    if out is not None:
        written = write_sensitivity(out, result)
        write_bytes(written.with_suffix(".svg"), sensitivity_map(result).encode())
    emit(result.model_dump(mode="json"), json, lambda: _text(result, written))
    return 1 if result.unreadable else 0


def _text(result: Sensitivity, written: Path | None) -> str:
    """Return the table that people read: a row a group, a column a share."""
    shares = list(dict.fromkeys(point.share for point in result.points))
    rows: dict[str, list[object]] = {}
    for point in result.points:
        drop = result.drop(point, "auc")
        row = rows.setdefault(point.group, [point.group, point.size])
        row.append(None if drop is None else f"{round(drop, 3) + 0.0:.3f}")
    whole = "not defined" if result.whole.auc is None else f"{result.whole.auc:.3f}"
    notes = [
        f"Drop of AUC of {result.detector} (whole: {whole}) when a share of one group goes, "
        f"ranked by {result.score}, on {result.n} images."
    ]
    if result.unreadable:
        notes.append(f"{result.unreadable} images could not be scored.")
    if written is not None:
        notes.append(f"Result and figure: {written}, {written.with_suffix('.svg').name}")
    headers = ["group", "channels", *(f"-{share:.0%}" for share in shares)]
    return "\n".join([table(headers, list(rows.values())), "", *notes])

"""`lydite place`: where an adapter belongs, predicted before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.transfer.placement_result import Placement


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(place)


def place(
    detector: Path,
    manifest: Path,
    *,
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    source: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    images: int = 128,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    root: Path | None = None,
    json: bool = False,
) -> int:
    """Say behind which stage of a detector an adapter promises most, for images it is to learn.

    Every predictor ranks the places. Nothing is trained and the detector is left as it is.

    Args:
        detector: a detector folder.
        manifest: made by `lydite data scan`; the training split is used.
        seen: domains that the detector is to learn; all that are not --source unless given.
        source: domains that it knows; predictors that compare with them are asked only then.
        images: how many crops to look at, of each of the two.
        seed: of their choice.
        out: write the result as JSON and a figure as SVG into this folder.
        root: the images' folder, where it has moved since the scan.
        json: print one JSON document.
    """
    from lydite.data.manifest import Manifest
    from lydite.detector import Detector
    from lydite.errors import ConfigError, FileError, unknown_name
    from lydite.files import write_bytes
    from lydite.report.placement import placement_map
    from lydite.transfer.placement import measure_placement
    from lydite.transfer.placement_result import write_placement

    if images < 2:
        raise ConfigError(f"--images must be 2 or more, one of each class. Got {images}.")
    if out is not None and out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file. Name a folder with --out.")
    loaded = Detector.load(detector)
    pictures = Manifest.read(manifest, root).select(split="train")
    domains = sorted(set(pictures.column("domain")))
    for option, wanted in (("--seen", seen), ("--source", source)):
        for domain in wanted:
            if domain not in domains:
                raise ConfigError(f"{option}: {unknown_name('domain', domain, domains)}")
    if both := sorted(set(seen) & set(source)):
        raise ConfigError(
            f"--seen names what the detector is to learn and --source what it knows; {both[0]} is "
            "in both. Take it out of one."
        )
    new = seen or [name for name in domains if name not in source]
    if not new:
        raise ConfigError(
            "--source names every domain of the training split, so none is left to learn. "
            "Take one out."
        )
    result = measure_placement(
        loaded,
        pictures.select(domain=new),
        pictures.select(domain=source) if source else None,
        crops=images,
        seed=seed,
        progress=progress_reporter(),
    )
    written = None
    if out is not None:
        written = write_placement(out, result)
        write_bytes(written.with_suffix(".svg"), placement_map(result).encode())
    emit(result.model_dump(mode="json"), json, lambda: _text(result, written))
    return 0


def _text(result: Placement, written: Path | None) -> str:
    """Return the table that people read: a row a place, a column a predictor."""
    from lydite.transfer.predictors import PREDICTORS

    rows: list[list[object]] = []
    for row in result.places:
        cells: list[object] = [row.stage, row.channels]
        for found in row.predictions.values():
            known = found.value is not None and found.rank is not None
            cells.append(f"{found.value:.3g} ({found.rank:g})" if known else None)
        rows.append(cells)
    notes = [
        f"Places of {result.detector}, input side first, on {result.crops} crops: value, and rank "
        "in brackets; (1) promises most.",
        *(
            f"{name}: {PREDICTORS.get(name).meaning} ({PREDICTORS.get(name).better} is better)"
            for name in result.predictors
        ),
    ]
    if written is not None:
        notes.append(f"Result and figure: {written}, {written.with_suffix('.svg').name}")
    return "\n".join([table(["place", "channels", *result.predictors], rows), "", *notes])

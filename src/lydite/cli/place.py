"""`lydite place`: where an adapter belongs, predicted before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from lydite.cli.output import emit, progress_reporter
from lydite.cli.place_compare import compare
from lydite.cli.place_sweep import SweepOptions, sweep_places
from lydite.cli.place_text import ranks_text

if TYPE_CHECKING:
    from lydite.data.manifest import Manifest


def register(app: App) -> None:
    """Add the command to the application, and its part that compares."""
    group = App(name="place")
    group.default(place)
    group.command(compare)
    app.command(group)


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
    sweep: bool = False,
    training: Annotated[SweepOptions | None, Parameter(name="*")] = None,
    json: bool = False,
) -> int:
    """Say behind which stage of a detector an adapter promises most, for images it is to learn.

    Every predictor ranks the places. Nothing is trained and the detector is left as it is. With
    --sweep an adapter is then trained at every place, in an ordinary study, and measured; killed or
    stopped, the same command goes on where it was.

    Args:
        detector: a detector folder.
        manifest: made by `lydite data scan`; the training split is used.
        seen: domains that the detector is to learn; all that are not --source unless given.
        source: domains that it knows; predictors that compare with them are asked only then, and
            --sweep measures no domains but these and those of --seen.
        images: how many crops to look at, of each of the two.
        seed: of their choice.
        out: write the result as JSON and a figure as SVG into this folder; with --sweep everything
            else too.
        root: the images' folder, where it has moved since the scan.
        sweep: train and measure an adapter at every place; writes placement.json.
        training: how.
        json: print one JSON document.
    """
    from lydite.data.manifest import Manifest
    from lydite.errors import ConfigError, FileError

    if images < 2:
        raise ConfigError(f"--images must be 2 or more, one of each class. Got {images}.")
    if out is not None and out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file. Name a folder with --out.")
    if training is not None and not sweep:
        raise ConfigError("Options of training say how --sweep trains. Add --sweep, or leave them.")
    if root is not None and sweep:
        raise ConfigError("--sweep takes no --root. Scan the folder anew where it is now.")
    pictures = Manifest.read(manifest, root).select(split="train")
    new = _new_domains(sorted(set(pictures.column("domain"))), seen, source)
    if sweep:
        how = training or SweepOptions()
        sweep_places(detector, manifest, (new, source), (images, seed), out, how, json)
    else:
        known = pictures.select(domain=source) if source else None
        _rank(detector, pictures.select(domain=new), known, (images, seed), out, json)
    return 0


def _new_domains(
    domains: Sequence[str], seen: Sequence[str], source: Sequence[str]
) -> Sequence[str]:
    """Return the domains that are to be learned.

    Raises:
        ConfigError: a domain does not exist or is named as both, or none is left.
    """
    from lydite.errors import ConfigError, unknown_name

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
    return new


def _rank(
    detector: Path,
    new: Manifest,
    known: Manifest | None,
    draw: tuple[int, int],
    out: Path | None,
    json: bool,
) -> None:
    """Rank the places; nothing is trained."""
    from lydite.detector import Detector
    from lydite.files import write_bytes
    from lydite.report.placement import placement_map
    from lydite.transfer.placement import measure_placement
    from lydite.transfer.placement_result import write_placement

    result = measure_placement(
        Detector.load(detector),
        new,
        known,
        crops=draw[0],
        seed=draw[1],
        progress=progress_reporter(),
    )
    note = ""
    if out is not None:
        written = write_placement(out, result)
        write_bytes(written.with_suffix(".svg"), placement_map(result).encode())
        note = f"\nResult and figure: {written}, {written.with_suffix('.svg').name}"
    emit(result.model_dump(mode="json"), json, lambda: ranks_text(result) + note)

"""`lydite data spectra`: mean spectra of real against fake images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table
from lydite.data.reasons import printable

if TYPE_CHECKING:
    from lydite.evaluate.spectra import Spectra


def spectra(
    manifest: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("spectra"),
    count: int = 200,
    size: int | None = None,
    generators: bool = False,
    split: str | None = None,
    seed: int = 0,
    root: Path | None = None,
    json: bool = False,
) -> int:
    """Compare the mean spectra of real and fake images; peaks are traces of upsampling.

    Every image's center crop, minus its median-filtered copy, goes through a Fourier transform,
    and the log power is averaged over images. The images are only read. Written are spectra.svg
    (real, fake, their difference, and the mean over all directions), spectra.json with the numbers
    and spectra.npz with the two-dimensional spectra. The exit status is 1 when an image could not
    be read.

    Args:
        manifest: the Parquet file that `lydite data scan` wrote.
        out: a new or empty folder for the figure and the numbers.
        count: images at most of each domain and class, or generator.
        size: side of the center crop in pixels; smaller images are left out. The largest of 256,
            128, 64 and 32 that nearly all images have, unless given.
        generators: a row for each generator instead of each domain.
        split: train, val or test; all unless given.
        seed: of the choice of images.
        root: the images' folder, where it has moved since the scan.
        json: print one JSON document, the content of spectra.json.
    """
    from lydite.cli.folder import new_folder
    from lydite.data.images import ImageStore
    from lydite.data.manifest import SPLITS, Manifest
    from lydite.errors import ConfigError
    from lydite.evaluate.spectra import mean_spectra, pack_arrays
    from lydite.files import write_bytes, write_json
    from lydite.report.spectra import spectra_figure

    if split is not None and split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}. Got {split!r}.")
    with new_folder(out) as folder:
        images, others = Manifest.read(manifest, root).readable().of_one_task()
        if others:
            sys.stderr.write(f"{others} images that are neither real nor fake are left out.\n")
        images = images if split is None else images.select(split=split)
        found = mean_spectra(
            list(images.rows()),
            ImageStore(0),
            count=count,
            size=size,
            generators=generators,
            seed=seed,
            progress=progress_reporter(),
        )
        value = found.to_dict() | {"manifest": images.digest, "split": split}
        write_bytes(folder / "spectra.svg", spectra_figure(found).encode())
        write_bytes(folder / "spectra.npz", pack_arrays(found))
        write_json(folder / "spectra.json", value)
    emit(value, json, lambda: _text(found, out))
    return 1 if set(found.left_out) - {"too-small"} else 0


def _text(found: Spectra, out: Path) -> str:
    """Return the table that people read: a row a pair of classes."""
    rows = []
    for pair in found.pairs:
        down, across, height = pair.largest()
        place = f"{down:.3f}, {across:.3f}"
        rows.append([pair.label, pair.real.n, pair.fake.n, f"{height:+.1f}", place])
    headers = ["", *found.labels, "largest difference dB", "at cycles a pixel (down, across)"]
    notes = [f"Center crops of {found.size} pixels, {found.labels[1]} minus {found.labels[0]}."]
    if found.left_out:
        reasons = ", ".join(f"{code} {count}" for code, count in found.left_out.items())
        notes.append(f"{sum(found.left_out.values())} images were left out: {reasons}")
    notes.append(f"figure and numbers in {printable(str(out))}")
    return "\n".join([table(headers, rows), "", *notes])

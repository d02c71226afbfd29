"""A picture of the built-in data: what each simulated generator makes, beside photographs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lydite.data.manifest import Manifest
from lydite.errors import DataError

GAP = 4
BACKGROUND = (255, 255, 255)


def contact_sheet(folder: Path, *, columns: int = 4, scale: int = 2) -> Image.Image:
    """Return a sheet of test images: one row a generator, photographs left, fakes right.

    Args:
        folder: of a demo, as `make_demo` left it.
        columns: images of each class in a row.
        scale: screen pixels per image pixel, along a side; pixels are repeated, not blended.

    Raises:
        DataError: fewer images than columns, or none at all.
        FileError: there is no demo in the folder.
    """
    if columns < 1 or scale < 1:
        raise DataError(f"`columns` and `scale` must be at least 1. Got {columns} and {scale}.")
    manifest = Manifest.read(folder / "manifest.parquet", root=folder).select(split="test")
    domains = list(dict.fromkeys(manifest.column("domain")))
    cells: list[tuple[int, int, Path]] = []
    for line, domain in enumerate(domains):
        for half, label in enumerate(("real", "fake")):
            files = [row.file for row in manifest.select(domain=domain, label=label).rows()]
            if len(files) < columns:
                raise DataError(
                    f"{domain} has {len(files)} {label} test images; the sheet asks for {columns}. "
                    "Ask for fewer columns, or make a larger demo."
                )
            cells += [(line, half * columns + i, file) for i, file in enumerate(files[:columns])]
    if not cells:
        raise DataError(f"The demo in {folder} has no test images.")
    return _paste(cells, len(domains), columns, scale)


def _paste(cells: list[tuple[int, int, Path]], lines: int, columns: int, scale: int) -> Image.Image:
    """Put each file at its line and place, with a wider gap between the two classes."""
    with Image.open(cells[0][2]) as first:
        side = first.width * scale
    pitch = side + GAP
    sheet = Image.new("RGB", (2 * columns * pitch + 2 * GAP, lines * pitch - GAP), BACKGROUND)
    for line, place, file in cells:
        with Image.open(file) as image:
            large = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        middle = 3 * GAP if place >= columns else 0
        sheet.paste(large, (place * pitch + middle, line * pitch))
    return sheet

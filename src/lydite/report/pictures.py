"""Sample images for the report: small copies, beside what the detectors said of them.

The copies are made for the page alone; the images themselves are only read.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from lydite.data.decode import decode
from lydite.data.reasons import printable
from lydite.errors import DecodeError

#: longer side of a thumbnail in pixels: twice what the page shows, for sharp screens
SIDE = 192
MOST_DOMAINS = 8
MOST_MISTAKES = 8


@dataclass(frozen=True)
class Said:
    """What one detector says of an image.

    Attributes:
        name: of the detector.
        p_fake: probability; None where it failed.
        right: the forced decision is right.
    """

    name: str
    p_fake: float | None
    right: bool


@dataclass(frozen=True)
class Picture:
    """One sample.

    Attributes:
        uri: the thumbnail as a data URI.
        path: of the image, made printable.
        domain: where it is from.
        generator: what made it.
        label: "real" or "fake".
        said: what each detector says.
        file: the image itself, which the page never names.
    """

    uri: str
    path: str
    domain: str
    generator: str
    label: str
    said: tuple[Said, ...]
    file: Path


def one_of_each(
    scores: Mapping[str, pa.Table], learned: Sequence[str], root: Path
) -> list[Picture]:
    """Return one real and one fake image of each domain, those that were learned first.

    Which ones they are follows from their SHA-256 alone, so nobody chose them.

    Args:
        scores: of each detector to quote, by name, all on the same images.
        learned: domains that were trained on, in the study or before it.
        root: the folder that paths are relative to.
    """
    rows = _rows(scores)
    domains = sorted({row["domain"] for row in rows}, key=lambda d: (d not in learned, d))
    pictures = []
    for domain in domains[:MOST_DOMAINS]:
        for target in (0, 1):
            here = [r for r in rows if r["domain"] == domain and r["target"] == target]
            pictures += _pictures(sorted(here, key=lambda r: str(r["sha256"])), 1, scores, root)
    return pictures


def mistakes(scores: Mapping[str, pa.Table], name: str, root: Path) -> list[Picture]:
    """Return the images about which one detector is most surely wrong."""
    wrong = [
        (abs(row["p_fake"] - 0.5), row)
        for row in _rows({name: scores[name]})
        if row["p_fake"] is not None and (row["p_fake"] > 0.5) != (row["target"] == 1)
    ]
    worst = sorted(wrong, key=lambda pair: (-pair[0], str(pair[1]["sha256"])))
    return _pictures([row for _, row in worst], MOST_MISTAKES, scores, root)


def thumbnail(file: Path) -> str:
    """Return a small JPEG copy of an image as a data URI.

    Raises:
        DecodeError: the image cannot be read.
    """
    image = Image.fromarray(decode(file))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rows(scores: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """Return the test rows of the first detector."""
    first = next(iter(scores.values()))
    return [row for row in first.to_pylist() if row["split"] == "test"]


def _pictures(
    rows: Sequence[dict[str, Any]], most: int, scores: Mapping[str, pa.Table], root: Path
) -> list[Picture]:
    """Return the first readable images of some rows."""
    found: list[Picture] = []
    said = {
        name: dict(zip(t["path"].to_pylist(), t["p_fake"].to_pylist(), strict=True))
        for name, t in scores.items()
    }
    for row in rows:
        if len(found) == most:
            break
        path = str(row["path"])
        try:
            uri = thumbnail(root / path)
        except DecodeError:
            continue
        quoted = tuple(
            Said(name, p, p is not None and (p > 0.5) == (row["target"] == 1))
            for name, p in ((name, known.get(path)) for name, known in said.items())
        )
        found.append(
            Picture(
                uri,
                printable(path),
                printable(str(row["domain"])),
                printable(str(row["generator"])),
                str(row["label"]),
                quoted,
                root / path,
            )
        )
    return found

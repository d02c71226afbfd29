"""Small data sets in which something beside a generator's traces tells the classes apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from lydite.data.manifest import SCHEMA, Manifest, from_columns

SIDE = 32
COUNTS = {"train": 60, "val": 4, "test": 50}


def leaky(
    folder: Path,
    leak: str = "",
    *,
    labels: tuple[str, str] = ("real", "fake"),
    copies: float = 0.0,
    seed: int = 5,
) -> Manifest:
    """Write pictures of the domains one and two, with their manifest beside them.

    Args:
        folder: becomes the images' folder.
        leak: "format" saves the second class as PNG, the first as JPEG; "bright" makes it
            brighter; "" leaves nothing to tell the classes by.
        labels: of the two classes.
        copies: this share of the test images are training images' bytes, under other names.
        seed: another one makes other pictures.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    known: dict[str, list[bytes]] = {}
    for domain in ("one", "two"):
        for split, count in COUNTS.items():
            for number in range(2 * count):
                label = labels[number % 2]
                suffix = "png" if leak == "format" and label == labels[1] else "jpg"
                path = folder / f"{domain}-{split}-{number}.{suffix}"
                _picture(rng, 50 if leak == "bright" and label == labels[1] else 0).save(path)
                before = known.setdefault(f"{domain} {label}", [])
                if split == "train":
                    before.append(path.read_bytes())
                elif split == "test" and number < 2 * count * copies:
                    path.write_bytes(before[number // 2])
                data = path.read_bytes()
                row = {
                    "path": path.name,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "label": label,
                    "generator": label,
                    "domain": domain,
                    "split": split,
                    "group": path.stem,
                    "bytes": len(data),
                }
                for column in SCHEMA.names:
                    columns[column].append(row.get(column))
    manifest = from_columns(columns, folder)
    manifest.write(folder / "manifest.parquet")
    return manifest


def _picture(rng: np.random.Generator, lift: int) -> Image.Image:
    """Return colored fields under fine grain."""
    fields = Image.fromarray(rng.integers(20, 180, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(fields.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = rng.normal(lift, 8, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))

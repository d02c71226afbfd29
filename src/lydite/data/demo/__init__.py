"""The built-in data: procedural photographs and simulated generators, made on the spot.

Made in seconds, without a network and without torch. It is simulated, and a detector trained on
it knows nothing of real generators: it serves to try every command and to test them. Equal
parameters give equal bytes on one machine; another version of numpy or of the JPEG library may
round otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lydite.data.demo.generators import Generator, make_generators
from lydite.data.demo.photographs import (
    Float32,
    encode_jpeg,
    make_textures,
    take_photograph,
    to_pixels,
)
from lydite.data.demo.sheet import contact_sheet
from lydite.data.manifest import Manifest, from_columns
from lydite.errors import DataError, FileError
from lydite.files import publish_folder, read_json, sha256_bytes, sha256_file, write_json

__all__ = ["DEMO_DOMAINS", "contact_sheet", "make_demo"]

#: changes whenever equal parameters give other images
DEMO_VERSION = 1
#: names of the simulated generators, each of which is a domain; the first is the seen one
DEMO_DOMAINS = ("sim-transposed", "sim-nearest", "sim-bilinear", "sim-latent")
#: share of the photographs that go to each split
SPLIT_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
#: qualities that JPEG files are written with, drawn alike for both classes
QUALITIES = (85, 95)
#: pixels that an image has more than its crop on each side, at least, and on both sides together
BORDER = 4
MARGIN = 16
SIZES = (32, 512)
MIN_COUNT = 8
FOLDERS = {"real": "0_real", "fake": "1_fake"}
#: every file that a demo's folder holds
_OWN = re.compile(
    rf"demo\.json|manifest\.parquet|({'|'.join(SPLIT_SHARES)})/[^/]+/"
    rf"({'|'.join(FOLDERS.values())})/[0-9]{{6}}\.jpg"
)

#: called with (what, done, total, note), done and total in images
Progress = Callable[[str, int, int, str], None]


def silent(_what: str, _done: int, _total: int, _note: str) -> None:
    """Report no progress."""


def make_demo(
    folder: Path, *, size: int = 64, count: int = 400, seed: int = 0, progress: Progress = silent
) -> Manifest:
    """Make the built-in data, or return it where it already is.

    Every domain is one simulated generator with its own photographs: `count` real ones, and fakes
    made from `count` others. Everything is decided by the seed, image by image.

    Args:
        folder: becomes the data's folder, whole or not at all; holds `manifest.parquet` as well.
        size: sides of the images, in pixels.
        count: images of each class in each domain.
        seed: of all random choices.
        progress: told about the work.

    Returns:
        The manifest; domains as in `DEMO_DOMAINS`, splits by photograph.

    Raises:
        DataError: a parameter is out of range, or the folder holds something else.
        FileError: the folder cannot be written.
    """
    _check(size, count, seed)
    folder = folder.resolve()
    parameters = {"demo": DEMO_VERSION, "size": size, "count": count, "seed": seed}
    ready = _reuse(folder, parameters)
    if ready is not None:
        total = len(ready)
        progress("demo", total, total, "already there")
        return ready
    with publish_folder(folder) as building:
        manifest = _build(building, folder, parameters, progress)
        manifest.write(building / "manifest.parquet")
        found = {"manifest": sha256_file(building / "manifest.parquet"), "data": manifest.digest}
        write_json(building / "demo.json", parameters | found)
    return manifest


def _check(size: int, count: int, seed: int) -> None:
    """Refuse parameters out of range."""
    if not SIZES[0] <= size <= SIZES[1]:
        raise DataError(
            f"`size` of the demo must be from {SIZES[0]} to {SIZES[1]} pixels. Got {size}."
        )
    if count < MIN_COUNT:
        raise DataError(
            f"`count` of the demo must be at least {MIN_COUNT}, so that no split is empty. "
            f"Got {count}."
        )
    if seed < 0:
        raise DataError(f"`seed` of the demo must be 0 or more. Got {seed}.")


def _reuse(folder: Path, parameters: dict[str, Any]) -> Manifest | None:
    """Return the complete demo in `folder`, or None where one may be made.

    Raises:
        DataError: the folder holds files that are not a demo's; they are left alone.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DataError(f"{folder} is a file. Choose a folder for the demo.")
    entries = {entry.name for entry in folder.iterdir()}
    if not entries:
        return None
    ready = _complete(folder, parameters)
    if ready is not None:
        return ready
    foreign = _foreign(folder)
    if foreign or "demo.json" not in entries:
        what = foreign[0] if foreign else sorted(entries)[0]
        raise DataError(
            f"{folder} holds {what!r}, which is not the demo's. Choose an empty or new folder."
        )
    return None


def _complete(folder: Path, parameters: dict[str, Any]) -> Manifest | None:
    """Return the demo of these parameters in `folder`, None where it is not there or not whole."""
    try:
        stored = read_json(folder / "demo.json")
        whole = stored == parameters | {k: stored[k] for k in ("manifest", "data")}
        if not whole or sha256_file(folder / "manifest.parquet") != stored["manifest"]:
            return None
        manifest = Manifest.read(folder / "manifest.parquet", root=folder)
    except (FileError, DataError, KeyError, TypeError):
        return None
    sizes = zip(manifest.rows(), manifest.table["bytes"].to_pylist(), strict=True)
    complete = all(row.file.is_file() and row.file.stat().st_size == size for row, size in sizes)
    return manifest if complete else None


def _foreign(folder: Path) -> list[str]:
    """Return what a folder holds, at any depth, that no demo writes; a new demo would delete it."""
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not _is_real_folder(p)]
    return sorted(path for path in paths if not _OWN.fullmatch(path))


def _is_real_folder(path: Path) -> bool:
    """Tell whether a path is a folder and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _split_of(index: int, count: int) -> str:
    """Return the split of photograph `index` of `count`; they come in no order."""
    train = round(SPLIT_SHARES["train"] * count)
    val = max(1, round(SPLIT_SHARES["val"] * count))
    return "train" if index < train else "val" if index < train + val else "test"


def _build(
    building: Path, folder: Path, parameters: dict[str, Any], progress: Progress
) -> Manifest:
    """Write every image below `building`; return the manifest for when it is called `folder`."""
    size, count, seed = parameters["size"], parameters["count"], parameters["seed"]
    side = math.ceil((size + MARGIN) / 8) * 8
    textures = make_textures(np.random.default_rng([seed, 0]))

    def some_photographs(number: int) -> list[Float32]:
        rngs = [np.random.default_rng([seed, 1, i]) for i in range(number)]
        return [take_photograph(rng, side, textures) for rng in rngs]

    generators = make_generators(np.random.default_rng([seed, 2]), some_photographs)
    columns: dict[str, list[object]] = {}
    total = 2 * count * len(DEMO_DOMAINS)
    for number in range(total):
        place, index = divmod(number, 2 * count)
        domain = DEMO_DOMAINS[place]
        # the two classes alternate, and photograph `index` belongs to one of them alone
        label = ("real", "fake")[index % 2]
        rng = np.random.default_rng([seed, 3, place, index])
        photograph = take_photograph(rng, side, textures)
        row = _finish(photograph, generators[domain] if label == "fake" else None, size, rng)
        data = row.pop("data")
        split = _split_of(index // 2, count)
        path = f"{split}/{domain}/{FOLDERS[label]}/{index:06d}.jpg"
        target = building / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        row |= {"path": path, "label": label, "domain": domain, "split": split}
        row |= {"generator": domain if label == "fake" else "procedural"}
        row |= {"group": f"{domain}-{index:06d}", "width": size, "height": size, "format": "JPEG"}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        progress("demo", number + 1, total, domain)
    return from_columns(columns, folder)


def _finish(
    photograph: Float32, generator: Generator | None, size: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Pass a photograph through its generator, if any, crop and compress it; return its file."""
    image = photograph if generator is None else generator(photograph, rng)
    # convolutions wrap round the edges: stay clear of those
    top, left = rng.integers(BORDER, image.shape[1] - size - BORDER + 1, 2)
    quality = int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    data = encode_jpeg(to_pixels(image[:, top : top + size, left : left + size]), quality)
    return {"data": data, "sha256": sha256_bytes(data), "bytes": len(data), "quality": quality}

"""`lydite data align`: photographs, autoencoders trained on them, twins, and the manifest of both.

A folder belongs to one request. Killed at any moment, the same call goes on and comes to the same
files; another request is refused. What lies in it, see `lydite.data.align.make`; besides
`autoencoders/NAME/`, and `align.json` and `result.json`, which say what was asked and what came.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lydite.data.align.crop import side_of
from lydite.data.align.make import DOMAIN_PREFIX, AlignSettings, Maker
from lydite.data.align.photographs import Photographs, Skipped
from lydite.data.manifest import Manifest
from lydite.errors import DataError, DecodeError, FileError, ResumeError
from lydite.files import LOCK, TEMPORARY_PREFIX, lock_folder, read_json, sha256_file, write_json
from lydite.recipe import Progress, silent
from lydite.study.align_sources import Reconstruction, Source, ready
from lydite.training.device import require_device

ALIGN_VERSION = 1
REQUEST_FILE, RESULT_FILE, MANIFEST_FILE = "align.json", "result.json", "manifest.parquet"
OWN = frozenset({REQUEST_FILE, RESULT_FILE, MANIFEST_FILE, "real", "fake", "autoencoders"})
#: photographs that the disk estimate is measured on
MEASURED = 6


@dataclass(frozen=True)
class AlignPlan:
    """What will be made.

    Attributes:
        folder: where.
        photographs: of what.
        sources: with which autoencoders.
        settings: how.
        steps: of training, for autoencoders that are trained here.
    """

    folder: Path
    photographs: Photographs
    sources: tuple[Source, ...]
    settings: AlignSettings
    steps: int

    def request(self) -> dict[str, Any]:
        """Return what a folder is bound to."""
        return {
            "align": ALIGN_VERSION,
            "photographs": self.photographs.digest,
            "count": len(self.photographs),
            **self.settings.model_dump(mode="json"),
            "autoencoders": {source.name: source.identity for source in self.sources},
        }

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values: counts, and what it takes on disk."""
        photos = self.photographs
        sides = [side_of(*size, self.settings.size) for size in photos.sizes]
        return {
            "folder": str(self.folder),
            "photographs": len(photos),
            "images": len(photos) * (1 + len(self.sources)),
            "sizes": {str(side): n for side, n in Counter(sides).most_common()},
            "formats": photos.formats(),
            "splits": dict(Counter(photos.manifest.column("split"))),
            "autoencoders": {source.name: source.identity for source in self.sources},
            "skipped": skipped_json(photos.skipped),
            "copies": photos.copies,
            "disk_bytes": self._disk_bytes(sides),
        }

    def _disk_bytes(self, sides: Sequence[int]) -> int:
        """Estimate what all files take, from a few photographs."""
        maker, pixels, measured = Maker(self.folder, self.settings), 0, 0
        rows = list(self.photographs.manifest.rows())
        for row in rows[:: max(1, len(rows) // MEASURED)][:MEASURED]:
            try:
                crop = maker.crop(row)
            except DecodeError:
                continue
            pixels += crop.rgb.shape[0] ** 2
            measured += len(self.settings.encoding.encode(crop.rgb))
        each = measured / pixels if pixels else 3.0
        return round(each * sum(side**2 for side in sides) * (1 + len(self.sources)))


def skipped_json(skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Return what was left out: how many for each reason, and all of them."""
    return {
        "count": len(skipped),
        "reasons": dict(Counter(item.code for item in skipped).most_common()),
        "files": [{"path": item.path, "code": item.code} for item in skipped],
    }


def plan_align(
    photographs: Photographs,
    folder: Path,
    sources: Sequence[Source],
    settings: AlignSettings | None = None,
    *,
    steps: int,
) -> AlignPlan:
    """Return what would be made; checks all that can be checked before any work.

    Raises:
        DataError: the folder is the photographs', or holds something else.
        ResumeError: the folder belongs to another request.
    """
    settings = settings or AlignSettings()
    folder = folder.resolve()
    plan = AlignPlan(folder, photographs, tuple(sources), settings, steps)
    root = photographs.manifest.root.resolve()
    if folder == root or root in folder.parents:
        raise DataError(
            f"{folder} lies in the photographs' own folder {root}, to which nothing is ever added. "
            "Choose another with -o."
        )
    if not folder.exists():
        return plan
    if not folder.is_dir():
        raise DataError(f"{folder} is a file. Choose a folder.")
    there = sorted(entry.name for entry in folder.iterdir())
    there = [name for name in there if not name.startswith((TEMPORARY_PREFIX, LOCK))]
    foreign = [name for name in there if name not in OWN]
    if foreign or (there and REQUEST_FILE not in there):
        what = (foreign or there)[0]
        raise DataError(f"{folder} holds {what!r}, which is not ours. Choose an empty folder.")
    if REQUEST_FILE in there:
        _require_same(read_json(folder / REQUEST_FILE), plan.request(), folder)
    return plan


def _require_same(old: Any, new: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with something else than was begun.

    Raises:
        ResumeError: the requests differ; the message says where.
    """
    before, now = _flat(old), _flat(new)
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differ:
        told = "; ".join(f"{k}: {before.get(k)} there, {now.get(k)} now" for k in differ[:4])
        raise ResumeError(
            f"{folder} was begun with other photographs or settings ({told}). "
            "Choose another folder with -o, or repeat the first command."
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of JSON objects in each other, by their dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    inside = [_flat(item, f"{name}.{key}".removeprefix(".")) for key, item in value.items()]
    return {key: leaf for leaves in inside for key, leaf in leaves.items()}


def align(plan: AlignPlan, *, progress: Progress = silent, device: str = "auto") -> dict[str, Any]:
    """Make the data and return what came, as JSON values; a finished folder is only looked at.

    Args:
        plan: of `plan_align`.
        progress: told about the work.
        device: to train on, "auto", "cpu" or "cuda"; twins are always made on the CPU.

    Raises:
        BusyError: another process works in the folder.
        ConfigError: there is no such device.
        FileError: there is too little room, or the folder cannot be written.
        DataError: no photograph could be decoded.
    """
    require_device(device)
    with lock_folder(plan.folder, tidy=True):
        done = _finished(plan)
        if done is not None:
            progress("twins", len(plan.photographs), len(plan.photographs), "already there")
            return done
        for left in plan.folder.rglob(f"{TEMPORARY_PREFIX}*"):  # of a run that was killed
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        _drop_damaged(plan)
        _require_room(plan)
        write_json(plan.folder / REQUEST_FILE, plan.request())
        maker = Maker(plan.folder, plan.settings)
        skipped = [*plan.photographs.skipped, *maker.write_reals(plan.photographs, progress)]
        refused = {item.path for item in skipped}
        rows = [pair for pair in plan.photographs.rows() if pair[0].path not in refused]
        if not rows:
            raise DataError("None of the photographs could be decoded.")
        made = _autoencoders(plan, maker.reals(rows), progress, device)
        quality = maker.write_fakes(rows, made, progress)
        manifest = maker.manifest(rows, [source.name for source in plan.sources])
        manifest.write(plan.folder / MANIFEST_FILE)
        value = _result(plan, manifest, Counter(row.split for row, _ in rows), skipped)
        value["domains"] = [
            {
                "domain": DOMAIN_PREFIX + source.name,
                "autoencoder": source.identity["kind"],
                "parameters": network.parameters,
                "psnr_db": quality[source.name].psnr_db,
                "detail": quality[source.name].detail,
            }
            for source, network in zip(plan.sources, made, strict=True)
        ]
        write_json(plan.folder / RESULT_FILE, value)
        return value


def _autoencoders(
    plan: AlignPlan, reals: Manifest, progress: Progress, device: str
) -> list[Reconstruction]:
    """Return the plan's autoencoders, trained where they have to be."""
    return [
        ready(
            source,
            reals,
            plan.steps,
            plan.folder / "autoencoders" / source.name,
            seed=plan.settings.seed,
            progress=progress,
            device=device,
        )
        for source in plan.sources
    ]


def _result(
    plan: AlignPlan, manifest: Manifest, splits: Counter[str], skipped: Sequence[Skipped]
) -> dict[str, Any]:
    """Return what came of the photographs, as JSON values."""
    photographs = splits.total()
    return {
        "manifest": str(plan.folder / MANIFEST_FILE),
        "manifest_sha256": sha256_file(plan.folder / MANIFEST_FILE),
        "digest": manifest.digest,
        "photographs": photographs,
        "images": photographs * (1 + len(plan.sources)),
        "splits": dict(splits),
        "formats": plan.photographs.formats(),
        "skipped": skipped_json(skipped),
        "copies": plan.photographs.copies,
    }


def _finished(plan: AlignPlan) -> dict[str, Any] | None:
    """Return the result of a folder in which nothing is left to do."""
    try:
        value = read_json(plan.folder / RESULT_FILE)
        path = plan.folder / MANIFEST_FILE
        if sha256_file(path) != value["manifest_sha256"]:
            return None
        manifest = Manifest.read(path, plan.folder)
    except (FileError, DataError, KeyError, TypeError):
        return None
    sizes = zip(manifest.rows(), manifest.table["bytes"].to_pylist(), strict=True)
    whole = all(row.file.is_file() and row.file.stat().st_size == size for row, size in sizes)
    return dict(value) if whole else None


def _drop_damaged(plan: AlignPlan) -> None:
    """Remove copies and twins that are not what the manifest says, so that they are made again."""
    try:
        manifest = Manifest.read(plan.folder / MANIFEST_FILE, plan.folder)
    except (FileError, DataError):
        return  # what was never finished is written whole or not at all
    for file, sha256 in {row.file: row.sha256 for row in manifest.rows()}.items():
        if file.is_file() and sha256_file(file) != sha256:
            file.unlink()


def _require_room(plan: AlignPlan) -> None:
    """Refuse to fill the disk.

    Raises:
        FileError: less is free than is likely to be needed.
    """
    needed, free = plan.to_json()["disk_bytes"], shutil.disk_usage(plan.folder).free
    there = sum(f.stat().st_size for f in plan.folder.rglob("*") if f.is_file())
    if needed - there > free:
        raise FileError(
            f"About {needed / 1e6:,.0f} MB are needed in {plan.folder}, and {free / 1e6:,.0f} MB "
            "are free. Use --limit, a smaller --size or --format jpeg."
        )

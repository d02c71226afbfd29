"""Further images to distill on: no labels are needed, the teachers say what to learn of each."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from lydite.config import Frozen
from lydite.data.folder import image_files
from lydite.data.manifest import Manifest, Row
from lydite.data.scan.read import FileFacts, read_facts
from lydite.errors import DataError
from lydite.files import digest


@dataclass(frozen=True)
class Unlabeled:
    """Images whose labels are not looked at, each content once, in an order of their own.

    Attributes:
        rows: the images.
    """

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Unlabeled:
        """Return the images sorted by content, doubles left out."""
        unique = {row.sha256: row for row in rows}
        return cls(tuple(unique[key] for key in sorted(unique)))

    @property
    def contents(self) -> frozenset[str]:
        """SHA-256 of every image."""
        return frozenset(row.sha256 for row in self.rows)

    @property
    def digest(self) -> str:
        """SHA-256 over what images these are."""
        return digest(sorted(self.contents))


class TransferSet(Frozen):
    """Where unlabeled images come from: a manifest, or a folder and everything below it.

    Attributes:
        manifest: a Parquet manifest, whose labels are not looked at.
        splits: of the manifest; never "test".
        domains: of the manifest; all unless given.
        folder: a folder of images, instead of a manifest.
    """

    manifest: Path | None = None
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    domains: tuple[str, ...] = ()
    folder: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TransferSet:
        if (self.manifest is None) == (self.folder is None):
            raise ValueError("give exactly one of `manifest` and `folder`")
        return self

    def images(self) -> Unlabeled:
        """Return the images.

        Raises:
            DataError: there are none, one cannot be used, or one belongs to a test split.
            FileError: no such manifest.
        """
        if self.manifest is not None:
            found = self._of_manifest(Manifest.read(self.manifest))
        else:
            assert self.folder is not None, "the validator allows no other case"
            found = _of_folder(self.folder)
        if not found:
            raise DataError(
                f"`transfer` of distill holds no image: {self.manifest or self.folder}. "
                "Name another folder, or other `splits` or `domains`."
            )
        return Unlabeled.of(found)

    def _of_manifest(self, manifest: Manifest) -> list[Row]:
        """Return the chosen rows, after making sure that none of them is a test image."""
        wanted: dict[str, Sequence[str]] = {"split": self.splits}
        if self.domains:
            wanted["domain"] = self.domains
        rows = list(manifest.readable().select(**wanted).rows())
        test = manifest.select(split="test")
        contents, groups = set(test.column("sha256")), set(test.column("group")) - {""}
        for row in rows:
            if row.sha256 in contents or row.group in groups:
                raise DataError(
                    f"`transfer` of distill holds {row.file}, which also stands in the test split "
                    f"of {self.manifest} (same content or group). A detector must not learn from "
                    "test images. Find all such images with: lydite data check MANIFEST"
                )
        return rows


def _of_folder(folder: Path) -> list[Row]:
    """Return an entry for every image of a folder."""
    if not folder.is_dir():
        raise DataError(f"`transfer` of distill is no folder: {folder}.")
    rows = []
    for file, error in image_files(folder):
        if error is not None:
            raise DataError(f"`transfer` of distill: {error}")
        status = file.stat()
        facts = _facts(file, status.st_size, status.st_mtime_ns)
        if facts.error is not None:
            raise DataError(
                f"`transfer` of distill holds {file}, which cannot be used ({facts.error}). "
                "Take it out of the folder."
            )
        rows.append(Row(file, file.name, facts.sha256, "", "", "", "train", ""))
    return rows


@functools.lru_cache(maxsize=1_000_000)
def _facts(file: Path, _size_bytes: int, _mtime_ns: int) -> FileFacts:
    """Return what is measured on a file, once as long as it stays the same."""
    return read_facts(file)

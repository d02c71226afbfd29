"""Write the copies of photographs and their twins, and the manifest of both.

```
FOLDER/real/NAME.png                 the crop of a photograph, saved anew
FOLDER/fake/<autoencoder>/NAME.png   the same crop through an autoencoder, saved alike
FOLDER/manifest.parquet              a domain for each autoencoder
```

Every domain lists the same copies as its real images: figures of a domain need both classes, and
autoencoders are compared on the same photographs. A photograph and all its twins are one group.

NAME comes from the photograph's content, so that no name of a user's file becomes one of ours.
Every file follows from the photograph, the settings and the seed, and is whole or not there: what
is there already is not made again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lydite.config import Frozen
from lydite.data.align.crop import LEAST_SIDE, UNIT, Crop, Encoding, take_crop
from lydite.data.align.photographs import Photographs, Skipped
from lydite.data.decode import decode, read_source
from lydite.data.manifest import Manifest, Row, from_columns
from lydite.data.reasons import refuse
from lydite.data.scan.read import FileFacts, read_facts
from lydite.errors import DataError, DecodeError
from lydite.files import digest, sha256_bytes, write_bytes

if TYPE_CHECKING:
    from lydite.recipe import Progress

UInt8 = NDArray[np.uint8]

DOMAIN_PREFIX = "align-"
#: stands for an autoencoder where there is none
REALS = "photographs"
#: decibels reported where nothing differs at all
MOST_PSNR = 99.0


class Autoencoder(Protocol):
    """What twins are made with."""

    @property
    def name(self) -> str:
        """Of its files and domain: small letters, digits, dashes."""
        ...

    def __call__(self, rgb: UInt8, seed: int) -> UInt8:
        """Return decoder(encoder(rgb)), (S, S, 3) uint8 to the same; `seed` of any noise in it."""
        ...


class AlignSettings(Frozen):
    """What twins are like.

    Attributes:
        size: side of the crops in pixels; smaller photographs give smaller ones.
        encoding: how both are saved.
        seed: of crops, splits, training and noise.
    """

    size: Annotated[int, Field(ge=LEAST_SIDE, le=2048)] = 256
    encoding: Encoding = Encoding()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("size")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if value % UNIT:
            raise ValueError(f"the size must be a multiple of {UNIT}, the blocks of JPEG")
        return value


@dataclass(frozen=True)
class Quality:
    """How like their photographs the twins of one autoencoder are, as they were saved.

    Attributes:
        psnr_db: mean peak signal-to-noise ratio; above 30 few people see a difference.
        detail: the twins' fine detail (mean standard deviation of neighboring pixels' differences)
            over their photographs'; below 1 twins are smoother.
    """

    psnr_db: float
    detail: float


class Maker:
    """Writes the files of one folder.

    Args:
        folder: where to.
        settings: what they are like.
    """

    def __init__(self, folder: Path, settings: AlignSettings) -> None:
        self.folder, self.settings = folder, settings

    def real_path(self, name: str) -> str:
        """Return where a photograph's copy is, below the folder."""
        return f"real/{name}{self.settings.encoding.suffix}"

    def fake_path(self, autoencoder: str, name: str) -> str:
        """Return where a twin is, below the folder."""
        return f"fake/{autoencoder}/{name}{self.settings.encoding.suffix}"

    def crop(self, row: Row) -> Crop:
        """Cut a photograph.

        Raises:
            DecodeError: it cannot be read, or is another file than it was.
        """
        data = read_source(row.file)
        if sha256_bytes(data) != row.sha256:
            raise refuse("digest", str(row.file))
        return take_crop(data, str(row.file), self.settings.size, self._seed(row, "crop"))

    def write_reals(self, photos: Photographs, progress: Progress) -> list[Skipped]:
        """Write the copies of all photographs; return those that could not be read."""
        skipped = []
        for done, (row, name) in enumerate(photos.rows(), 1):
            target = self.folder / self.real_path(name)
            if not target.is_file():
                try:
                    crop = self.crop(row)
                except DecodeError as error:
                    skipped.append(Skipped(row.path, error.code))
                else:
                    write_bytes(target, self.settings.encoding.encode(crop.rgb))
            progress("photographs", done, len(photos), "")
        return skipped

    def write_fakes(
        self, rows: Sequence[tuple[Row, str]], makers: Sequence[Autoencoder], progress: Progress
    ) -> dict[str, Quality]:
        """Write the twins of photographs that have a copy; return what they are like.

        Raises:
            DataError: a photograph has changed in the meantime.
        """
        measured: dict[str, list[tuple[float, float, float]]] = {maker.name: [] for maker in makers}
        for done, (row, name) in enumerate(rows, 1):
            paths = {m.name: self.folder / self.fake_path(m.name, name) for m in makers}
            lacking = [maker for maker in makers if not paths[maker.name].is_file()]
            if lacking:
                self._write_twins(row, name, lacking)
            real = decode(self.folder / self.real_path(name))
            for maker in makers:
                fake = decode(paths[maker.name])
                measured[maker.name].append((psnr(real, fake), _roughness(fake), _roughness(real)))
            progress("twins", done, len(rows), "")
        return {name: _quality(values) for name, values in measured.items()}

    def _write_twins(self, row: Row, name: str, makers: Sequence[Autoencoder]) -> None:
        """Cut a photograph once and pass it through several autoencoders."""
        try:
            crop = self.crop(row)
        except DecodeError as error:
            raise DataError(
                f"The photograph {row.file} changed while twins were made ({error.code}). "
                "Begin again in another folder."
            ) from error
        for maker in makers:
            made = crop.twin(maker(crop.rgb, self._seed(row, maker.name)))
            path = self.folder / self.fake_path(maker.name, name)
            write_bytes(path, self.settings.encoding.encode(made))

    def _seed(self, row: Row, what: str) -> int:
        """Return the seed of a choice about one photograph, 0 to 2**48."""
        return int(digest([self.settings.seed, what, row.sha256])[:12], 16)

    def reals(self, rows: Sequence[tuple[Row, str]]) -> Manifest:
        """Return the copies alone."""
        return from_columns(self._columns(rows, ((REALS, "real"),)), self.folder)

    def manifest(self, rows: Sequence[tuple[Row, str]], names: Sequence[str]) -> Manifest:
        """Return the manifest: every autoencoder's domain has the copies and its own twins.

        A group is one photograph with all its twins, so that no split divides them and
        `balance: pairs` shows them together.
        """
        pairs = [(name, label) for name in names for label in ("real", "fake")]
        return from_columns(self._columns(rows, pairs), self.folder)

    def _columns(
        self, rows: Sequence[tuple[Row, str]], pairs: Sequence[tuple[str, str]]
    ) -> dict[str, list[object]]:
        """Return a row for every photograph and every pair of autoencoder and label."""
        columns: dict[str, list[object]] = {}
        facts: dict[str, FileFacts] = {}
        for (maker, label), (row, name) in itertools.product(pairs, rows):
            path = self.real_path(name) if label == "real" else self.fake_path(maker, name)
            if path not in facts:
                facts[path] = read_facts(self.folder / path)
            values = {f.name: getattr(facts[path], f.name) for f in fields(FileFacts)}
            values |= {"path": path, "label": label, "split": row.split, "group": name}
            values |= {"generator": row.generator if label == "real" else maker}
            for column, value in (values | {"domain": DOMAIN_PREFIX + maker}).items():
                columns.setdefault(column, []).append(value)
        return columns


def psnr(one: UInt8, other: UInt8) -> float:
    """Return the peak signal-to-noise ratio of two images of one shape, in decibels."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * float(np.log10(255**2 / error)))


def _roughness(image: UInt8) -> float:
    """Return the standard deviation of the differences of pixels beside each other."""
    return float(np.diff(image.astype(np.float64), axis=1).std())


def _quality(values: Sequence[tuple[float, float, float]]) -> Quality:
    """Return the quality from each twin's PSNR and roughness, and its photograph's roughness."""
    decibels, twins, photographs = (float(value) for value in np.mean(values, axis=0))
    detail = twins / photographs if photographs else 1.0
    return Quality(round(decibels, 3), round(detail, 3))

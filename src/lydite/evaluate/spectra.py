"""Mean power spectra of noise residuals, real against fake: the traces that generators leave.

Upsampling leaves peaks at fixed frequencies (Zhang, Karaman and Chang 2019, arXiv 1907.06515), and
they show when the residuals of many images are averaged (Wang et al. 2020, arXiv 1912.11035, who
subtract a median-filtered copy; Corvi et al. 2023, arXiv 2304.06408). The radial profile is that of
Durall et al. 2020 (arXiv 2003.01826). All of this describes the images, no detector takes part: a
peak that is there need not be what a detector goes by.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lydite.data.decode import inspect
from lydite.data.images import ImageStore
from lydite.data.manifest import TARGETS, TASKS, Row
from lydite.errors import ConfigError, DataError, DecodeError, LyditeError
from lydite.evaluate.spectrum import Float64, image_spectrum, radial_profile
from lydite.files import digest
from lydite.recipe import Progress, silent

#: sides of the center crop to choose from, in pixels
SIZES = (256, 128, 64, 32)
#: share of the images that may be smaller than the crop, and are left out then
TOO_SMALL = 0.05


@dataclass(frozen=True, eq=False)
class MeanSpectrum:
    """The mean over the images of one class.

    Attributes:
        n: how many images.
        power_db: mean of the log power, in dB, zero frequency in the middle. (S, S)
        radial_db: its radial profile. (R,)
        radial_error_db: standard error of the profile over images; 0 for a single one. (R,)
    """

    n: int
    power_db: Float64
    radial_db: Float64
    radial_error_db: Float64


@dataclass(frozen=True, eq=False)
class Pair:
    """The two classes of one domain, or of one generator of it.

    Attributes:
        domain: where the images are from.
        generator: whose fakes, against all real images of the domain; None for all.
        real: of the class that is not looked for.
        fake: of the class that is.
    """

    domain: str
    generator: str | None
    real: MeanSpectrum
    fake: MeanSpectrum

    @property
    def label(self) -> str:
        """Name of the row in figures."""
        return self.domain if self.generator is None else f"{self.domain}: {self.generator}"

    @property
    def difference_db(self) -> Float64:
        """Fake minus real in dB. (S, S)."""
        return self.fake.power_db - self.real.power_db

    def largest(self) -> tuple[float, float, float]:
        """Return where the difference is largest: cycles a pixel down and across, and dB.

        The mean color and what the window spreads of it, the middle 3x3, do not count.
        """
        size = len(self.difference_db)
        # a spectrum of real numbers is symmetric: half of it says all
        half = np.abs(self.difference_db[: size // 2 + 1])
        half[size // 2 - 1 :, size // 2 - 1 : size // 2 + 2] = 0
        row, column = np.unravel_index(int(np.argmax(half)), half.shape)
        down, across = ((int(place) - size // 2) / size for place in (row, column))
        return abs(down), abs(across), float(self.difference_db[row, column])


@dataclass(frozen=True, eq=False)
class Spectra:
    """Mean spectra of a data set.

    Attributes:
        size: side of the center crops in pixels.
        labels: what the two classes are called.
        pairs: domains with both classes.
        left_out: images that could not be used, by reason.
        settings: what was asked for.
    """

    size: int
    labels: tuple[str, str]
    pairs: tuple[Pair, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def frequencies(self) -> Float64:
        """Cycles a pixel of the radial profiles' entries. (R,)."""
        return np.arange(int(self.size / np.sqrt(2)) + 1) / self.size

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the two-dimensional spectra as JSON values."""
        return {
            "format": "lydite-spectra",
            "version": 1,
            "settings": self.settings,
            "size": self.size,
            "labels": list(self.labels),
            "left_out": self.left_out,
            "frequencies": self.frequencies.tolist(),
            "pairs": [self._pair(pair) for pair in self.pairs],
        }

    def _pair(self, pair: Pair) -> dict[str, Any]:
        down, across, height = pair.largest()
        value: dict[str, Any] = {"domain": pair.domain, "generator": pair.generator}
        for name, mean in zip(self.labels, (pair.real, pair.fake), strict=True):
            profile = {"radial_db": mean.radial_db, "radial_error_db": mean.radial_error_db}
            value[name] = {"n": mean.n} | {k: v.round(4).tolist() for k, v in profile.items()}
        value["largest"] = {"down": down, "across": across, "difference_db": round(height, 4)}
        return value


def mean_spectra(
    rows: Sequence[Row],
    images: ImageStore,
    *,
    count: int = 200,
    size: int | None = None,
    most: int = SIZES[0],
    generators: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Spectra:
    """Return mean spectra of real and fake images, by domain.

    Args:
        rows: the images, of one task.
        images: reads them.
        count: images at most of each domain, generator and class; which these are follows from
            their SHA-256 and the seed.
        size: side of the center crop in pixels, even; smaller images are left out. The largest of
            `SIZES` that nearly all chosen images have, unless given.
        most: the largest of `SIZES` to choose.
        generators: a pair for each generator instead of each domain.
        seed: of the choice.
        progress: told how many images are done.

    Raises:
        ConfigError: `count` or `size` is not allowed.
        DataError: no domain has usable images of both classes.
    """
    if count < 1:
        raise ConfigError(f"`count` must be 1 image or more. Got {count}.")
    if size is not None and (size < 16 or size % 2 or size > 1024):
        raise ConfigError(f"`size` must be an even number from 16 to 1024 pixels. Got {size}.")
    chosen = _choose(rows, count, generators, seed)
    every = [row for members in chosen.values() for row in members]
    side = size or min(most, _common_size(every))
    left_out: dict[str, int] = defaultdict(int)
    means = {}
    done = 0
    for key, members in chosen.items():
        total = _Sum(side)
        for row in members:
            done += 1
            try:
                total.add(images.get(row))
            except DecodeError as error:
                left_out[error.code] += 1
            progress("spectra", done, len(every), row.domain)
        means[key] = total.mean()
    pairs = tuple(
        Pair(domain, generator if generators else None, real, fake)
        for (domain, generator, target), fake in sorted(means.items())
        if target == 1 and fake and (real := means.get((domain, "", 0)))
    )
    if not pairs:
        raise DataError(
            f"No domain has images of both classes with sides of {side} pixels or more. "
            "Name a smaller `size`, or a manifest with both classes."
        )
    settings = {"count": count, "generators": generators, "seed": seed}
    return Spectra(side, _labels(every), pairs, dict(sorted(left_out.items())), settings)


def _choose(
    rows: Sequence[Row], count: int, generators: bool, seed: int
) -> dict[tuple[str, str, int], list[Row]]:
    """Return the images of each (domain, generator or "", class), drawn by content."""
    kinds: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        generator = row.generator if generators and row.target else ""
        kinds[row.domain, generator, row.target].append(row)
    return {
        kind: sorted(members, key=lambda row: digest([seed, row.sha256]))[:count]
        for kind, members in sorted(kinds.items())
    }


def _common_size(rows: Sequence[Row]) -> int:
    """Return the largest crop that nearly all images have; only headers are read."""
    sides = []
    for row in rows:
        try:
            info = inspect(row.file)
        except LyditeError:
            continue
        sides.append(min(info.width, info.height))
    small = float(np.quantile(sides, TOO_SMALL, method="lower")) if sides else 0.0
    return next((size for size in SIZES if size <= small), SIZES[-1])


class _Sum:
    """Adds up the spectra of one class, so that any number of images fits into memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.power_db = np.zeros((size, size))
        self.profiles: list[Float64] = []

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Add an image, or raise a `DecodeError` where it is smaller than the crop."""
        if min(rgb.shape[:2]) < self.size:
            raise DecodeError("The image is smaller than the crop.", "too-small")
        spectrum = image_spectrum(rgb, self.size)
        self.power_db += spectrum
        self.profiles.append(radial_profile(spectrum))

    def mean(self) -> MeanSpectrum | None:
        """Return the mean, None of no image."""
        n = len(self.profiles)
        if not n:
            return None
        profiles = np.stack(self.profiles)
        spread = profiles.std(axis=0, ddof=1) if n > 1 else np.zeros(profiles.shape[1])
        return MeanSpectrum(
            n=n,
            power_db=self.power_db / n,
            radial_db=profiles.mean(axis=0),
            radial_error_db=np.asarray(spread / np.sqrt(n)),
        )


def _labels(rows: Sequence[Row]) -> tuple[str, str]:
    """Return what the two classes of a task are called."""
    names = {row.label for row in rows}
    task = next((task for task in TASKS if names <= set(task)), None)
    if task is None:
        raise DataError(f"These images are of several tasks: {', '.join(sorted(names))}.")
    assert all(TARGETS[name] == number for number, name in enumerate(task))
    return task


def pack_arrays(found: Spectra) -> bytes:
    """Return the two-dimensional spectra as an .npz file, "0-real", "0-fake", "1-real", ...

    The number is the pair's place in `Spectra.pairs`, the word its class.
    """
    arrays = {
        f"{number}-{name}": mean.power_db.astype(np.float32)
        for number, pair in enumerate(found.pairs)
        for name, mean in zip(found.labels, (pair.real, pair.fake), strict=True)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()

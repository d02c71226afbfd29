"""The report's section on why: patch-score maps of the sample images, and mean spectra."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from PIL import Image

from lydite.data.decode import decode
from lydite.data.preprocess import UInt8
from lydite.errors import LyditeError
from lydite.explain.overlay import overlay, scale_colors
from lydite.predictor import Predictor
from lydite.report.pictures import MOST_DOMAINS, SIDE, Picture
from lydite.report.spectra import spectra_figure
from lydite.report.view import Line
from lydite.study.why import quick_map, quick_spectra, shipped

#: maps on the page at most
MOST_MAPS = 12


@dataclass(frozen=True)
class MapPicture:
    """The map of one sample image.

    Attributes:
        uri: the picture as a data URI.
        picture: the image it is of.
        p_fake: of the whole image, by the exported file.
        low: lowest p(fake) of its tiles.
        high: highest.
        gaps: there are places at which no tile looked.
    """

    uri: str
    picture: Picture
    p_fake: float
    low: float
    high: float
    gaps: bool


@dataclass(frozen=True)
class Why:
    """Everything in the section.

    Attributes:
        detector: whose maps these are.
        maps: none where the detector or the images are gone.
        spectra: the figure, None where images are gone.
        colors: of the maps' scale, from real to fake.
    """

    detector: str
    maps: tuple[MapPicture, ...]
    spectra: Markup | None
    colors: tuple[str, ...]

    @property
    def gaps(self) -> bool:
        """Some map has places at which no tile looked."""
        return any(found.gaps for found in self.maps)


def section(
    lines: Sequence[Line],
    scores: Mapping[str, pa.Table],
    learned: Sequence[str],
    root: Path | None,
    detectors: Path | None,
    pictures: Sequence[Picture],
) -> Why | None:
    """Return the section, None where there is nothing to show.

    Args:
        lines: the study's results.
        scores: by the name of the line, as far as they are kept.
        learned: domains that were trained on, which come first.
        root: the images' folder, None to show none.
        detectors: the folder of exported detectors, None to ask none.
        pictures: the sample images of the page.
    """
    if root is None or not scores:
        return None
    name, maps = _maps(lines, detectors, pictures)
    table = next(iter(scores.values()))
    domains = sorted(set(table["domain"].to_pylist()), key=lambda d: (d not in learned, d))
    spectra = quick_spectra(table, domains[:MOST_DOMAINS], root)
    if not maps and spectra is None:
        return None
    # matplotlib escapes what it writes, and so does our frame around it
    drawn = None if spectra is None else Markup(spectra_figure(spectra))  # noqa: S704
    return Why(name, maps, drawn, tuple(scale_colors()))


def _maps(
    lines: Sequence[Line], detectors: Path | None, pictures: Sequence[Picture]
) -> tuple[str, tuple[MapPicture, ...]]:
    """Return the best detector on unseen domains that is there and cuts tiles, and its maps."""
    if detectors is None or not pictures:
        return "", ()
    for line in sorted(lines, key=lambda x: -(x.value("auc", group="unseen-mean") or 0.0)):
        predictor = shipped(detectors, line.result)
        if predictor is not None and predictor.card.preprocess.fit == "tiles":
            macs = line.result.cost.macs
            made = (_map(predictor, picture, macs) for picture in pictures[:MOST_MAPS])
            return line.name, tuple(found for found in made if found)
    return "", ()


def _map(predictor: Predictor, picture: Picture, macs: int) -> MapPicture | None:
    """Return one image's map, None where the image is too small for the detector."""
    try:
        rgb = decode(picture.file)
        said = predictor.predict(rgb).p_fake
        scores = quick_map(predictor, rgb, macs)
    except LyditeError:
        return None
    assert said is not None, "a single image is predicted or refused"
    return MapPicture(
        uri=_jpeg(overlay(rgb, scores, (SIDE // 2, SIDE))),
        picture=picture,
        p_fake=said,
        low=float(scores.p_fake.min()),
        high=float(scores.p_fake.max()),
        gaps=not np.isfinite(scores.heat((SIDE, SIDE))).all(),
    )


def _jpeg(rgb: UInt8) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

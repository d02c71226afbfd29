"""What a report needs to show why: answers of the shipped file tile by tile, and mean spectra.

Both are bounded, so that a report is written in seconds: few images, few tiles, small crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from lydite.data.decode import inspect
from lydite.data.images import ImageStore
from lydite.data.manifest import Row
from lydite.data.preprocess import UInt8
from lydite.errors import LyditeError
from lydite.evaluate.spectra import Spectra, mean_spectra
from lydite.explain.patches import PatchMap, fitting_stride, patch_map
from lydite.predictor import Predictor
from lydite.study.results import Result

#: tiles of one image at most, and multiply-adds at most where a network is large
MOST_TILES, MOST_MACS = 144, 6e9
FEWEST_TILES = 9
#: images at most of each domain and class
SPECTRUM_IMAGES = 60
#: pixels that may be decoded for spectra, all images together; fewer images are taken above that
SPECTRUM_PIXELS = 120_000_000
#: largest crop: a picture of its spectrum is part of the page
SPECTRUM_SIDE = 64


def shipped(detectors: Path, result: Result) -> Predictor | None:
    """Return the exported detector that a result was measured on, None where it is gone.

    Args:
        detectors: the folder of the study's detectors.
        result: of one of them.
    """
    for name in (f"{result.recipe}-seed{result.seed}", result.recipe):
        try:
            predictor = Predictor.open(detectors / name)
        except LyditeError:
            continue
        if predictor.card.digest == result.card_digest:
            return predictor
    return None


def quick_map(predictor: Predictor, rgb: UInt8, macs: int) -> PatchMap:
    """Return a map of few tiles.

    Args:
        predictor: one that cuts tiles.
        rgb: (H, W, 3) uint8.
        macs: multiply-adds of the network for one tile.

    Raises:
        LyditeError: the image is too small, or the network fails.
    """
    card = predictor.card
    most = int(min(MOST_TILES, max(FEWEST_TILES, MOST_MACS // max(macs, 1))))
    stride = fitting_stride(rgb.shape[0], rgb.shape[1], card.preprocess.size, most)
    return patch_map(rgb, card.preprocess, card.score, predictor.logits, stride)


def quick_spectra(scores: pa.Table, domains: Sequence[str], root: Path) -> Spectra | None:
    """Return the mean spectra of a few test images by domain, None where there are too few.

    Args:
        scores: of any detector, for the images' paths and labels.
        domains: which ones to show.
        root: the folder that paths are relative to.
    """
    names = ("path", "sha256", "label", "generator", "domain", "split", "group")
    every = zip(*(scores[name].to_pylist() for name in names), strict=True)
    rows = [Row(root / v[0], *v) for v in every if v[5] == "test" and v[4] in domains]
    pixels = sum(map(_pixels, rows[:: max(1, len(rows) // 50)][:50])) / max(1, min(len(rows), 50))
    kinds = len({(row.domain, row.target) for row in rows})
    affordable = int(SPECTRUM_PIXELS / max(1.0, pixels * kinds))
    count = max(1, min(SPECTRUM_IMAGES, affordable))
    try:
        found = mean_spectra(rows, ImageStore(0), count=count, most=SPECTRUM_SIDE)
    except LyditeError:
        return None
    return found


def _pixels(row: Row) -> int:
    """Return how many pixels an image has, 0 where it cannot be read."""
    try:
        info = inspect(row.file)
    except LyditeError:
        return 0
    return info.width * info.height

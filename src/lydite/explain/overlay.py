"""The picture of a patch-score map: colors over the gray image, with a scale. Pillow and numpy.

Blue stands for real and orange for fake, the two hues that people of every color vision tell
apart (the ends of ColorBrewer's RdBu and PuOr); the strength of the color says how sure. Where the
detector cannot tell, the image stays gray.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from lydite.data.preprocess import UInt8
    from lydite.explain.patches import PatchMap

Float64 = NDArray[np.float64]

#: log-odds at which a color is full: p(fake) of 0.02 and 0.98
FULL = 4.0
REAL = (33, 102, 172)
FAKE = (200, 90, 6)
#: share of the full color in the picture
STRENGTH = 0.7
#: the image's grays are moved into this range, so that color shows on black and on white
GRAYS = (48.0, 216.0)
#: places at which no tile looked are darkened to this share
UNSEEN = 0.4
#: longer side of the picture in pixels, at most, and for small images at least
LARGEST, SMALLEST = 1600, 384
SCALE_HEIGHT = 64
SCALE_WIDTH = 320
_TICKS = ((-4.0, "0.02"), (-2.0, "0.12"), (0.0, "0.5"), (2.0, "0.88"), (4.0, "0.98"))


def paint(rgb: UInt8, log_odds: Float64) -> UInt8:
    """Return the gray image under the colors of a map.

    Args:
        rgb: (H, W, 3) uint8.
        log_odds: (H, W) of p(fake), NaN where no tile looked.

    Returns:
        (H, W, 3) uint8.
    """
    luma = np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.float64)
    gray = GRAYS[0] + luma * (GRAYS[1] - GRAYS[0]) / 255
    seen = np.isfinite(log_odds)
    sure = np.where(seen, np.clip(log_odds / FULL, -1, 1), 0.0)
    gray = np.where(seen, gray, UNSEEN * gray)
    color = np.where(sure[..., None] > 0, np.array(FAKE), np.array(REAL))
    share = STRENGTH * np.abs(sure)[..., None]
    return np.rint(gray[..., None] * (1 - share) + color * share).astype(np.uint8)


def overlay(rgb: UInt8, scores: PatchMap, side: tuple[int, int] = (SMALLEST, LARGEST)) -> UInt8:
    """Return an image under its map, without a scale.

    Args:
        rgb: (H, W, 3) uint8, the image of the map.
        scores: the map.
        side: what the longer side of the result must have at least and at most, in pixels; small
            images are enlarged by a whole factor, so that their pixels stay visible.

    Returns:
        (h, w, 3) uint8.
    """
    least, most = side
    longer = max(scores.height, scores.width)
    factor = most / longer if longer > most else max(1, -(-least // longer))
    height, width = (max(1, round(n * factor)) for n in (scores.height, scores.width))
    way = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    small = np.asarray(Image.fromarray(rgb).resize((width, height), way), dtype=np.uint8)
    return paint(small, scores.log_odds((height, width)))


def picture_bytes(rgb: UInt8, scores: PatchMap, caption: str) -> bytes:
    """Return a PNG of an image under its map, with a scale beneath.

    Args:
        rgb: (H, W, 3) uint8, the image of the map.
        scores: the map.
        caption: printed under the scale; ASCII.
    """
    top = overlay(rgb, scores)
    width = max(top.shape[1], SCALE_WIDTH + 40)
    canvas = Image.new("RGB", (width, top.shape[0] + SCALE_HEIGHT), (255, 255, 255))
    canvas.paste(Image.fromarray(top), ((width - top.shape[1]) // 2, 0))
    _draw_scale(canvas, top.shape[0], caption)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def scale_colors(steps: int = 9) -> list[str]:
    """Return the colors of the scale over middle gray as #rrggbb, from real to fake."""
    colors = paint(np.full((1, steps, 3), 128, np.uint8), np.linspace(-FULL, FULL, steps)[None])
    return ["#" + bytes(color).hex() for color in colors[0]]


def _draw_scale(canvas: Image.Image, top: int, caption: str) -> None:
    """Draw the scale from real to fake, what its colors mean, and a caption."""
    left = (canvas.width - SCALE_WIDTH) // 2
    values = np.linspace(-FULL, FULL, SCALE_WIDTH)[None].repeat(12, axis=0)
    bar = paint(np.full((*values.shape, 3), 128, np.uint8), values)
    canvas.paste(Image.fromarray(bar), (left, top + 8))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(11)
    for place, words in _TICKS:
        x = left + round((place + FULL) / (2 * FULL) * (SCALE_WIDTH - 1))
        pen.line((x, top + 20, x, top + 23), fill=(60, 60, 60))
        _centered(pen, x, top + 24, words, font)
    _centered(pen, canvas.width // 2, top + 44, caption, font)


def _centered(
    pen: ImageDraw.ImageDraw,
    x: int,
    y: int,
    words: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    pen.text((x - round(pen.textlength(words, font=font) / 2), y), words, (30, 30, 30), font=font)

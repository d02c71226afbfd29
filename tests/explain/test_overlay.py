"""The picture of a map: its colors mean what the scale says, and it needs no matplotlib."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lydite.card import Preprocess, ScoreMeaning
from lydite.explain.overlay import SCALE_HEIGHT, overlay, paint, picture_bytes, scale_colors
from lydite.explain.patches import PatchMap, patch_map


def made(height: int = 64, width: int = 96) -> tuple[np.ndarray, PatchMap]:
    """Return an image that is dark left and bright right, of which the bright half is fake."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, width // 2 :] = 255

    def logits(batch: np.ndarray) -> np.ndarray:
        mean = batch.mean(axis=(1, 2, 3))
        return np.stack([-3 * mean, 3 * mean], axis=1).astype(np.float32)

    return rgb, patch_map(rgb, Preprocess(size=32), ScoreMeaning(), logits, stride=16)


def test_blue_is_real_orange_is_fake_and_gray_is_neither() -> None:
    gray = np.full((1, 5, 3), 128, np.uint8)
    colors = paint(gray, np.array([[-9.0, -2.0, 0.0, 2.0, 9.0]])).astype(int)[0]
    red, _, blue = colors.T
    assert (blue - red)[:2].min() > 20 and (red - blue)[3:].min() > 20
    assert len(set(colors[2])) == 1
    strength = np.abs(red - blue)
    assert strength[0] > strength[1] and strength[4] > strength[3]


def test_luminance_does_not_decide_between_the_two_colors() -> None:
    """The difference between the hues survives the loss of red or of green cones."""
    ends = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in scale_colors(2)], float)
    blue_against_rest = ends[:, 2] - ends[:, :2].mean(axis=1)
    assert blue_against_rest[0] > 40 and blue_against_rest[1] < -40


def test_places_that_no_tile_saw_are_dark() -> None:
    gray = np.full((1, 2, 3), 200, np.uint8)
    left, right = paint(gray, np.array([[np.nan, 0.0]]))[0].astype(int)
    assert left.max() < 0.5 * right.max() and len(set(left)) == 1


def test_the_map_lies_over_the_image_it_belongs_to() -> None:
    rgb, scores = made()
    kept = rgb.copy()
    top = overlay(rgb, scores).astype(int)
    assert top.shape == (256, 384, 3)
    assert (top[:, :120, 2] > top[:, :120, 0]).all()
    assert (top[:, -120:, 0] > top[:, -120:, 2]).all()
    assert np.array_equal(rgb, kept)


@pytest.mark.parametrize(("shape", "side"), [((64, 96), 384), ((40, 3000), 1600), ((500, 40), 500)])
def test_pictures_are_neither_tiny_nor_huge(shape: tuple[int, int], side: int) -> None:
    rgb, scores = made(*shape)
    assert max(overlay(rgb, scores).shape) == side


def test_the_png_has_a_scale_and_is_the_same_every_time() -> None:
    rgb, scores = made()
    data = picture_bytes(rgb, scores, "what it shows")
    assert data == picture_bytes(rgb, scores, "what it shows")
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("PNG", (384, 256 + SCALE_HEIGHT))
    pixels = np.asarray(image).astype(int)
    assert np.array_equal(pixels[:256], overlay(rgb, scores))
    bar = pixels[256 + 12, 32:352]
    assert bar[0, 2] > bar[0, 0] + 60 and bar[-1, 0] > bar[-1, 2] + 60
    # the words are there
    assert (pixels[256 + 24 :].min(axis=(1, 2)) < 128).sum() > 12

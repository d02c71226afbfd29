"""Distortions: Pillow's arithmetic, the sizes that were asked for, no surprise at the limits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lydite.data import distort
from lydite.data.distort import cropped, fitted, noisy, recompressed, scaled
from lydite.errors import DecodeError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
IMAGE.setflags(write=False)


@pytest.mark.parametrize(("file_format", "quality"), [("JPEG", 75), ("JPEG", 40), ("WEBP", 80)])
def test_compression_is_a_round_trip_through_a_file(file_format: str, quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, file_format, quality=quality)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    assert np.array_equal(recompressed(IMAGE, quality, file_format), expected)  # type: ignore[arg-type]


def test_scaling_is_pillows_and_keeps_the_new_size() -> None:
    expected = np.asarray(Image.fromarray(IMAGE).resize((45, 30), Image.Resampling.BICUBIC))
    assert np.array_equal(scaled(IMAGE, 0.75), expected)
    assert scaled(IMAGE, 2).shape == (80, 120, 3)
    assert scaled(IMAGE[:1, :1], 0.1).shape == (1, 1, 3)


def test_nothing_to_do_changes_nothing() -> None:
    assert scaled(IMAGE, 1.0) is IMAGE
    assert fitted(IMAGE, 60) is IMAGE
    assert np.array_equal(cropped(IMAGE, 1.0), IMAGE)


def test_fitting_binds_the_longest_side_only() -> None:
    assert fitted(IMAGE, 30).shape == (20, 30, 3)
    assert fitted(IMAGE.transpose(1, 0, 2), 30).shape == (30, 20, 3)
    for most in range(16, 60):
        assert max(fitted(IMAGE, most).shape) == most


def test_a_crop_is_the_middle() -> None:
    assert np.array_equal(cropped(IMAGE, 0.8), IMAGE[4:36, 6:54])
    assert cropped(IMAGE[:3, :3], 0.1).shape == (1, 1, 3)


def test_noise_is_gaussian_of_its_strength_and_saturates() -> None:
    gray = np.full((200, 200, 3), 128, dtype=np.uint8)
    change = noisy(gray, 5, np.random.default_rng(1)).astype(float) - gray
    # rounding to whole levels adds a variance of 1/12
    assert change.std() == pytest.approx(np.sqrt(25 + 1 / 12), rel=0.02)
    assert abs(change.mean()) < 0.1
    black = noisy(gray * 0, 5, np.random.default_rng(1))
    assert black.min() == 0
    assert black.max() < 40


def test_what_cannot_be_made_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distort, "MAX_PIXELS", 5000)
    with pytest.raises(DecodeError, match="Scaled to 120x80") as caught:
        scaled(IMAGE, 2)
    assert caught.value.code == "too-many-pixels"
    long = np.zeros((1, 16384, 3), dtype=np.uint8)
    with pytest.raises(DecodeError, match="WEBP, whose sides have at most 16383") as caught:
        recompressed(long, 80, "WEBP")
    assert caught.value.code == "too-many-pixels"
    assert recompressed(long, 80).shape == long.shape

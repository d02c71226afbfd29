"""Degraded copies: deterministic, of the same shape, only what was asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lydite.data.distort import blurred, noisy, recompressed, rescaled, scaled
from lydite.training.degrade import Degrade

CROP = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_every_degradation_loses_detail() -> None:
    for copy in (blurred(CROP, 1.0), rescaled(CROP, 0.5)):
        assert copy.shape == CROP.shape
        assert copy.astype(float).std() < 0.8 * CROP.astype(float).std()


def test_jpeg_is_pillows() -> None:
    buffer = io.BytesIO()
    Image.fromarray(CROP).save(buffer, "JPEG", quality=50)
    assert np.array_equal(recompressed(CROP, 50), np.asarray(Image.open(buffer)))


def test_webp_is_pillows() -> None:
    buffer = io.BytesIO()
    Image.fromarray(CROP).save(buffer, "WEBP", quality=80)
    assert np.array_equal(recompressed(CROP, 80, "WEBP"), np.asarray(Image.open(buffer)))


def test_noise_has_its_deviation_and_stays_a_picture() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    noise = noisy(gray, 6.0, np.random.default_rng(0)).astype(float) - 128
    assert noise.std() == pytest.approx(6.0, rel=0.05)
    assert noise.mean() == pytest.approx(0.0, abs=0.2)
    white = noisy(np.full_like(gray, 255), 6.0, np.random.default_rng(0))
    assert white.max() == 255
    assert white.min() > 200


def test_newer_degradations_leave_older_entries_and_draws_as_they_were() -> None:
    older = Degrade(jpeg=0.5, resize=0.5)
    names = {"jpeg", "jpeg_quality", "blur", "blur_radius", "resize", "resize_scale"}
    assert set(older.model_dump(mode="json")) == names
    assert set(Degrade(webp=0.5).model_dump(mode="json")) == names | {"webp"}
    newer = Degrade(jpeg=0.5, resize=0.5, webp=1e-9)
    assert set(Degrade(scale=0.5).model_dump(mode="json")) == names | {"scale"}
    for seed in range(8):
        one, two = (d.apply(CROP, np.random.default_rng(seed)) for d in (older, newer))
        assert np.array_equal(one, two)


def test_blocks_are_of_something_that_has_some() -> None:
    with pytest.raises(ValidationError, match="`jpeg_grid` is for `jpeg` and `webp`"):
        Degrade(scale=0.5, jpeg_grid="image")
    names = {"jpeg", "jpeg_quality", "blur", "blur_radius", "resize", "resize_scale"}
    assert set(Degrade(jpeg=0.5, jpeg_grid="image").model_dump()) == names | {"jpeg_grid"}


def test_equal_draws_give_equal_copies() -> None:
    degrade = Degrade(jpeg=1.0, blur=0.5, resize=0.5)
    one, again = (degrade.apply(CROP, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, degrade.apply(CROP, np.random.default_rng(4)))


def test_probabilities_are_kept() -> None:
    degrade = Degrade(resize=0.25, resize_scale=(0.5, 0.6))
    changed = [
        not np.array_equal(CROP, degrade.apply(CROP, np.random.default_rng(n))) for n in range(400)
    ]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.08)


def test_scaled_copies_are_what_a_scaled_image_shows() -> None:
    """Not down and up again: the copy's pixels are those of the smaller image."""
    ramp = np.add.outer(np.arange(128), np.arange(128))
    image = np.repeat((128 + 100 * np.sin(ramp / 5))[..., None], 3, axis=2).astype(np.uint8)
    degrade = Degrade(scale=1.0, scale_factor=(0.5, 0.5))
    assert degrade.view(32) == 64
    wanted = scaled(image, 0.5)[:32, :32].astype(float)
    for seed in range(6):
        copy = degrade.apply(image[:64, :64], np.random.default_rng(seed), 32)
        # filters differ a little, and at the edge of the view
        assert np.abs(copy[:-4, :-4] - wanted[:-4, :-4]).mean() < 4
        assert np.abs(copy[:-4, :-4] - image[: 32 - 4, : 32 - 4].astype(float)).mean() > 20


def test_larger_scales_need_no_more_of_the_image() -> None:
    degrade = Degrade(scale=1.0, scale_factor=(1.2, 2.0))
    assert degrade.view(32) == 32
    copy = degrade.apply(CROP, np.random.default_rng(0))
    assert copy.shape == CROP.shape
    assert copy.astype(float).std() < 0.9 * CROP.astype(float).std()


def test_windows_stay_within_the_view_and_around_the_crop() -> None:
    rng = np.random.default_rng(0)
    for window in (20, 64, 100, 112):
        starts = [Degrade._start(30, 64, window, 112, rng) for _ in range(300)]
        assert min(starts) >= 0
        assert max(starts) + window <= 112
        if window >= 64:
            assert all(start <= 30 and start + window >= 94 for start in starts)
        else:
            assert all(start >= 30 and start + window <= 94 for start in starts)
    assert {Degrade._start(30, 64, 100, 112, rng) for _ in range(300)} == set(range(13))


def test_full_quality_of_scale_is_no_change() -> None:
    copy = Degrade(resize=1.0, resize_scale=(1.0, 1.0)).apply(CROP, np.random.default_rng(0))
    assert np.array_equal(copy, CROP)
    assert copy is not CROP


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "at least one"),
        ({"jpeg": 0.5, "jpeg_quality": (90, 60)}, "ascend"),
        ({"resize": 0.5, "resize_scale": (0.9, 0.5)}, "ascend"),
        ({"webp": 0.5, "webp_quality": (90, 60)}, "ascend"),
        ({"scale": 0.5, "scale_factor": (0.9, 0.5)}, "ascend"),
        ({"scale": 0.5, "scale_factor": (0.1, 0.5)}, "scale_factor"),
        ({"jpeg": 0.5, "scale_place": "anywhere"}, "`scale_place` is for `scale`"),
        ({"haze": 0.5}, "haze"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Degrade.model_validate(options)

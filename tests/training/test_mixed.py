"""Mixed batches: labeled first, unlabeled last, all from the step's number alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lydite.card import Architecture, Preprocess
from lydite.data.distort import recompressed
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.data.preprocess import grow
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.recipe import parse_step
from lydite.training.batches import Batches
from lydite.training.degrade import Degrade
from lydite.training.mixed import MixedBatches, labeled_count
from lydite.training.objectives import UNLABELED
from lydite.training.settings import TrainSettings


def make(manifest: Manifest, *, share: float = 0.5, **options: object) -> MixedBatches:
    degrade = options.pop("degrade", None)
    assert degrade is None or isinstance(degrade, Degrade)
    settings = TrainSettings.model_validate({"batch": 8, **options})
    return MixedBatches(
        manifest.select(split="train", domain="one"),
        Preprocess(size=64),
        settings,
        3,
        ImageStore(),
        unlabeled=list(manifest.select(split="train", domain="two").rows()),
        share=share,
        degrade=degrade,
    )


def test_labeled_images_are_those_of_plain_batches(tiny_manifest: Manifest) -> None:
    mixed = make(tiny_manifest)
    plain = Batches(
        tiny_manifest.select(split="train", domain="one"),
        Preprocess(size=64),
        TrainSettings(batch=4),
        3,
        ImageStore(),
    )
    for step in range(3):
        got = mixed.fetch(mixed.positions(step))
        crops, targets = plain.load(plain.positions(step))
        np.testing.assert_array_equal(got.crops[:4], crops)
        np.testing.assert_array_equal(got.targets, [*targets, *[UNLABELED] * 4])


def test_each_unlabeled_image_comes_once_an_epoch(tiny_manifest: Manifest) -> None:
    mixed = make(tiny_manifest)
    files = [mixed.file_at(p) for step in range(18) for p in mixed.positions(step) if p % 8 >= 4]
    counts = Counter(files)
    assert len(counts) == len(mixed.unlabeled) == 24
    assert set(counts.values()) == {3}
    assert files[:24] != files[24:48]


def test_batches_depend_on_the_step_alone(tiny_manifest: Manifest) -> None:
    one, other = (make(tiny_manifest, degrade=Degrade(jpeg=0.5, blur=0.5)) for _ in range(2))
    for step in range(7):
        one.fetch(one.positions(step))
    a, b = one.fetch(one.positions(7)), other.fetch(other.positions(7))
    for name in ("crops", "clean", "targets"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.crops, a.clean)


def test_devices_share_one_batch(tiny_manifest: Manifest) -> None:
    mixed = make(tiny_manifest, degrade=Degrade(jpeg=0.5))
    whole = mixed.fetch(mixed.positions(5))
    for rank in range(2):
        part = mixed.fetch(mixed.positions(5, rank, 2))
        ours = np.arange(len(whole.targets)) // 2 % 2 == rank
        np.testing.assert_array_equal(part.crops, whole.crops[ours])
        np.testing.assert_array_equal(part.targets, whole.targets[ours])


def test_degrading_leaves_the_clean_crops_as_they_were(tiny_manifest: Manifest) -> None:
    plain, degraded = make(tiny_manifest), make(tiny_manifest, degrade=Degrade(jpeg=1.0))
    a, b = plain.fetch(plain.positions(2)), degraded.fetch(degraded.positions(2))
    assert a.clean is a.crops
    np.testing.assert_array_equal(a.clean, b.clean)
    assert all(not np.array_equal(x, y) for x, y in zip(b.crops, b.clean, strict=True))


@pytest.mark.parametrize("crop", ["random", "grid"])
def test_scaled_copies_show_more_of_the_image(tiny_manifest: Manifest, crop: str) -> None:
    degrade = Degrade(scale=1.0, scale_factor=(0.5, 0.5))
    mixed = make(tiny_manifest, degrade=degrade, crop=crop)
    assert mixed.view == 128
    got = mixed.fetch(mixed.positions(1))
    assert got.crops.shape == got.clean.shape == (8, 64, 64, 3)
    # the upper left quarter of the copy is the whole crop, smaller
    smaller = got.clean.reshape(8, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(got.crops[:, :30, :30] - smaller[:, :30, :30]).mean() < 6
    assert np.abs(got.crops[:, :30, :30] - got.clean[:, :30, :30].astype(float)).mean() > 15


def test_clean_crops_stay_on_the_grid_when_their_views_are_mirrored(
    tiny_manifest: Manifest,
) -> None:
    mixed = make(tiny_manifest, degrade=Degrade(scale=0.5, scale_factor=(0.6, 1.0)), crop="grid")
    assert mixed.view == 112
    assert make(tiny_manifest, degrade=Degrade(scale=0.5, scale_factor=(0.6, 1.0))).view == 107
    assert make(tiny_manifest, degrade=Degrade(jpeg=0.5), crop="grid").view == 64
    images = [grow(ImageStore().get(row), mixed.view) for row in mixed.rows]
    got = mixed.fetch(mixed.positions(2))
    for crop in got.clean[: mixed.labeled]:
        places = [
            (y, x)
            for rgb in images
            for shown in (crop, crop[:, ::-1])
            for y in range(0, rgb.shape[0] - 63, 8)
            for x in range(0, rgb.shape[1] - 63, 8)
            if np.array_equal(rgb[y : y + 64, x : x + 64], shown)
        ]
        assert places


@pytest.mark.parametrize("crop", ["random", "grid"])
def test_blocks_of_a_second_jpeg_lie_as_in_the_whole_image(
    tiny_manifest: Manifest, crop: str
) -> None:
    """Copies are crops of the image as Pillow saves it anew, but for the edges of their view."""
    degrade = Degrade(jpeg=1.0, jpeg_quality=(60, 60), jpeg_grid="image")
    mixed = make(tiny_manifest, degrade=degrade, crop=crop, flip=False)
    assert mixed.view == 80
    images = [grow(ImageStore().get(row), mixed.view) for row in mixed.rows]
    places = []
    got = mixed.fetch(range(0, 400, 8))
    for clean, copy in zip(got.clean, got.crops, strict=True):
        found = [
            (rgb, y, x)
            for rgb in images
            for y in range(rgb.shape[0] - 63)
            for x in range(rgb.shape[1] - 63)
            if np.array_equal(rgb[y, x : x + 64], clean[0])
            and np.array_equal(rgb[y : y + 64, x : x + 64], clean)
        ]
        rgb, y, x = found[0]
        whole = recompressed(rgb, 60)[y : y + 64, x : x + 64].astype(float)
        elsewhere = recompressed(clean, 60).astype(float)
        assert np.abs(copy - whole).mean() < 0.5
        if y % 16 or x % 16:
            assert np.abs(elsewhere - whole).mean() > 1
        places.append((y % 16, x % 16))
    step = 8 if crop == "grid" else 1
    assert all(y % step == x % step == 0 for y, x in places)
    assert len(set(places)) > (2 if crop == "grid" else 20)


@pytest.mark.parametrize("grid", ["crop", "image"])
def test_crops_come_from_everywhere_if_they_may(tiny_manifest: Manifest, grid: str) -> None:
    """In an image as large as the view, crops from its corner leave most of it out."""

    def seen(place: str) -> tuple[MixedBatches, np.ndarray]:
        degrade = Degrade.model_validate(
            {"jpeg": 0.1, "jpeg_grid": grid, "scale": 0.5, "scale_factor": (0.6, 1.0)}
            | {"scale_place": place}
        )
        mixed = make(tiny_manifest, degrade=degrade, flip=False)
        shown = np.zeros((mixed.view, mixed.view))
        for number in range(200):
            down, right = mixed._offset((5, number))
            shown[down : down + 64, right : right + 64] += 1
        return mixed, shown

    mixed, shown = seen("anywhere")
    assert mixed.view == (112 if grid == "image" else 107)
    for axis in (0, 1):
        assert (shown.sum(axis)[2:-2] > 0).all()
        assert (seen("corner")[1].sum(axis)[80:] == 0).all()
    got = mixed.fetch(mixed.positions(3))
    assert got.crops.shape == got.clean.shape == (8, 64, 64, 3)


def test_scaled_copies_lie_around_their_crop(tiny_manifest: Manifest) -> None:
    """Where the copy shows twice the crop's side, the crop is found somewhere in it, smaller."""
    degrade = Degrade(scale=1.0, scale_factor=(0.5, 0.5), scale_place="anywhere")
    mixed = make(tiny_manifest, degrade=degrade)
    got = mixed.fetch(mixed.positions(1))
    smaller = got.clean.reshape(8, 32, 2, 32, 2, 3).mean((2, 4))[:, 2:-2, 2:-2]
    for copy, small, clean in zip(got.crops, smaller, got.clean, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(copy.astype(float), (28, 28, 3))
        away = np.abs(windows[:, :, 0] - small).mean((2, 3, 4))
        assert away.min() < 8
        # and not by chance: another place of the copy, or the crop unscaled, is far from it
        assert np.median(away) > 2 * away.min()
        assert np.abs(copy - clean.astype(float)).mean() > 2 * away.min()


def test_blocks_are_kept_wherever_a_crop_lies(tiny_manifest: Manifest) -> None:
    degrade = Degrade(
        jpeg=1.0, jpeg_quality=(60, 60), jpeg_grid="image", scale=1e-9, scale_place="anywhere"
    )
    mixed = make(tiny_manifest, degrade=degrade, flip=False, crop="grid")
    row = mixed.rows[0]
    rgb = grow(ImageStore().get(row), mixed.view)[: mixed.view, : mixed.view]
    whole = recompressed(rgb, 60).astype(float)
    for down, right in ((0, 0), (8, 16), (24, 32), (32, 8)):
        copy = degrade.apply(rgb, np.random.default_rng(0), 64, (down, right))
        assert np.abs(copy - whole[down : down + 64, right : right + 64]).mean() < 0.5


@pytest.mark.parametrize(("fit", "crop"), [("resize", "random"), ("tiles", "tiles")])
def test_blocks_cannot_be_kept_where_nobody_knows_them(
    tiny_manifest: Manifest, fit: str, crop: str
) -> None:
    with pytest.raises(ConfigError, match="`jpeg_grid: image` in `degrade` needs crops"):
        MixedBatches(
            tiny_manifest.select(split="train", domain="one"),
            Preprocess.model_validate({"size": 64, "fit": fit}),
            TrainSettings.model_validate({"batch": 4, "crop": crop}),
            3,
            ImageStore(),
            degrade=Degrade(jpeg=0.5, jpeg_grid="image"),
        )


@pytest.mark.parametrize(
    ("fit", "crop", "why"),
    [("resize", "random", "before they are cut"), ("tiles", "tiles", "more of an image")],
)
def test_what_is_not_cut_freely_is_not_scaled(
    tiny_manifest: Manifest, fit: str, crop: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        MixedBatches(
            tiny_manifest.select(split="train", domain="one"),
            Preprocess.model_validate({"size": 64, "fit": fit}),
            TrainSettings.model_validate({"batch": 4, "crop": crop}),
            3,
            ImageStore(),
            degrade=Degrade(scale=0.5),
        )


@pytest.mark.parametrize("kind", ["train", "finetune", "adapt", "qat", "distill"])
def test_a_plan_already_refuses_to_scale_what_is_not_cut_freely(kind: str) -> None:
    needs = {"adapt": {"place": "middle"}, "distill": {"student": "lydite-small"}}
    degrade = {"degrade": {"scale": 0.5}}
    detector = Detector.start(Architecture(network="lydite-small", input_size=64))
    step = parse_step({kind: needs.get(kind, {}) | degrade})
    assert step.outline(detector).card.preprocess.fit == "tiles"
    with pytest.raises(ConfigError, match="more of an image"):
        parse_step({kind: needs.get(kind, {}) | degrade | {"crop": "tiles"}}).outline(detector)


@pytest.mark.parametrize(
    ("batch", "share", "labeled"),
    [(32, 0.5, 16), (8, 0.3, 6), (8, 0.01, 6), (8, 0.99, 2), (3, 0.5, 2), (9, 0.1, 8)],
)
def test_labeled_images_are_even_in_number(batch: int, share: float, labeled: int) -> None:
    assert labeled_count(batch, share) == labeled


def test_a_batch_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Got 2\. Use at least 3"):
        labeled_count(2, 0.5)

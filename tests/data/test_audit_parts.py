"""The parts of the audit against independent references."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from sklearn.metrics import roc_auc_score

from lydite.data.audit.confound import bootstrap_auc, enough, separability, thin, weighted_auc
from lydite.data.audit.hashing import WINDOWS, cut, hash_image, phash_batch
from lydite.data.audit.history import (
    block_dct,
    comb_strength,
    double_quantization,
    grid_strength,
)
from lydite.data.audit.near import align, detail_correlation, standardize
from lydite.data.audit.page import html_page
from lydite.data.audit.report import AuditReport, Confound, Finding, NearDuplicate


def smooth(seed: int, side: int = 128, blobs: int = 20) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (blobs, blobs), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed + 1).normal(0, 6, (side, side))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return an image's pixels after JPEG, and the table, row by row."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    opened = Image.open(stream)
    return np.asarray(opened, dtype=np.float64), tuple(opened.quantization[0])


def test_block_dct_is_the_dct_of_each_block() -> None:
    gray = np.random.default_rng(0).uniform(0, 255, (20, 27))
    blocks = block_dct(gray)
    assert blocks.shape == (6, 8, 8)
    expected = dctn(gray[8:16, 16:24] - 128, norm="ortho")
    np.testing.assert_allclose(blocks[5], expected, atol=1e-9)


def test_batched_hash_equals_the_library() -> None:
    images = [smooth(seed, 32) for seed in range(30)]
    expected = [imagehash.phash(image).hash.ravel() for image in images]
    packed = phash_batch(np.stack([np.asarray(image) for image in images]))
    bits = np.unpackbits(packed.view(np.uint8).reshape(30, 8), axis=1).astype(bool)
    np.testing.assert_array_equal(bits, np.stack(expected))


def test_windows_are_inside_and_the_first_is_everything() -> None:
    assert WINDOWS[0] == (0.0, 0.0, 1.0, 1.0)
    assert len(WINDOWS) == len(set(WINDOWS)) == 42
    assert all(0 <= a < c <= 1 + 1e-9 and 0 <= b < d <= 1 + 1e-9 for a, b, c, d in WINDOWS)
    assert cut(smooth(0), WINDOWS[-1]).size == (32, 32)


def test_a_flat_image_has_nothing_to_compare() -> None:
    flat, busy = np.full((50, 70, 3), 90, np.uint8), np.asarray(smooth(1).convert("RGB"))
    assert not hash_image(flat)[3]
    assert hash_image(busy)[3]


def test_a_window_is_found_from_nearby() -> None:
    image = smooth(2, 64, blobs=7)
    truth = (0.15, 0.1, 0.9, 0.85)
    wanted = standardize(cut(image, truth))
    box, correlation = align(wanted, image, (0.1, 0.14, 0.86, 0.9))
    assert correlation > 0.99
    np.testing.assert_allclose(box, truth, atol=0.01)
    other = smooth(9, 64, blobs=7)
    assert align(wanted, other, (0.1, 0.14, 0.86, 0.9))[1] < 0.8


def test_pictures_that_share_only_their_shading_differ_in_detail() -> None:
    down, across = np.mgrid[0:32, 0:32]
    rng = np.random.default_rng(0)
    first, second = (down + across + rng.normal(0, 2, (32, 32)) for _ in range(2))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9
    assert detail_correlation(first, second) < 0.5
    assert detail_correlation(first, 2 * first + 3) == pytest.approx(1)


def test_block_edges_are_seen_on_their_own_grid() -> None:
    pixels, _ = jpeg(smooth(3), 40)
    own, other = grid_strength(pixels)
    assert own > 1.3 > other
    shifted_own, shifted_other = grid_strength(pixels[:, 3:])
    assert shifted_other > 1.3 > shifted_own
    assert max(grid_strength(np.asarray(smooth(3), np.float64))) < 1.2


def test_a_second_jpeg_leaves_a_comb() -> None:
    image = smooth(4, 256)
    once, table = jpeg(image, 90)
    twice, table_twice = jpeg(Image.fromarray(jpeg(image, 55)[0].astype(np.uint8)), 90)
    assert table == table_twice
    steps = np.asarray(table, np.float64).reshape(8, 8)
    single = double_quantization(block_dct(once), steps)
    double = double_quantization(block_dct(twice), steps)
    assert double[0] > 2 * single[0]


def test_pixels_that_were_a_jpeg_cluster_at_its_steps() -> None:
    image = smooth(5)
    assert comb_strength(block_dct(jpeg(image, 60)[0])) > 0.8
    assert comb_strength(block_dct(np.asarray(image, np.float64))) < 0.4


def test_weighted_auc_equals_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 200)
    scores = np.round(rng.normal(target, 1.5), 1)
    weights = rng.integers(0, 4, (5, 200)).astype(np.float64)
    expected = [roc_auc_score(target, scores, sample_weight=weight) for weight in weights]
    np.testing.assert_allclose(weighted_auc(scores, target, weights), expected, atol=1e-12)
    assert np.isnan(weighted_auc(scores, target, (target == 1).astype(float)[None]))[0]


def test_interval_widens_when_images_come_in_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 10)
    target = (groups % 2).astype(np.int64)
    scores = rng.normal(0, 1, 40)[groups] + target
    alone = bootstrap_auc(scores, target, np.arange(400), 0)
    together = bootstrap_auc(scores, target, groups, 0)
    assert alone.value == together.value
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_shuffled_labels_give_chance() -> None:
    rng = np.random.default_rng(2)
    target = rng.permutation(np.arange(400) % 2).astype(np.int64)
    lows = []
    for seed in range(5):
        auc = separability(rng.normal(size=(400, 4)), target, np.arange(400), seed)
        assert auc.low < 0.5 < auc.high + 0.05
        lows.append(auc.low)
    assert max(lows) < 0.6


def test_groups_are_never_learned_from_and_asked_about() -> None:
    """A property that names the group tells nothing about other groups."""
    groups = np.repeat(np.arange(60), 8)
    target = np.random.default_rng(3).permutation(np.arange(60) % 2)[groups].astype(np.int64)
    auc = separability(groups[:, None].astype(float), target, groups)
    assert auc.low < 0.6


def test_constant_properties_are_exactly_chance() -> None:
    target = (np.arange(100) % 2).astype(np.int64)
    for value in (1.0, np.nan):
        auc = separability(np.full((100, 2), value), target, np.arange(100))
        assert (auc.value, auc.low, auc.high) == (0.5, 0.5, 0.5)


def test_too_few_images_or_groups_say_nothing() -> None:
    target = (np.arange(60) % 2).astype(np.int64)
    assert enough(target, np.arange(60))
    assert not enough(target, np.arange(60) % 8)
    assert not enough(target[:30], np.arange(30))


def test_thinning_keeps_groups_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lydite.data.audit.confound.MOST_IMAGES", 50)
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 5))
    kept = thin(groups, 0)
    assert len(kept) == 50
    assert len(np.unique(groups[kept])) == 10


def test_the_page_holds_hostile_names_inert() -> None:
    name = '<script>alert("x")</script>\n&.png'
    report = AuditReport(
        images=2,
        manifest_digest="d" * 64,
        counts=(),
        findings=(Finding("near-duplicate", "error", 1, "One pair.", (name,)),),
        duplicates=(NearDuplicate(name, "b.png", "same", 0, 1.0),),
        confounds=(Confound(name, "size", 0.9, 0.8, 0.95, 100, warning=True),),
    )
    page = html_page(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "default-src 'none'" in page

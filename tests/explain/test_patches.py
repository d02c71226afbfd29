"""Patch-score maps of a hand-made network whose answer to every tile is known."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.packs import hand_made_pack
from lydite.card import ONNX_NAME, Card, Preprocess, ScoreMeaning, file_entry
from lydite.errors import ConfigError, DecodeError
from lydite.explain.patches import fitting_stride, patch_map, stride_offsets
from lydite.predictor import Predictor

WEIGHT = np.array([[0.5, -1.0, 0.25], [-0.75, 2.0, 1.0]])
BIAS = np.array([0.1, -0.6])
SIZE = 32
#: a photograph of nothing: noise around middle gray, which the hand-made network calls real
PHOTO = np.random.default_rng(3).integers(108, 148, (120, 170, 3), dtype=np.uint8)
#: where a generated patch lies in it: top, left, side
PATCH = (56, 88, 40)


@pytest.fixture
def predictor(tiny_detector: Path) -> Predictor:
    return Predictor.open(tiny_detector, threads=1)


def forged() -> np.ndarray:
    """Return the photograph with a patch that the hand-made network calls fake."""
    top, left, side = PATCH
    image = PHOTO.copy()
    image[top : top + side, left : left + side] = (128, 255, 255)
    return image


def z_by_hand(tile: np.ndarray) -> float:
    logits = WEIGHT @ np.abs(tile / 127.5 - 1).mean(axis=(0, 1)) + BIAS
    return float(logits[1] - logits[0])


@pytest.mark.parametrize("length", [32, 33, 63, 64, 65, 100, 641])
@pytest.mark.parametrize("stride", [1, 7, 16, 32, 50])
def test_offsets_reach_both_edges_and_leave_no_wider_gap(length: int, stride: int) -> None:
    found = np.array(stride_offsets(length, 32, stride))
    assert (found[0], found[-1]) == (0, length - 32)
    gaps = np.diff(found)
    assert (gaps <= stride).all() and (gaps >= 1).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    # one tile less would be too few
    assert (len(found) - 2) * stride < length - 32 or len(found) == 1


def test_every_tile_is_the_networks_answer_to_its_pixels(predictor: Predictor) -> None:
    image = forged()
    found = predictor.explain(image, stride=20).map
    assert found.z.shape == (len(found.rows), len(found.columns)) == (6, 8)
    for r, y in enumerate(found.rows):
        for c, x in enumerate(found.columns):
            expected = z_by_hand(image[y : y + SIZE, x : x + SIZE])
            assert found.z[r, c] == pytest.approx(expected, abs=1e-5)
    assert found.p_fake == pytest.approx(1 / (1 + np.exp(-(found.z + 0.2) / 0.5)))


@pytest.mark.parametrize("shape", [(120, 170), (32, 32), (20, 90), (64, 33)])
def test_with_the_cards_tiles_the_mean_is_the_score(
    predictor: Predictor, shape: tuple[int, int]
) -> None:
    image = forged()[: shape[0], : shape[1]]
    found = predictor.explain(image, stride="card")
    assert found.map.mean == pytest.approx(predictor.predict(image).score, abs=1e-6)
    assert found.prediction == predictor.predict(image)


def test_the_prediction_beside_a_map_is_always_the_prediction(predictor: Predictor) -> None:
    for stride in (None, 5, "card"):
        assert predictor.explain(PHOTO, stride=stride).prediction == predictor.predict(PHOTO)


def test_a_planted_patch_lights_up_where_it_lies(predictor: Predictor) -> None:
    top, left, side = PATCH
    before = predictor.explain(PHOTO, stride=8).map
    after = predictor.explain(forged(), stride=8).map
    assert (before.p_fake < 0.4).all()
    heat = after.log_odds()
    assert heat.shape == PHOTO.shape[:2]
    inside = np.zeros(heat.shape, bool)
    inside[top : top + side, left : left + side] = True
    y, x = np.unravel_index(np.argmax(heat), heat.shape)
    assert inside[y, x] and heat[inside].mean() > 0
    # tiles that do not touch it say what they said before
    far = np.ones(heat.shape, bool)
    far[top - SIZE : top + side + SIZE, left - SIZE : left + side + SIZE] = False
    assert far.any() and np.array_equal(heat[far], before.log_odds()[far])


def test_heat_is_the_mean_of_the_tiles_over_each_pixel(predictor: Predictor) -> None:
    found = predictor.explain(forged(), stride=11).map
    total, count = np.zeros(PHOTO.shape[:2]), np.zeros(PHOTO.shape[:2])
    for r, y in enumerate(found.rows):
        for c, x in enumerate(found.columns):
            total[y : y + SIZE, x : x + SIZE] += found.z[r, c]
            count[y : y + SIZE, x : x + SIZE] += 1
    assert count.min() >= 1
    assert found.heat() == pytest.approx(total / count, abs=1e-9)
    # a smaller picture holds the values at the centers of its cells
    assert found.heat((40, 34)) == pytest.approx((total / count)[1::3, 2::5], abs=1e-9)


def test_where_no_tile_looks_there_is_no_heat(predictor: Predictor) -> None:
    heat = predictor.explain(PHOTO, stride="card").map.heat()
    seen = np.isfinite(heat)
    assert seen[:32, :32].all() and seen[-32:, -32:].all() and not seen[40:80, 40:120].any()


def test_a_small_image_is_one_mirrored_tile(predictor: Predictor) -> None:
    image = forged()[:20, :24]
    found = predictor.explain(image).map
    assert found.z.shape == (1, 1) and found.heat().shape == (20, 24)
    assert np.isfinite(found.heat()).all()
    with pytest.raises(DecodeError, match="at least 16"):
        predictor.explain(image[:10])


def test_one_map_for_every_kind_of_source(predictor: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(forged()).save(stream, "PNG", exif=exif.tobytes())
    data = stream.getvalue()
    file = tmp_path / "turned.png"
    file.write_bytes(data)
    upright = np.ascontiguousarray(np.rot90(forged(), -1))
    kept = upright.copy()
    expected = predictor.explain(upright).map
    for source in (file, str(file), data, Image.open(io.BytesIO(data)), Image.fromarray(upright)):
        assert np.array_equal(predictor.explain(source).map.z, expected.z)
    assert (expected.height, expected.width) == (170, 120)
    assert file.read_bytes() == data and np.array_equal(upright, kept)


def test_the_usual_stride_is_half_a_tile_until_there_are_too_many() -> None:
    meaning, preprocess = ScoreMeaning(), Preprocess(size=32)
    seen: list[int] = []

    def logits(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return np.zeros((len(batch), 2), np.float32)

    assert patch_map(np.zeros((100, 100, 3), np.uint8), preprocess, meaning, logits).stride == 16
    large = patch_map(np.zeros((3000, 900, 3), np.uint8), preprocess, meaning, logits)
    assert large.stride == 32 and np.isfinite(large.heat((300, 90))).all()
    assert max(seen) <= 256
    assert fitting_stride(3000, 900, 32, 100) > 32
    stride = fitting_stride(3000, 900, 32, 500)
    assert len(stride_offsets(3000, 32, stride)) * len(stride_offsets(900, 32, stride)) <= 500


@pytest.mark.parametrize("stride", [0, -3, 1.5, True, "half"])
def test_strides_that_are_none_are_refused(predictor: Predictor, stride: object) -> None:
    with pytest.raises(ConfigError, match="`stride` must be 1 pixel or more"):
        predictor.explain(PHOTO, stride=stride)  # type: ignore[arg-type]


def test_too_many_tiles_are_refused_before_any_work(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="at most 65,536 are allowed"):
        predictor.explain(np.zeros((400, 400, 3), np.uint8), stride=1)


def test_a_detector_that_scales_has_one_place(tiny_card: Card) -> None:
    preprocess = Preprocess(size=32, fit="resize")

    def logits(batch: np.ndarray) -> np.ndarray:
        return np.array([[1.0, 3.0]] * len(batch), np.float32)

    found = patch_map(PHOTO, preprocess, tiny_card.score, logits)
    assert found.z.tolist() == [[2.0]] and found.tile == PHOTO.shape[:2]
    assert (found.heat() == 2.0).all()
    with pytest.raises(ConfigError, match="one scaled copy"):
        patch_map(PHOTO, preprocess, tiny_card.score, logits, stride=16)


def test_with_packs_the_map_is_of_the_variant_that_speaks(
    make_onnx: Callable[..., Any], tiny_card: Card
) -> None:
    onnx = make_onnx().SerializeToString()
    full = make_onnx(weight=3 * WEIGHT).SerializeToString()
    card = tiny_card.model_copy(update={"files": {ONNX_NAME: file_entry(onnx)}})
    predictor = Predictor.from_bytes(card, onnx, packs=[hand_made_pack(card, onnx, full)])
    gray = np.full((40, 40, 3), 128, np.uint8)
    for image, speaker, times in ((forged()[56:96, 88:128], "one", 3), (gray, "base", 1)):
        found = predictor.explain(image, stride="card")
        assert found.prediction.by == speaker
        assert found.map.mean == pytest.approx(found.prediction.score, abs=1e-6)
        corners = [(y, x) for y in (0, 8) for x in (0, 8)]
        base = np.reshape(
            [z_by_hand(image[y : y + SIZE, x : x + SIZE]) for y, x in corners], (2, 2)
        )
        by_hand = times * base - (times - 1) * (BIAS[1] - BIAS[0])
        assert found.map.z == pytest.approx(by_hand, abs=1e-4)
        meaning = found.map.meaning
        assert meaning.threshold == (0.3 if speaker == "one" else -0.2)

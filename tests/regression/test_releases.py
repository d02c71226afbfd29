"""Detectors that earlier releases wrote still load, and answer as they did then.

Each folder under `detectors/VERSION` was written by that release, together with `golden.json`: its
scores of the images that `pictures` draws. Folders are added with every release, never changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import lydite
from lydite.card import load_card
from lydite.data.preprocess import prepare, score_of
from lydite.predictor import Predictor

DETECTORS = sorted((Path(__file__).parent / "detectors").glob("*/*/card.json"))
TOLERANCE = 1e-5
#: what packs and results know these cards by
DIGESTS = {
    "0.1.0/float": "e13d1842ce43ed695377061d329bcd65fb913d6bfd685fdeaedc2a10ce93821e",
    "0.1.0/int8": "dd9075db06f1c34d75a0096ac06b9cf0f67df9a6e90d49b80d31b3cb2ede5322",
}


def pictures() -> list[NDArray[np.uint8]]:
    """Return images of several shapes from whole-number arithmetic alone, the same everywhere."""
    found = []
    for number, (height, width) in enumerate([(64, 64), (96, 70), (40, 130)]):
        y, x, c = np.indices((height, width, 3), dtype=np.int64)
        values = (x * (3 + number) + y * (5 - number) + c * 60 + (x * y * (7 + c)) % 41) % 256
        found.append(values.astype(np.uint8))
    return found


def golden(folder: Path) -> list[float]:
    scores: dict[str, list[float]] = json.loads((folder.parent / "golden.json").read_text())
    return scores[folder.name]


def require_as_then(scores: list[float], folder: Path) -> None:
    np.testing.assert_allclose(scores, golden(folder), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("card", DETECTORS, ids=lambda p: "-".join(p.parts[-3:-1]))
def test_a_stored_detector_predicts_as_then(card: Path) -> None:
    predictions = lydite.load(card.parent).predict(pictures())
    scores = [prediction.score for prediction in predictions]
    require_as_then(scores, card.parent)


@pytest.mark.parametrize("card", DETECTORS, ids=lambda p: "-".join(p.parts[-3:-1]))
def test_a_stored_detector_is_rebuilt_and_exported_as_then(card: Path) -> None:
    pytest.importorskip("torch")
    from lydite.detector import Detector
    from lydite.export.onnx import export
    from lydite.export.parity import network_logits

    detector = Detector.load(card.parent)
    again = Predictor.from_bytes(detector.card, export(detector))
    scores = [p.score for p in again.predict(pictures())]
    require_as_then(scores, card.parent)
    if detector.card.quantization is None:
        tiles = [prepare(picture, detector.card.preprocess) for picture in pictures()]
        answers = [score_of(network_logits(detector, [t])) for t in tiles]
        require_as_then(answers, card.parent)


@pytest.mark.parametrize("card", DETECTORS, ids=lambda p: "-".join(p.parts[-3:-1]))
def test_a_stored_card_has_its_digest_and_its_verdicts(card: Path) -> None:
    found = load_card(card.parent)
    assert found.digest == DIGESTS[f"{card.parts[-3]}/{card.parts[-2]}"]
    # what the card says of the score, spelled out: newer kinds of bands change nothing here
    meaning = json.loads(card.read_text())["score"]
    low, high = meaning["band"]
    for prediction in lydite.load(card.parent).predict(pictures()):
        assert prediction.score is not None
        x = (prediction.score - meaning["threshold"]) / meaning["temperature"]
        p_fake = 1 / (1 + np.exp(-x))
        assert prediction.p_fake == pytest.approx(p_fake, abs=1e-12)
        assert prediction.verdict == (
            "fake" if p_fake > high else "real" if p_fake < low else "unsure"
        )


def test_there_are_detectors_of_every_kind() -> None:
    assert {load_card(path.parent).quantization is None for path in DETECTORS} == {True, False}

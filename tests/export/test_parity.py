"""Parity: rounding passes, anything more is refused, integers are reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lydite.card import Architecture, Quantization, ScoreMeaning
from lydite.data.manifest import from_columns
from lydite.detector import Detector
from lydite.errors import DataError, ParityError
from lydite.export.calibrate import calibrate
from lydite.export.onnx import export, to_onnx
from lydite.export.parity import (
    check_parity,
    compare,
    manifest_tiles,
    require_parity,
    synthetic_tiles,
)
from lydite.files import sha256_file

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [8, 16]})


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector that tells noise from smooth tiles, with a threshold in the middle."""
    made = Detector.start(TINY, seed=0)
    tiles = torch.from_numpy(synthetic_tiles(made, 64, seed=7))
    targets = torch.arange(64) % 4 // 2
    optimizer = torch.optim.Adam(made.network.parameters(), lr=1e-2)
    made.network.train()
    for _ in range(15):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made.network(tiles), targets).backward()
        optimizer.step()
    made.network.eval()
    return made


def test_numbers_by_hand() -> None:
    reference = np.array([[0, 1], [0, -2], [0, 0.00001]], dtype=np.float32)
    answer = np.array([[0, 0.5], [0, 1], [0, -0.00001]], dtype=np.float32)
    parity = compare(reference, answer, 0.0)
    assert (parity.n, parity.flips, parity.firm_flips) == (3, 2, 1)
    assert parity.max_abs == pytest.approx(3)
    assert parity.mean_abs == pytest.approx((0.5 + 3 + 0.00002) / 6)
    assert parity.scale == 2
    assert parity.bound == pytest.approx(2e-4)
    assert parity.flip_share == pytest.approx(2 / 3)
    # the decision turns at the card's threshold, not at zero
    assert compare(reference, answer, 0.75).flips == 2
    assert compare(reference, answer, 5.0).flips == 0


def test_a_float_file_passes(detector: Detector) -> None:
    parity = require_parity(check_parity(detector, export(detector), synthetic_tiles(detector)))
    assert parity.n == 32
    assert parity.max_abs <= parity.bound
    assert not parity.firm_flips


def test_a_file_of_other_weights_is_refused(detector: Detector) -> None:
    other = export(Detector.start(TINY, seed=1))
    with pytest.raises(ParityError, match="does not answer like its network"):
        require_parity(check_parity(detector, other, synthetic_tiles(detector)))


def test_nan_is_never_parity(detector: Detector) -> None:
    parity = check_parity(detector, export(detector), synthetic_tiles(detector))
    with pytest.raises(ParityError):
        require_parity(dataclasses.replace(parity, max_abs=float("nan")))


def test_int8_changes_few_decisions_of_a_trained_network(detector: Detector) -> None:
    plain = to_onnx(detector.network, 64)
    ranges = calibrate(plain, [synthetic_tiles(detector, 32, seed=7)])
    card = Quantization(scheme="static-int8", ranges=ranges)
    integer = detector.evolve(quantization=card)
    parity = check_parity(integer, export(integer), synthetic_tiles(integer, 128, seed=8))
    assert parity.quantized
    assert parity.max_abs > parity.bound
    assert parity.flip_share <= 0.05
    assert require_parity(parity, max_flips=0.05) is parity


def test_int8_is_refused_only_at_a_gate() -> None:
    reference = np.array([[0, 1], [0, 1]], dtype=np.float32)
    parity = compare(reference, -reference, 0.0, quantized=True)
    assert require_parity(parity) is parity
    with pytest.raises(ParityError, match="2 of 2 tiles differently; at most 10.0%"):
        require_parity(parity, max_flips=0.1)


def test_the_network_keeps_its_mode_and_thresholds_count(detector: Detector) -> None:
    far = detector.evolve(score=ScoreMeaning(threshold=1000.0))
    far.network.train()
    parity = check_parity(far, export(far), synthetic_tiles(far, 8))
    assert far.network.training
    assert parity.flips == 0
    far.network.eval()


def test_tiles_come_from_the_images_of_a_manifest(detector: Detector, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    columns: dict[str, list[object]] = {"path": list(names), "bytes": [1] * 4}
    columns |= {"label": ["real"] * 4, "split": ["test"] * 4}
    columns |= {key: list(names) for key in ("generator", "domain", "group")}
    columns["sha256"] = [sha256_file(tmp_path / name) for name in names]
    manifest = from_columns(columns, tmp_path)
    tiles = manifest_tiles(detector, manifest, 3)
    assert tiles.shape == (3, 3, 64, 64)
    pixels = np.asarray(Image.open(tmp_path / "0.png"), dtype=np.float32) / 127.5 - 1
    every = manifest_tiles(detector, manifest, 10)
    np.testing.assert_allclose(every[0], pixels.transpose(2, 0, 1), atol=1e-6)
    with pytest.raises(DataError, match="no readable image"):
        manifest_tiles(detector, manifest.select(split="val"), 3)

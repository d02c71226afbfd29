"""Scoring: batching changes nothing, failures are rows, runtimes agree, nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lydite.card import Architecture, ConformalBand, Preprocess, Quantization, ScoreMeaning
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, from_columns
from lydite.data.preprocess import prepare, probability, score_of
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError, FileError
from lydite.evaluate import score
from lydite.evaluate.calibrate import calibrate
from lydite.evaluate.score import (
    SCORES_SCHEMA,
    read_scores,
    rescale,
    score_detector,
    write_scores,
)
from lydite.files import sha256_file

SIZES = ((32, 32), (70, 40), (40, 100), (64, 64), (33, 97), (128, 128))


def make_manifest(folder: Path, count: int = 12, split: str = "val") -> Manifest:
    """Write images of several sizes; fakes are brighter."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {}
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        fake = number % 2
        noise = rng.integers(0, 128, (height, width, 3)) + 127 * fake
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
        row = {
            "path": f"{number}.png",
            "sha256": sha256_file(folder / f"{number}.png"),
            "label": ("real", "fake")[fake],
            "generator": "g",
            "domain": "d",
            "split": split,
            "group": f"group{number}",
            "bytes": 1,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return from_columns(columns, folder)


@pytest.fixture(scope="module")
def detector() -> Detector:
    made = Detector.start(
        Architecture(network="lydite-small", input_size=32), Preprocess(size=32), seed=1
    )
    meaning = ScoreMeaning(threshold=0.1, temperature=0.5)
    # batch norm with statistics of its own, so that training mode would give other scores
    with torch.no_grad():
        for _ in range(3):
            made.network.train()(torch.randn(8, 3, 32, 32))
    return Detector(made.card.model_copy(update={"score": meaning}), made.network.eval())


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path)


def test_one_row_an_image_in_the_manifest_s_order(detector: Detector, manifest: Manifest) -> None:
    scores = score_detector(detector, manifest)
    assert scores.schema.equals(SCORES_SCHEMA)
    for name in ("path", "sha256", "label", "generator", "domain", "split", "group"):
        assert scores[name].to_pylist() == manifest.column(name)
    assert scores["target"].to_pylist() == manifest.targets.tolist()
    assert set(scores["key"].to_pylist()) == {detector.card.key}
    assert set(scores["runtime"].to_pylist()) == {"torch"}
    z = scores["z"].to_numpy()
    assert np.array_equal(scores["p_fake"].to_numpy(), probability(z, detector.card.score))
    assert scores["error"].null_count == len(manifest)


def test_scores_are_those_of_each_image_alone(
    detector: Detector, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore()
    alone = []
    for row in manifest.rows():
        tiles = torch.from_numpy(prepare(store.get(row), detector.card.preprocess))
        with torch.no_grad():
            alone.append(score_of(detector.network(tiles).numpy()))
    for tiles in (1, 5, 10_000):
        monkeypatch.setattr(score, "BATCH_VALUES", tiles * 3 * 32 * 32)
        found = score_detector(detector, manifest)["z"].to_numpy()
        assert found == pytest.approx(np.array(alone), abs=1e-5)


def test_both_runtimes_agree(detector: Detector, manifest: Manifest) -> None:
    in_torch = score_detector(detector, manifest)
    exported = score_detector(detector, manifest, runtime="onnxruntime", threads=1)
    assert set(exported["runtime"].to_pylist()) == {"onnxruntime"}
    assert exported["z"].to_numpy() == pytest.approx(in_torch["z"].to_numpy(), abs=1e-4)


def test_auto_takes_the_exported_file_where_there_is_one(
    detector: Detector, manifest: Manifest
) -> None:
    from lydite.export.onnx import export

    other = Detector.start(detector.card.architecture, detector.card.preprocess, seed=5)
    shipped = replace(detector, files={"model.onnx": export(other)})
    scores = score_detector(shipped, manifest)
    assert set(scores["runtime"].to_pylist()) == {"onnxruntime"}
    expected = score_detector(other, manifest)["z"].to_numpy()
    assert scores["z"].to_numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_bad_images_are_rows_with_a_reason(
    detector: Detector, manifest: Manifest, runtime: str
) -> None:
    root = manifest.root
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:200])
    (root / "3.png").write_bytes(b"not an image")
    (root / "11.png").unlink()
    Image.new("RGB", (31, 60)).save(root / "5.png")
    told: list[int] = []
    scores = score_detector(
        detector,
        manifest,
        runtime=runtime,
        progress=lambda what, done, total, note: told.append(done),
    )
    errors = scores["error"].to_pylist()
    assert [number for number, code in enumerate(errors) if code] == [0, 3, 5, 11]
    assert errors[5] == "digest"  # whatever it holds, it is not the file that was scanned
    assert scores["z"].is_null().to_pylist() == [code is not None for code in errors]
    assert scores["p_fake"].null_count == 4
    assert told[0] == 0
    assert told[-1] == len(manifest)
    assert told == sorted(told)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_network_that_answers_nan_is_a_failure(
    detector: Detector, manifest: Manifest, runtime: str
) -> None:
    broken = Detector.start(detector.card.architecture, detector.card.preprocess)
    with torch.no_grad():
        for parameter in broken.network.parameters():
            parameter.fill_(float("nan"))
    scores = score_detector(broken, manifest, runtime=runtime)
    assert set(scores["error"].to_pylist()) == {"not-finite"}
    assert scores["z"].null_count == scores["p_fake"].null_count == len(manifest)


def test_network_and_threads_are_left_as_they_were(detector: Detector, manifest: Manifest) -> None:
    network = detector.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    threads = torch.get_num_threads()
    network.train()
    modules = list(network.modules())
    modules[-1].eval()
    modes = [module.training for module in modules]
    in_training_mode = score_detector(detector, manifest, threads=2)["z"]
    assert [module.training for module in modules] == modes
    assert torch.get_num_threads() == threads
    network.eval()
    assert score_detector(detector, manifest)["z"].equals(in_training_mode)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_empty_manifest_gives_an_empty_table(detector: Detector, manifest: Manifest) -> None:
    none = manifest.select(domain="nowhere")
    assert score_detector(detector, none).num_rows == 0
    assert score_detector(detector, none).schema.equals(SCORES_SCHEMA)


def test_impossible_runtimes_are_refused(detector: Detector, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="Unknown runtime 'tpu'"):
        score_detector(detector, manifest, runtime="tpu")  # type: ignore[arg-type]
    card = detector.card.model_copy(update={"quantization": Quantization(scheme="linear-int8")})
    with pytest.raises(ConfigError, match="is quantized"):
        score_detector(Detector(card, detector.network), manifest, runtime="torch")


def test_rescaling_equals_scoring_with_that_meaning(detector: Detector, manifest: Manifest) -> None:
    (manifest.root / "4.png").unlink()
    meaning = ScoreMeaning(threshold=-0.2, temperature=3.0)
    other = Detector(detector.card.model_copy(update={"score": meaning}), detector.network)
    assert rescale(score_detector(detector, manifest), meaning).equals(
        score_detector(other, manifest)
    )


def test_scores_survive_the_disk(detector: Detector, manifest: Manifest, tmp_path: Path) -> None:
    scores = score_detector(detector, manifest)
    path = tmp_path / "deep" / "scores.parquet"
    write_scores(path, scores)
    assert read_scores(path).equals(scores)


def test_what_is_not_scores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(FileError, match="no scores at"):
        read_scores(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_scores(path)
    pq.write_table(pa.table({"z": [1.0]}), path)
    with pytest.raises(DataError, match="does not hold scores"):
        read_scores(path)


def test_calibration_fits_on_these_images_and_keeps_exported_files(
    detector: Detector, manifest: Manifest
) -> None:
    (manifest.root / "0.png").unlink()
    fitted = calibrate(detector, manifest)
    meaning = fitted.card.score
    assert meaning.fitted_on == manifest.digest
    assert meaning.n == len(manifest) - 1
    z = score_detector(detector, manifest)["z"].drop_null().to_numpy()
    assert z.min() <= meaning.threshold <= z.max()
    shipped = replace(detector, files={"notes.txt": b"x"})
    assert calibrate(shipped, manifest).files == {"notes.txt": b"x"}


def test_a_copys_threshold_follows_the_originals(detector: Detector, manifest: Manifest) -> None:
    (manifest.root / "0.png").unlink()  # not scored by either, and not counted
    fitted = calibrate(detector, manifest)
    own = fitted.card.score.threshold + 0.25  # nowhere near what would be chosen on these images
    original = fitted.evolve(score=fitted.card.score.model_copy(update={"threshold": own}))
    copy = original.evolve(quantization=Quantization(scheme="bfloat16"))
    z = score_detector(original, manifest)["z"].drop_null().to_numpy()
    rounded = score_detector(copy, manifest)["z"].drop_null().to_numpy()
    assert not np.array_equal(z, rounded)
    made = calibrate(copy, manifest, like=original)
    assert made.card.score.threshold == pytest.approx(own + np.median(rounded - z), abs=1e-6)
    # an original whose score has no meaning yet has nothing to hand down
    assert (
        calibrate(copy, manifest, like=detector).card.score == calibrate(copy, manifest).card.score
    )


def test_a_copys_band_follows_the_originals_and_none_is_made_up(
    detector: Detector, manifest: Manifest
) -> None:
    promise = ConformalBand(alpha=0.1, low=-0.3, high=0.4, n_real=33, n_fake=44)
    score = calibrate(detector, manifest, alpha=0.3).card.score
    assert score.conformal is not None  # four groups a class are enough for 0.3
    original = detector.evolve(score=score.model_copy(update={"conformal": promise}))
    copy = original.evolve(quantization=Quantization(scheme="bfloat16"))
    z, rounded = (score_detector(d, manifest)["z"].drop_null().to_numpy() for d in (original, copy))
    by = float(np.median(rounded - z))
    made = calibrate(copy, manifest, like=original).card
    assert made.score.conformal is not None
    ends = (made.score.conformal.low, made.score.conformal.high)
    assert ends == (pytest.approx(-0.3 + by), pytest.approx(0.4 + by))
    assert (made.score.conformal.alpha, made.score.conformal.n_fake) == (0.1, 44)
    assert made.version == 4
    plain = original.evolve(score=score.model_copy(update={"conformal": None}))
    assert calibrate(copy, manifest, like=plain, alpha=0.3).card.score.conformal is None


def test_a_calibrated_detector_reads_as_it_was_written(
    detector: Detector, manifest: Manifest, tmp_path: Path
) -> None:
    made = calibrate(detector, manifest, alpha=0.3).save(tmp_path / "made")
    found = Detector.load(tmp_path / "made")
    assert (found.card, found.card.digest) == (made.card, made.card.digest)
    assert found.card.score.conformal is not None


def test_calibration_never_sees_the_test_split(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="never be fitted on test images"):
        calibrate(detector, make_manifest(tmp_path, 4, split="test"))

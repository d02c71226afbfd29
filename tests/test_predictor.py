"""Prediction with a hand-made network whose scores are known."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lydite
from lydite.card import Card, Preprocess
from lydite.data.decode import REASONS, decode
from lydite.data.preprocess import cut_tiles, grow, prepare
from lydite.errors import CardError, ConfigError, DecodeError
from lydite.predictor import Prediction, Predictor

WEIGHT = np.array([[0.5, -1.0, 0.25], [-0.75, 2.0, 1.0]])
BIAS = np.array([0.1, -0.6])
PHOTO = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def encode(rgb: np.ndarray, fmt: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, fmt, **options)
    return stream.getvalue()


@pytest.fixture
def predictor(tiny_detector: Path) -> Predictor:
    return Predictor.open(tiny_detector, threads=1)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Return a folder with images in folders, a hidden file and something that is no image."""
    folder = tmp_path / "album"
    exif = Image.Exif()
    exif[0x0112] = 5
    for name, fmt, options in (
        ("b.png", "PNG", {}),
        ("a/z.jpg", "JPEG", {"exif": exif.tobytes()}),
        ("a/c.webp", "WEBP", {}),
        (".hidden.png", "PNG", {}),
        (".cache/x.png", "PNG", {}),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(PHOTO, fmt, **options))
    (folder / "notes.txt").write_text("no image")
    return folder


def by_hand(rgb: np.ndarray) -> float:
    """Return the score of the hand-made network on 32 px tiles at the four corners."""
    tiles = [rgb[y : y + 32, x : x + 32] for y, x in corners(rgb)]
    means = np.array([np.abs(t / 127.5 - 1).mean(axis=(0, 1)) for t in tiles])
    logits = means @ WEIGHT.T + BIAS
    return float((logits[:, 1] - logits[:, 0]).mean())


def corners(rgb: np.ndarray) -> list[tuple[int, int]]:
    bottom, right = rgb.shape[0] - 32, rgb.shape[1] - 32
    return [(0, 0), (0, right), (bottom, 0), (bottom, right)]


def test_score_probability_and_verdict_by_hand(predictor: Predictor) -> None:
    z = by_hand(PHOTO)
    prediction = predictor.predict(PHOTO)
    assert prediction.score == pytest.approx(z, abs=1e-5)
    assert prediction.p_fake == pytest.approx(1 / (1 + np.exp(-(z + 0.2) / 0.5)), abs=1e-5)
    assert prediction.verdict == ("fake" if prediction.p_fake > 0.6 else "real")
    assert (prediction.width, prediction.height, prediction.error) == (70, 50, None)
    assert predictor.score(PHOTO) == prediction.score


@pytest.mark.parametrize(("shade", "verdict"), [(255, "fake"), (128, "real"), (153, "unsure")])
def test_all_three_verdicts(predictor: Predictor, shade: int, verdict: str) -> None:
    image = np.full((40, 40, 3), shade, np.uint8)
    assert predictor.predict(image).verdict == verdict


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", [1, 6])
def test_one_score_for_every_kind_of_source(
    predictor: Predictor, fmt: str, turn: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encode(PHOTO, fmt, **({} if fmt in {"GIF", "TIFF"} else {"exif": exif.tobytes()}))
    folder = tmp_path / "one"
    folder.mkdir()
    file = folder / "image"
    file.write_bytes(data)
    score = predictor.score(file)
    array = decode(data)
    sources = [str(file), data, Image.open(io.BytesIO(data)), array, Image.fromarray(array)]
    assert [predictor.score(source) for source in sources] == [score] * 5
    assert [p.score for p in predictor.predict([file, *sources])] == [score] * 6
    assert [p.score for p in predictor.predict(folder)] == [score]
    assert [p.score for p in predictor.predict_many(iter([folder, str(folder), file]))] == (
        [score] * 3
    )


def test_a_folder_is_walked_in_order_and_dies_of_nothing(predictor: Predictor, album: Path) -> None:
    predictions = predictor.predict(album)
    names = [Path(p.source).relative_to(album).as_posix() for p in predictions]
    assert names == ["a/c.webp", "a/z.jpg", "b.png", "notes.txt"]
    assert [p.error is None for p in predictions] == [True, True, True, False]
    assert predictions[1].width == 50
    failure = predictions[3].error
    assert failure is not None and failure.code == "not-an-image"
    assert REASONS["not-an-image"] in failure.message
    assert predictions[3].verdict is None and predictions[3].p_fake is None


def test_links_in_a_loop_end(predictor: Predictor, album: Path) -> None:
    (album / "a" / "up").symlink_to("..")
    (album / "self").symlink_to("self")
    (album / "gone").symlink_to("nowhere")
    (album / "seen.png").symlink_to("b.png")
    found = {
        Path(p.source).name: p.error.code if p.error else None for p in predictor.predict(album)
    }
    assert found == {
        "c.webp": None,
        "z.jpg": None,
        "b.png": None,
        "notes.txt": "not-an-image",
        "self": "unreadable",
        "gone": "missing",
        "seen.png": None,
    }


def test_a_folder_given_as_a_link_is_walked(predictor: Predictor, album: Path) -> None:
    link = album.with_name("link")
    link.symlink_to(album)
    assert len(predictor.predict(link)) == 4


def test_a_single_bad_source_raises_and_in_a_list_it_does_not(
    predictor: Predictor, tmp_path: Path
) -> None:
    for source, code in ((tmp_path / "no.png", "missing"), (b"", "empty")):
        with pytest.raises(DecodeError) as caught:
            predictor.predict(source)
        assert caught.value.code == code
        (prediction,) = predictor.predict([source])
        assert prediction.error is not None and prediction.error.code == code
    mixed = predictor.predict([b"", PHOTO, np.zeros((4, 4, 3), np.uint8)])
    codes = [p.error.code if p.error else None for p in mixed]
    assert codes == ["empty", None, "too-small"]


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (65500, 1)])
def test_images_below_the_cards_limit_are_refused(
    predictor: Predictor, size: tuple[int, int]
) -> None:
    with pytest.raises(DecodeError, match="at least 16") as caught:
        predictor.predict(np.zeros((*size, 3), np.uint8))
    assert caught.value.code == "too-small"


def test_an_image_between_the_limit_and_the_tile_is_mirrored(predictor: Predictor) -> None:
    small = PHOTO[:16, :16]
    row = np.concatenate([small, small[:, ::-1]], axis=1)
    grown = np.concatenate([row, row[::-1]])
    assert predictor.score(small) == predictor.score(grown)


def test_what_takes_too_much_memory_is_refused_and_others_are_answered(
    predictor: Predictor, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepare

    def scarce(rgb: np.ndarray, preprocess: Preprocess) -> np.ndarray:
        if rgb.shape[0] == 40:
            raise MemoryError
        return real(rgb, preprocess)

    monkeypatch.setattr("lydite.predictor.prepare", scarce)
    large, small = predictor.predict(
        [np.zeros((40, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
    )
    assert large.error is not None and large.error.code == "out-of-memory"
    assert small.error is None


def test_a_long_strip_is_mirrored_tile_by_tile() -> None:
    rgb = np.arange(40 * 1000 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 1000, 3)
    for strip in (rgb, rgb.transpose(1, 0, 2)):
        found = cut_tiles(strip, Preprocess(size=64, min_side=1))
        grown = grow(strip, 64)
        assert np.array_equal(found, cut_tiles(grown, Preprocess(size=64)))
        assert found.shape == (3, 64, 64, 3)


def test_sources_have_names(predictor: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "new\nline.png"
    file.write_bytes(encode(PHOTO))
    names = [
        p.source for p in predictor.predict([file, encode(PHOTO), Image.fromarray(PHOTO), PHOTO])
    ]
    assert names == [str(file), "<bytes>", "<image>", "<array>"]


def test_to_dict_is_json(predictor: Predictor) -> None:
    import json

    good = predictor.predict(PHOTO).to_dict()
    assert json.loads(json.dumps(good)) == good
    assert set(good) == {"source", "verdict", "p_fake", "score", "width", "height", "error"}
    (bad,) = predictor.predict([b"x"])
    assert bad.to_dict()["error"]["code"] == "not-an-image"


def test_inputs_are_left_alone(predictor: Predictor, album: Path) -> None:
    def state() -> dict[str, tuple[str, int]]:
        return {
            str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns)
            for f in sorted(album.rglob("*"))
            if f.is_file()
        }

    before, array = state(), PHOTO.copy()
    predictor.predict(album)
    predictor.predict(PHOTO)
    assert state() == before
    np.testing.assert_array_equal(PHOTO, array)


def test_load_is_open(tiny_detector: Path) -> None:
    prediction = lydite.load(tiny_detector).predict(PHOTO)
    assert isinstance(prediction, Prediction)
    assert prediction.score == pytest.approx(by_hand(PHOTO), abs=1e-5)


def test_prediction_needs_no_torch(tiny_detector: Path, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(encode(PHOTO))
    code = f"""
import sys, lydite
assert lydite.load({str(tiny_detector)!r}).predict({str(file)!r}).error is None
heavy = {{"torch", "pyarrow", "onnx", "sklearn", "scipy", "matplotlib", "safetensors"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_flipped_byte_is_refused(tiny_detector: Path) -> None:
    file = tiny_detector / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CardError, match="SHA-256"):
        Predictor.open(tiny_detector)


def test_folders_that_are_no_detectors(tmp_path: Path, tiny_detector: Path) -> None:
    with pytest.raises(CardError, match="card.json"):
        Predictor.open(tmp_path / "nothing")
    (tiny_detector / "model.onnx").unlink()
    with pytest.raises(CardError, match="lacks the file model.onnx"):
        Predictor.open(tiny_detector)


def test_a_detector_that_was_never_exported(tmp_path: Path, tiny_card: Card) -> None:
    from lydite.files import write_json

    write_json(tmp_path / "card.json", tiny_card.to_json())
    with pytest.raises(CardError, match="lydite export"):
        Predictor.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 99},
        {"surprise": 1},
        {"files": {"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}},
        # input and probability would be infinite, and an int8 file would hide it
        {"preprocess": {"std": [1e-320] * 3}},
        {"preprocess": {"mean": [1e300] * 3}},
        {"score": {"temperature": 1e-320}},
        {"score": {"threshold": 1e308}},
        {"training": {"loss": float("nan")}},
        {"steps": [{"train": float("nan")}]},
        {"architecture": {"network": "lydite-small", "config": {"a": float("inf")}}},
    ],
)
def test_hostile_cards_are_refused(tiny_detector: Path, change: dict[str, Any]) -> None:
    import json

    file = tiny_detector / "card.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CardError):
        Predictor.open(tiny_detector)


def test_a_card_of_ten_megabytes_is_refused(tiny_detector: Path) -> None:
    (tiny_detector / "card.json").write_text("[" * 11_000_000)
    with pytest.raises(lydite.errors.LyditeError, match="larger than"):
        Predictor.open(tiny_detector)


def refused(card: Card, onnx: bytes) -> str:
    with pytest.raises(CardError) as caught:
        Predictor.from_bytes(card, onnx)
    return str(caught.value)


def test_networks_that_do_not_fit_the_card(make_onnx: Callable[..., Any], tiny_card: Card) -> None:
    assert "shape" in refused(tiny_card, make_onnx(size=64).SerializeToString())
    assert "shape" in refused(tiny_card, make_onnx(batch=4).SerializeToString())
    assert "outputs" in refused(tiny_card, make_onnx(outputs=2).SerializeToString())
    three = make_onnx(weight=np.ones((3, 3))).SerializeToString()
    assert "'logits'" in refused(tiny_card, three)
    free = make_onnx(size="s").SerializeToString()
    assert Predictor.from_bytes(tiny_card, free).score(PHOTO) == pytest.approx(
        by_hand(PHOTO), abs=1e-5
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_an_error_of_the_detector(
    make_onnx: Callable[..., Any], tiny_card: Card, value: float
) -> None:
    weight = WEIGHT.copy()
    weight[0, 0] = value
    predictor = Predictor.from_bytes(tiny_card, make_onnx(weight=weight).SerializeToString())
    with pytest.raises(CardError, match="NaN or infinity"):
        predictor.predict([PHOTO])


def test_garbage_is_not_a_model(tiny_card: Card) -> None:
    assert "not an ONNX model" in refused(tiny_card, b"\x80\x04\x95 pickle")
    assert "does not load" in refused(tiny_card, b"")


def test_the_resize_fit_uses_one_tile(make_onnx: Callable[..., Any], tiny_card: Card) -> None:
    card = tiny_card.model_copy(
        update={"preprocess": Preprocess(size=32, fit="resize", min_side=16)}
    )
    predictor = Predictor.from_bytes(card, make_onnx().SerializeToString())
    flat = np.full((200, 90, 3), 40, np.uint8)
    expected = (np.abs(40 / 127.5 - 1) * (WEIGHT[1] - WEIGHT[0])).sum() + BIAS[1] - BIAS[0]
    assert predictor.score(flat) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("threads", [0, -5, 1.5, "2", True, 16384])
def test_what_is_no_number_of_threads_is_refused(tiny_detector: Path, threads: object) -> None:
    with pytest.raises(ConfigError, match="`threads` must be 1 to 1024"):
        Predictor.open(tiny_detector, threads=threads)  # type: ignore[arg-type]


def test_a_single_source_is_a_list_of_one_and_never_its_letters(
    predictor: Predictor, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)  # where "." would be this folder, and "/" every file there is
    expected = predictor.score(album / "b.png")
    data = (album / "b.png").read_bytes()
    for source in ("./b.png", Path("b.png"), data, Image.open(io.BytesIO(data)), PHOTO):
        (found,) = predictor.predict_many(source)
        assert found.score == pytest.approx(expected)
    assert len(list(predictor.predict_many(np.stack([PHOTO, PHOTO])))) == 2
    assert len(list(predictor.predict_many("."))) == 4


def test_copies_and_other_processes_answer_alike(predictor: Predictor) -> None:
    expected = predictor.score(PHOTO)
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):  # noqa: S301
        assert other.score(PHOTO) == expected
        assert other.card == predictor.card


def test_predicting_leaves_nothing_in_the_users_home(tiny_detector: Path, tmp_path: Path) -> None:
    """Onnxruntime writes an identifier of the computer there, unless it is told not to."""
    home = tmp_path / "home"
    home.mkdir()
    words = "import lydite, sys, numpy as np; p = lydite.load(sys.argv[1]); "
    words += "p.predict(np.zeros((40, 40, 3), np.uint8))"
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    subprocess.run([sys.executable, "-c", words, str(tiny_detector)], check=True, env=environment)
    assert list(home.rglob("*")) == []

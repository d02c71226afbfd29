"""The section on why: maps by the shipped file, spectra of the images, nothing without them."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lydite.card import ONNX_NAME, Card, file_entry
from lydite.evaluate.score import read_scores
from lydite.files import write_bytes, write_json
from lydite.predictor import Predictor
from lydite.report import why
from lydite.report.html import write_report
from lydite.report.pictures import one_of_each
from lydite.report.view import Line, lines_of
from lydite.study.results import read_results
from lydite.study.why import quick_map, quick_spectra, shipped

MakeOnnx = Callable[..., Any]
NAME = "ours-small"


@pytest.fixture
def detectors(tmp_path: Path, make_onnx: MakeOnnx, tiny_card: Card) -> Path:
    """Return a folder in which the made-up study's smallest detector lies."""
    onnx = make_onnx().SerializeToString()
    card = tiny_card.model_copy(update={"files": {ONNX_NAME: file_entry(onnx)}})
    write_bytes(tmp_path / "detectors" / NAME / ONNX_NAME, onnx)
    write_json(tmp_path / "detectors" / NAME / "card.json", card.to_json())
    return tmp_path / "detectors"


@pytest.fixture
def lines(study_folder: Path, detectors: Path) -> list[Line]:
    """Return the study's results, one of which was measured on that detector."""
    digest = Predictor.open(detectors / NAME).card.digest
    results = [
        r.model_copy(update={"card_digest": digest}) if r.recipe == NAME else r
        for r in read_results(study_folder / "results")
    ]
    return lines_of(results)


@pytest.fixture
def parts(study_folder: Path, detectors: Path, lines: list[Line]) -> dict[str, Any]:
    """Return everything that the section is made of."""
    from lydite.data.manifest import Manifest
    from lydite.files import read_json

    study = read_json(study_folder / "study.json")["study"]
    root = Manifest.read(Path(study["data"]["manifest"])).root
    scores = {NAME: read_scores(study_folder / "scores" / f"{NAME}.parquet")}
    pictures = one_of_each(scores, ["sim-a"], root)
    return {
        "lines": lines,
        "scores": scores,
        "learned": ["sim-a"],
        "root": root,
        "detectors": detectors,
        "pictures": pictures,
    }


def test_maps_are_answers_of_the_shipped_file(parts: dict[str, Any], detectors: Path) -> None:
    found = why.section(**parts)
    assert found is not None and found.detector == NAME
    assert len(found.maps) == len(parts["pictures"]) == 6
    predictor = Predictor.open(detectors / NAME)
    for made in found.maps:
        assert made.p_fake == predictor.predict(made.picture.file.read_bytes()).p_fake
        assert 0 <= made.low <= made.high <= 1 and not made.gaps
        image = Image.open(io.BytesIO(base64.b64decode(made.uri.split(",")[1])))
        assert 96 <= max(image.size) <= 192
    assert found.spectra is not None and "<svg" in found.spectra


def test_there_are_a_dozen_maps_at_most(parts: dict[str, Any]) -> None:
    found = why.section(**parts | {"pictures": parts["pictures"] * 4})
    assert found is not None and len(found.maps) == 12


def test_a_detector_that_was_not_measured_is_not_asked(
    parts: dict[str, Any], study_folder: Path
) -> None:
    others = lines_of(read_results(study_folder / "results"))
    found = why.section(**parts | {"lines": others})
    assert found is not None and found.maps == () and found.spectra is not None
    assert shipped(parts["detectors"], others[0].result) is None


def test_without_images_there_is_no_section(parts: dict[str, Any], tmp_path: Path) -> None:
    assert why.section(**parts | {"root": None}) is None
    assert why.section(**parts | {"root": tmp_path / "gone", "pictures": []}) is None


def test_a_large_image_and_a_large_network_get_few_tiles(detectors: Path) -> None:
    predictor = Predictor.open(detectors / NAME)
    rgb = np.zeros((600, 1400, 3), np.uint8)
    assert quick_map(predictor, rgb, 10_000_000).z.size <= 144
    assert quick_map(predictor, rgb, 500_000_000).z.size <= 12
    assert quick_map(predictor, rgb[:100, :100], 10_000_000).stride == 16


def test_few_images_are_decoded_for_spectra(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = parts["scores"][NAME]
    found = quick_spectra(table, ["sim-b", "sim-a"], parts["root"])
    assert found is not None
    assert [(p.domain, p.real.n, p.fake.n) for p in found.pairs] == [
        ("sim-a", 12, 12),
        ("sim-b", 12, 12),
    ]
    monkeypatch.setattr("lydite.study.why.SPECTRUM_PIXELS", 5 * 4 * 40 * 40)
    found = quick_spectra(table, ["sim-b", "sim-a"], parts["root"])
    assert found is not None and {p.real.n for p in found.pairs} == {5}


def test_the_page_shows_the_section(
    study_folder: Path, detectors: Path, lines: list[Line], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    shutil.rmtree(folder / "results")
    for line in lines:
        write_json(folder / "results" / f"{line.name}.json", line.result.model_dump(mode="json"))
    shutil.copytree(detectors, folder / "detectors")
    text = write_report(folder).read_text("utf-8")
    assert f"What {NAME} says of every place" in text
    assert text.count('alt="patch scores of a ') == 12
    assert "<script" not in text and "xlink:href" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert write_report(folder).read_text("utf-8") == text
    assert "patch scores" not in write_report(folder, images=False).read_text("utf-8")

"""A study's scores, of degraded and of validation images: kept, resumed, off by default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lydite.cli.study import tell_unscored
from lydite.config import validate
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError, ResumeError
from lydite.evaluate.degrade import GRIDS
from lydite.evaluate.degraded import degradations_of
from lydite.evaluate.metrics import auc
from lydite.evaluate.score import read_scores, score_detector
from lydite.recipe import silent
from lydite.report.html import write_report
from lydite.study import scores as scoring
from lydite.study.images import load_data
from lydite.study.publish import publish
from lydite.study.results import Result, read_results
from lydite.study.run import StudyOptions, finished, run_study
from lydite.study.scores import kept_scores, scored
from lydite.study.spec import Study

TINY = {"network": "lydite-small", "config": {"widths": [8, 16]}}


def make(manifest: Manifest, folder: Path, **changes: object) -> Study:
    path = folder / "given.parquet"
    manifest.write(path)
    value: dict[str, object] = {
        "name": "tiny",
        "data": {"manifest": path, "seen": ["one"]},
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [{"name": "BL", "start": TINY, "steps": [{"train": {"steps": 2, "batch": 8}}]}],
    }
    return Study.model_validate(value | changes)


@pytest.fixture(scope="module")
def done(
    tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Result]]:
    """A finished study without degradations, then the same one with two."""
    folder = tmp_path_factory.mktemp("study")
    plain = make(tiny_manifest, folder)
    run_study(plain, StudyOptions(folder / "out", device="cpu"))
    (path,) = (folder / "out" / "results").glob("*.json")
    value = json.loads(path.read_text("utf-8")) | {"created": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(value), "utf-8")  # the next results may come within the second
    first = read_results(path.parent)
    study = make(tiny_manifest, folder, degrade=["jpeg-75", "resize-0.4"])
    data = load_data(study.data, folder)
    assert finished(plain, data, folder / "out") == first
    assert finished(study, data, folder / "out") is None
    with pytest.raises(ResumeError) as caught:
        run_study(study, StudyOptions(folder / "out", device="cpu"))
    assert any(line.startswith("+") and "jpeg-75" in line for line in caught.value.details)
    results = run_study(study, StudyOptions(folder / "out", device="cpu", replace=True))
    assert finished(study, data, folder / "out") == results
    assert finished(plain, data, folder / "out") == results  # what is asked for is there
    assert [f for f in results[0].figures if "degradation" not in f.slice] == list(first[0].figures)
    assert results[0].steps[0].key == first[0].steps[0].key
    return folder, results


def test_losses_are_measured_on_the_exported_file(
    done: tuple[Path, list[Result]], tiny_manifest: Manifest
) -> None:
    folder, (result,) = done
    assert degradations_of(result.figures) == ["jpeg-75", "resize-0.4"]
    where = {"group": "seen", "split": "test"}
    clean = result.figure("accuracy", **where)
    worn = result.figure("accuracy", **where, degradation="jpeg-75")
    gain = result.figure("accuracy_gain", **where, degradation="jpeg-75", against="clean")
    assert clean is not None and worn is not None and gain is not None  # noqa: PT018
    assert gain.value == pytest.approx(worn.value - clean.value)
    # 72 px times 0.4 are fewer than the 32 px that the detector needs
    lost = result.figure("unreadable", **where, degradation="resize-0.4")
    assert lost is not None
    assert lost.value == lost.n == clean.n
    kept = read_scores(folder / "out" / "scores" / "degraded" / "BL.parquet")
    assert set(kept["runtime"].to_pylist()) == {"onnxruntime"}
    shipped = Detector.load(folder / "out" / "detectors" / "BL")
    test = tiny_manifest.select(split="test")
    again = score_detector(shipped, test, degradation="jpeg-75")
    assert kept.slice(0, len(test))["z"].to_pylist() == again["z"].to_pylist()
    clean_ones = read_scores(folder / "out" / "scores" / "BL.parquet")
    assert set(clean_ones["degradation"].to_pylist()) == {"none"}


def test_what_was_scored_is_not_scored_again(
    done: tuple[Path, list[Result]], tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = done
    asked = []

    def spy(*args: object, **options: object) -> object:
        asked.append(options["degradation"])
        return score_detector(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "score_detector", spy)
    study = make(tiny_manifest, folder, degrade=["jpeg-75", "crop-0.8"])
    results = run_study(study, StudyOptions(folder / "out", device="cpu", replace=True))
    assert asked == ["crop-0.8"]
    assert degradations_of(results[0].figures) == ["jpeg-75", "crop-0.8"]


def test_validation_images_are_measured_where_a_study_asks(
    done: tuple[Path, list[Result]], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    folder, (before,) = done
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    study = make(tiny_manifest, folder, degrade=["jpeg-75"], validation=True)
    data = load_data(study.data, folder)
    assert finished(study, data, out) is None  # test images alone were measured
    (result,) = run_study(study, StudyOptions(out, device="cpu", replace=True))
    assert finished(study, data, out) == [result]
    test = [f for f in result.figures if f.slice.get("split") == "test"]
    kept = ("none", "jpeg-75")
    assert test == [f for f in before.figures if f.slice.get("degradation", "none") in kept]
    scores = read_scores(out / "scores" / "validation" / "BL.parquet")
    val = data.learning.val
    assert scores["path"].to_pylist() == [row.path for row in val.rows()] * 2
    assert set(scores["split"].to_pylist()) == {"val"}
    detector = Detector.load(out / "detectors" / "BL")
    for name, where in (("none", {}), ("jpeg-75", {"degradation": "jpeg-75"})):
        rows = score_detector(detector, val, degradation=name)
        expected = auc(rows["z"].to_numpy(), rows["target"].to_numpy())
        found = result.figure("auc", group="seen", split="val", **where)
        assert found is not None
        assert found.value == pytest.approx(expected)
    page = write_report(out, images=False).read_text("utf-8")
    assert "AUC on validation images, %" in page
    given = publish(out, "BL", tmp_path / "given")
    assert given.card.measured == detector.card.measured + tuple(test)


def test_the_report_has_a_section_only_where_there_are_figures(
    done: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    folder, _ = done
    text = write_report(folder / "out", tmp_path / "page.html", images=False).read_text("utf-8")
    assert '<section id="degraded">' in text
    plain = tmp_path / "plain"
    shutil.copytree(folder / "out", plain)
    for path in (plain / "results").glob("*.json"):
        value = json.loads(path.read_text("utf-8"))
        value["figures"] = [f for f in value["figures"] if "degradation" not in f["slice"]]
        path.write_text(json.dumps(value), "utf-8")
    text = write_report(plain, images=False).read_text("utf-8")
    assert "degraded" not in text.split('<section id="recipes">')[0].split("</style>")[1]


def test_names_are_checked_when_the_study_is_read(tiny_manifest: Manifest, tmp_path: Path) -> None:
    assert make(tiny_manifest, tmp_path).degrade == ()
    study = make(tiny_manifest, tmp_path, degrade=["quick", "blur-1.0"])
    assert study.degrade == GRIDS["quick"]
    assert Study.model_validate(study.model_dump(mode="json")) == study
    value = study.model_dump(mode="json") | {"degrade": ["jpg-75"]}
    with pytest.raises(ConfigError, match=r"`degrade`.*Did you mean 'jpeg-75'"):
        validate(Study, value, "Study")


def test_files_that_were_not_there_are_tried_again(
    done: tuple[Path, list[Result]], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    shutil.copytree(tiny_manifest.root, tmp_path / "images")
    images = Manifest(tiny_manifest.table, tmp_path / "images").select(split="test")
    detector = Detector.load(done[0] / "out" / "detectors" / "BL")
    place, names = tmp_path / "scores.parquet", ["none", "jpeg-75"]

    def errors() -> list[str | None]:
        store = ImageStore()
        found = kept_scores(detector, images, names, place, images=store, progress=silent)
        return list(found["error"].to_pylist())

    lost = images.root / images.column("path")[0]
    kept = lost.read_bytes()
    lost.unlink()
    assert [error for error in errors() if error] == ["missing", "missing"]
    assert not scored(place, detector.card.digest, images.digest)
    lost.write_bytes(kept)
    assert errors() == [None] * 2 * len(images)
    assert scored(place, detector.card.digest, images.digest)


def test_images_without_a_score_are_counted_and_set_the_status(
    done: tuple[Path, list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = done[1]
    assert (result.unscored, tell_unscored([result])) == (0, 0)
    figures = tuple(
        f.model_copy(update={"value": 2.0})
        if f.metric == "unreadable" and f.slice == {"domain": "two", "split": "test"}
        else f
        for f in result.figures
    )
    worse = result.model_copy(update={"figures": figures})
    assert (worse.unscored, tell_unscored([result, worse])) == (2, 1)
    assert "2 test images could not be scored" in capsys.readouterr().err


def test_a_study_is_not_published_into_itself(done: tuple[Path, list[Result]]) -> None:
    """Its results would no longer know their detector."""
    out = done[0] / "out"
    for place in (out / "detectors" / "BL", out / "new"):
        with pytest.raises(DataError, match="lies inside the study"):
            publish(out, "BL", place)
    with pytest.raises(DataError, match="Unknown detector '..'"):
        publish(out, "..", done[0] / "elsewhere")
    with pytest.raises(DataError, match="no folder of a study"):
        publish(out / "scores", "BL", done[0] / "elsewhere")

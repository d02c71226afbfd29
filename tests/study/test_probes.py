"""A study's probes: made once, kept, never in the way of what the study is for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.leaks import leaky
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, from_columns
from lydite.errors import DataError, ResumeError
from lydite.evaluate.score import read_scores
from lydite.recipe import Progress, silent
from lydite.report.html import write_report
from lydite.study.images import load_data
from lydite.study.probes import Probes, probe_study, probes_of, read_probes
from lydite.study.results import Result
from lydite.study.run import StudyOptions, run_study
from lydite.study.spec import Study

NETWORK = {"network": "lydite-small", "config": {"widths": [8, 16]}}


def study_of(manifest: Manifest, **changes: object) -> Study:
    data = {"manifest": manifest.root / "manifest.parquet", "seen": ["one"]}
    recipe = {
        "name": "BL",
        "start": NETWORK | {"size": 32},
        "steps": [{"train": {"steps": 2, "batch": 8}}],
    }
    value = {
        "name": "probed",
        "data": data | dict(changes.pop("data", {})),  # type: ignore[call-overload]
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [recipe],
    }
    return Study.model_validate(value | changes)


def probed(study: Study, folder: Path, progress: Progress = silent) -> Probes | None:
    data = load_data(study.data, folder)
    return probe_study(
        study, data.learning.train, data.test, data.digests, folder, ImageStore(), progress
    )


@pytest.fixture(scope="module")
def format_leak(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return leaky(tmp_path_factory.mktemp("leak"), "format")


def test_a_document_has_figures_of_every_probe(format_leak: Manifest, tmp_path: Path) -> None:
    made = probed(study_of(format_leak, seeds=(3,)), tmp_path)
    assert made is not None
    header, thumbnail, shuffled = made.probes
    area = header.figure("auc", group="seen")
    assert area is not None
    assert (area.value, area.n) == (1.0, 100)
    rough = thumbnail.figure("auc", group="unseen-mean")
    assert rough is not None and rough.low is not None and rough.high is not None  # noqa: PT018
    assert rough.low < 0.55 < rough.high
    assert shuffled.figure("auc", group="seen") is not None
    assert not [f for f in shuffled.figures if "generator" in f.slice]
    assert made.seed == 3
    assert {"lydite", "scikit-learn"} <= made.versions.keys()
    (file,) = (tmp_path / "probes").glob("*.json")
    assert read_probes(file) == made
    scores = read_scores(file.with_name(f"{file.stem}-format-size.parquet"))
    assert scores.num_rows == area.n * 2


def test_probes_are_made_once_for_the_same_images(format_leak: Manifest, tmp_path: Path) -> None:
    study = study_of(format_leak)
    said: list[str] = []
    first = probed(study, tmp_path)
    again = probed(study, tmp_path, lambda *words: said.append(str(words)))
    assert again == first
    assert not said
    other = probed(study_of(format_leak, data={"seen": ["two"]}), tmp_path)
    assert other is not None and first is not None  # noqa: PT018
    assert other.key != first.key
    assert len(list((tmp_path / "probes").glob("*.json"))) == 2
    assert probes_of(tmp_path, first.data, ["one"], []) == first
    assert probes_of(tmp_path, other.data, ["one"], []) is None
    further = first.data | {"val": "0" * 64, "more": "1" * 64}  # no probe looks at those
    assert probes_of(tmp_path, further, ["one"], []) == first
    assert probes_of(tmp_path / "nowhere", first.data, ["one"], []) is None


def test_fakes_of_a_held_out_generator_are_unseen_to_probes_too(
    format_leak: Manifest, tmp_path: Path
) -> None:
    columns = {name: list(format_leak.column(name)) for name in format_leak.table.column_names}
    fakes = [place for place, label in enumerate(columns["label"]) if label == "fake"]
    for place in fakes:
        columns["generator"][place] = "AB"[place // 2 % 2]
    from_columns(columns, format_leak.root).write(tmp_path / "m.parquet")
    data = {"manifest": tmp_path / "m.parquet"}
    plain = probed(study_of(format_leak, data=data), tmp_path)
    held = probed(study_of(format_leak, data=data | {"unseen_generators": ["B"]}), tmp_path)
    assert plain is not None and held is not None  # noqa: PT018
    assert held.key != plain.key
    sizes = {}
    for name, made in (("plain", plain), ("held", held)):
        figures = (p.figure("auc", group="seen") for p in made.probes)
        sizes[name] = [None if f is None else f.n for f in figures]
    assert sizes == {"plain": [100, 100, 100], "held": [75, 75, 100]}
    unseen = held.probes[0].figure("auc", group="unseen-mean")
    assert unseen is not None
    assert unseen.n == 100 + 75
    assert probes_of(tmp_path, held.data, ["one"], [], ["B"]) == held
    assert probes_of(tmp_path, held.data, ["one"], []) is None


def test_a_study_may_want_none(format_leak: Manifest, tmp_path: Path) -> None:
    assert probed(study_of(format_leak, probes=False), tmp_path) is None
    assert not (tmp_path / "probes").exists()


def test_files_that_are_gone_leave_no_document(tmp_path: Path) -> None:
    manifest = leaky(tmp_path)
    for file in tmp_path.glob("one-train-*.jpg"):
        file.unlink()
    assert probed(study_of(manifest), tmp_path) is None
    assert not (tmp_path / "probes").exists()


def test_a_document_that_is_none_or_newer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "probes-x.json"
    file.write_text('{"format": "other"}')
    with pytest.raises(DataError, match="holds no probes.*Delete it"):
        read_probes(file)
    file.write_text('{"version": 99}')
    with pytest.raises(DataError, match="version 99.*Upgrade"):
        read_probes(file)


@pytest.fixture(scope="module")
def done(
    format_leak: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, StudyOptions, list[Result]]:
    """Return a study that was stopped between its probes and its results, and run again."""
    study = study_of(format_leak)
    options = StudyOptions(tmp_path_factory.mktemp("study"), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lydite.study.run.measure", stop)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lydite.evaluate.probes.run_probes", stop)
        return study, options, run_study(study, options)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_study_that_was_stopped_keeps_its_probes_and_warns_of_the_leak(
    done: tuple[Study, StudyOptions, list[Result]], tmp_path: Path
) -> None:
    study, options, results = done
    assert len(list((options.folder / "probes").glob("*.json"))) == 1
    assert probes_of(options.folder, results[0].data, ["one"], []) is not None
    page = write_report(options.folder, tmp_path / "page.html", images=False).read_text("utf-8")
    assert "What gives it away?" in page
    assert "headers alone (format, size, bytes, JPEG tables) tell real from fake" in page
    assert "reaches the interval of BL" in page
    assert run_study(study, options) == results


def test_a_finished_study_of_before_probes_gets_them_and_keeps_its_results(
    done: tuple[Study, StudyOptions, list[Result]], tmp_path: Path
) -> None:
    study, options, results = done
    old = shutil.copytree(options.folder, tmp_path / "old")
    shutil.rmtree(old / "probes")
    plan = json.loads((old / "study.json").read_text())
    assert plan["study"].pop("probes") is True
    (old / "study.json").write_text(json.dumps(plan))
    page = write_report(old, images=False).read_text("utf-8")
    assert "What gives it away?" not in page
    assert "#probes" not in page
    said: list[str] = []
    old_options = replace(options, folder=old, progress=lambda *words: said.append(words[-1]))  # type: ignore[arg-type]
    assert run_study(study, old_options) == results
    assert "already finished" in said[-1]
    assert len(list((old / "probes").glob("*.json"))) == 1
    assert len(list((old / "results").glob("*.json"))) == len(results)
    with pytest.raises(ResumeError) as caught:
        run_study(study.model_copy(update={"probes": False}), old_options)
    told = [line.split() for line in caught.value.details if "probes" in line]
    assert [line[0] for line in told if line[-1].startswith(("true", "false"))] == ["-", "+"]


def test_cats_and_dogs_have_probes_too(tmp_path: Path) -> None:
    manifest = leaky(tmp_path, "bright", labels=("cat", "dog"))
    made = probed(study_of(manifest, data={"labels": ("cat", "dog")}), tmp_path)
    assert made is not None
    assert made.labels == ("cat", "dog")
    area = made.probes[1].figure("auc", group="seen")
    assert area is not None and area.low is not None  # noqa: PT018
    assert area.low > 0.9

"""One study over several divisions of its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lydite.cli import main
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import CardError, ConfigError
from lydite.report.across import read_folds
from lydite.report.html import write_report
from lydite.study.folds import of_fold, plan_folds, run_folds
from lydite.study.run import StudyOptions
from lydite.study.spec import Study

TINY = {"network": "lydite-small", "config": {"widths": [4], "blocks": 0}}


def study_of(manifest: Manifest, folder: Path, **changes: object) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(folder / "given.parquet")
    value = {
        "name": "pairs",
        "title": "Pairs",
        "data": {"manifest": folder / "given.parquet"},
        "folds": [
            {"name": "to-one", "seen": ["one"], "source": ["two"], "values": {"from": "two"}},
            {"name": "to-two", "seen": ["two"], "values": {"from": "one"}},
        ],
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [
            {"name": "BL", "start": TINY},
            {"name": "FT", "start": TINY, "steps": [{"train": {"steps": 1, "batch": 4}}]},
        ],
    }
    return Study.model_validate(value | changes)


def test_a_fold_is_an_ordinary_study(tiny_manifest: Manifest, tmp_path: Path) -> None:
    recipes = [
        {"name": "old", "start": {"detector": "runs/{from}/detectors/{seen}-{from}{source}"}}
    ]
    study = study_of(tiny_manifest, tmp_path, recipes=recipes)
    first, second = (of_fold(study, fold) for fold in study.folds)
    assert first.data.seen == ("one",)
    assert (first.data.source, second.data.source) == (("two",), ())
    assert not first.folds
    assert first.name == "pairs-to-one"
    assert second.title == "Pairs: to-two"
    assert second.recipes[0].start is not None
    assert second.recipes[0].start.detector == Path("runs/one/detectors/two-one")


def test_long_names_of_folds_fit(tiny_manifest: Manifest, tmp_path: Path) -> None:
    study = study_of(tiny_manifest, tmp_path, folds=[{"name": "f" * 61, "seen": ["one"]}])
    assert of_fold(study, study.folds[0]).name.startswith("pairs-f")


def test_labels_and_exclusions_of_a_fold_count(tiny_manifest: Manifest, tmp_path: Path) -> None:
    fold = {"name": "pets", "seen": ["one"], "labels": ["cat", "dog"], "exclude": ["two"]}
    data = {"manifest": tmp_path / "given.parquet", "exclude": ["three"]}
    (own,) = (
        of_fold(s, s.folds[0]) for s in [study_of(tiny_manifest, tmp_path, folds=[fold], data=data)]
    )
    assert own.data.labels == ("cat", "dog")
    assert own.data.exclude == ("three", "two")


def test_a_fold_leaves_out_what_it_skips(tiny_manifest: Manifest, tmp_path: Path) -> None:
    folds = [{"name": "a", "seen": ["one"], "skip": ["FT"]}, {"name": "b", "seen": ["two"]}]
    study = study_of(tiny_manifest, tmp_path, folds=folds)
    names = [[r.name for r in of_fold(study, fold).recipes] for fold in study.folds]
    assert names == [["BL"], ["BL", "FT"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"folds": []}, "either `seen` in `data`, or `folds`"),
        ({"folds": [{"name": "a", "seen": ["one"]}, {"name": "a", "seen": ["two"]}]}, "same name"),
        ({"folds": [{"name": "a", "seen": []}]}, "at least 1 item"),
        ({"folds": [{"name": "cache", "seen": ["one"]}]}, "cannot be called cache"),
        ({"folds": [{"name": "a", "seen": ["one"], "skip": ["TF"]}]}, "fold a: .*'TF'"),
    ],
)
def test_what_makes_no_study_is_refused(
    changes: dict[str, object], words: str, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        study_of(tiny_manifest, tmp_path, **changes)


def test_an_unknown_value_is_named(tiny_manifest: Manifest, tmp_path: Path) -> None:
    recipes = [{"name": "old", "start": {"detector": "runs/{form}"}}]
    study = study_of(tiny_manifest, tmp_path, recipes=recipes)
    with pytest.raises(ConfigError, match=r"Fold to-one: .*'form'.*Did you mean 'from'"):
        of_fold(study, study.folds[0])


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_folds_share_manifest_and_cache_and_are_not_run_twice(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    study = study_of(tiny_manifest, tmp_path)
    options = StudyOptions(tmp_path / "out", device="cpu")
    plans = plan_folds(study, options, estimate=False)
    assert {name: len(plan.steps) for name, plan in plans.items()} == {"to-one": 1, "to-two": 1}
    assert not (tmp_path / "out" / "cache").exists()
    results = run_folds(study, options)
    assert [r.seen for found in results.values() for r in found] == [("one",)] * 2 + [("two",)] * 2
    assert len(list((tmp_path / "out" / "cache").iterdir())) == 2
    trained = {
        name: Detector.load(tmp_path / "out" / name / "detectors" / "FT").card.data["train"]
        for name in results
    }
    assert trained["to-one"] != trained["to-two"]
    said: list[str] = []

    def listen(what: str, done: int, total: int, note: str) -> None:
        said.append(f"{what} {note}")

    again = run_folds(study, StudyOptions(tmp_path / "out", device="cpu", progress=listen))
    assert again == results
    assert sum("already finished" in line for line in said) == 2
    assert read_folds(tmp_path / "out") == results
    assert write_report(tmp_path / "out" / "to-one").is_file()
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "all.html")]) == 0
    assert "to-two/report.html" in (tmp_path / "all.html").read_text("utf-8")
    shutil.rmtree(tmp_path / "out" / "to-two" / "results")  # as if it was still running
    assert list(read_folds(tmp_path / "out")) == ["to-one"]


def test_no_fold_runs_before_all_can(tiny_manifest: Manifest, tmp_path: Path) -> None:
    recipes = [
        {"name": "FT", "start": TINY, "steps": [{"train": {"steps": 1, "batch": 4}}]},
        {"name": "old", "start": {"detector": str(tmp_path / "{from}")}},
    ]
    study = study_of(tiny_manifest, tmp_path, recipes=recipes)
    with pytest.raises(CardError):
        run_folds(study, StudyOptions(tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out" / "to-one").exists()

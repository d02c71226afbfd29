"""A small study end to end: results, resuming, refusals, and a kill that leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lydite.card import Architecture, load_card
from lydite.compress.quantize import Quantize
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import BusyError, ConfigError, DataError, ResumeError
from lydite.evaluate.score import read_scores
from lydite.files import TEMPORARY_PREFIX, lock_folder, sha256_file
from lydite.study.images import load_data, study_manifest
from lydite.study.results import Result, read_results
from lydite.study.run import StudyOptions, finished, plan_study, run_study
from lydite.study.spec import DataSpec, ScanSpec, Study

TINY = {"network": "lydite-small", "config": {"widths": [8, 16]}}
TRAIN = {"train": {"steps": 6, "batch": 8, "checkpoint_s": 0.0}}


def make(manifest: Manifest, folder: Path, **changes: object) -> Study:
    path = folder / "given.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(path)
    value = {
        "name": "tiny",
        "data": {"manifest": path, "seen": [sorted(set(manifest.column("domain")))[0]]},
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [
            {"name": "BL", "start": TINY, "steps": [TRAIN]},
            {
                "name": "CPF-50",
                "after": "BL",
                "steps": [
                    {"prune": {"rate": 0.5, "multiple": 1}},
                    {"finetune": {"steps": 2, "batch": 8}},
                ],
            },
            {"name": "CQ", "after": "BL", "steps": [{"quantize": {"scheme": "linear-int8"}}]},
        ],
    }
    return Study.model_validate(value | changes)


@pytest.fixture(scope="module")
def done(
    tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, StudyOptions, list[Result]]:
    folder = tmp_path_factory.mktemp("study")
    study = make(tiny_manifest, folder)
    options = StudyOptions(folder / "out", device="cpu")
    return study, options, run_study(study, options)


def test_results_have_everything(done: tuple[Study, StudyOptions, list[Result]]) -> None:
    study, options, results = done
    assert [r.recipe for r in results] == ["BL", "CPF-50", "CQ"]
    assert results[0].reference
    assert results[0].cost.latency_ratio == pytest.approx(1.0)
    rate = results[1].cost.compression_rate
    assert rate is not None
    assert rate >= 0.5
    for result in results:
        for domain in ("seen", "unseen-mean"):
            figure = result.figure("auc", group=domain, split="test")
            assert figure is not None
            assert figure.n > 0
        onnx = options.folder / "detectors" / result.recipe / "model.onnx"
        assert result.cost.size_bytes == onnx.stat().st_size
    assert read_results(options.folder / "results") == sorted(
        results, key=lambda r: (r.recipe, r.seed)
    )
    assert study.reference_name == "BL"


def test_results_of_before_there_was_a_source_are_still_read(
    done: tuple[Study, StudyOptions, list[Result]], tmp_path: Path
) -> None:
    value = done[2][0].model_dump(mode="json")
    assert value.pop("source") == []
    (tmp_path / "old.json").write_text(json.dumps(value))
    assert read_results(tmp_path) == done[2][:1]


def test_results_are_compared_with_the_reference_image_by_image(
    done: tuple[Study, StudyOptions, list[Result]],
) -> None:
    base, pruned, small = done[2]
    assert not [f for f in base.figures if "against" in f.slice]
    where = {"group": "seen", "split": "test"}
    for result in (pruned, small):
        gain = result.figure("accuracy_gain", **where, against="BL")
        mine, theirs = (r.figure("accuracy", **where) for r in (result, base))
        assert gain is not None and mine is not None and theirs is not None  # noqa: PT018
        assert gain.value == pytest.approx(mine.value - theirs.value)


def test_common_steps_are_done_once(done: tuple[Study, StudyOptions, list[Result]]) -> None:
    _, options, results = done
    assert results[0].steps[0].key == results[1].steps[0].key
    assert [step.cached for step in results[1].steps] == [True, False, False]
    folders = [p for p in options.cache_folder.iterdir() if p.is_dir()]
    assert len(folders) == 4
    assert not [p for p in folders if p.name.endswith(".unfinished")]


def test_a_finished_study_is_not_run_again(
    done: tuple[Study, StudyOptions, list[Result]],
) -> None:
    study, options, results = done
    said = []
    again = run_study(
        study,
        StudyOptions(options.folder, device="cpu", progress=lambda *words: said.append(words)),
    )
    assert again == results
    assert "already finished" in said[-1][-1]


def test_a_plan_of_before_an_option_existed_is_the_same_plan(
    done: tuple[Study, StudyOptions, list[Result]],
) -> None:
    study, options, results = done
    path = options.folder / "study.json"
    plan = json.loads(path.read_text())
    for entry in plan["study"]["recipes"]:
        del entry["seeds"]
    del plan["study"]["data"]["source"]
    path.write_text(json.dumps(plan))
    assert run_study(study, options) == results
    path.write_text(json.dumps({"study": "?", "data": plan["data"]}))
    with pytest.raises(ResumeError):
        run_study(study, options)
    path.write_text(json.dumps(plan))


def test_a_changed_recipe_is_refused_with_the_difference(
    done: tuple[Study, StudyOptions, list[Result]],
) -> None:
    study, options, _ = done
    value = study.model_dump(mode="json")
    value["recipes"][0]["steps"] = [{"train": {"steps": 7, "batch": 8}}]
    with pytest.raises(ResumeError, match="holds another study") as caught:
        run_study(Study.model_validate(value), options)
    lines = caught.value.details
    assert any(line.startswith("-") and '"steps": 6' in line for line in lines)
    assert any(line.startswith("+") and '"steps": 7' in line for line in lines)


def test_two_runs_in_one_folder(done: tuple[Study, StudyOptions, list[Result]]) -> None:
    study, options, _ = done
    with lock_folder(options.folder), pytest.raises(BusyError):
        run_study(study, options)


def test_an_unknown_domain_names_the_known_ones(tiny_manifest: Manifest, tmp_path: Path) -> None:
    study = make(tiny_manifest, tmp_path)
    for role in ("seen", "source"):
        value = study.model_dump(mode="json")
        value["data"][role] = ["nowhere"]
        with pytest.raises(DataError, match=f"{role} domain 'nowhere' is not.*Domains: one, two"):
            run_study(Study.model_validate(value), StudyOptions(tmp_path / "out"))


def test_impossible_orders_are_refused_before_any_work(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    for steps in ([{"prune": {"rate": 0.5}}], [TRAIN, "quantize", "finetune"], ["finetune"]):
        study = make(
            tiny_manifest, tmp_path, recipes=[{"name": "X", "start": TINY, "steps": steps}]
        )
        with pytest.raises(ConfigError, match="Recipe X"):
            plan_study(study, StudyOptions(tmp_path / "out"), estimate=False)
    too_far = [TRAIN, {"prune": {"rate": 0.99, "multiple": 8}}]
    study = make(tiny_manifest, tmp_path, recipes=[{"name": "X", "start": TINY, "steps": too_far}])
    with pytest.raises(ConfigError, match="Recipe X.*at most"):
        plan_study(study, StudyOptions(tmp_path / "out"), estimate=False)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("cache/*"))


def distilling(manifest: Manifest, folder: Path, **options: object) -> Study:
    entry = {"student": "lydite-small", "steps": 1, "batch": 4, **options}
    recipe = {"name": "BL", "start": TINY, "steps": [TRAIN, {"distill": entry}]}
    return make(manifest, folder, recipes=[recipe])


def test_test_images_are_nothing_to_learn_from(tiny_manifest: Manifest, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    row = next(iter(tiny_manifest.select(split="test", domain="two").rows()))
    (extra / "innocent.jpg").write_bytes(row.file.read_bytes())
    study = distilling(tiny_manifest, tmp_path, transfer={"folder": extra})
    for act in (plan_study, run_study):
        with pytest.raises(
            DataError, match="Recipe BL: `distill` learns from 1 images of the test"
        ):
            act(study, StudyOptions(tmp_path / "out", device="cpu"))


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_finished_study_sees_that_a_teacher_changed(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    teacher = Detector.start(Architecture(**TINY)).evolve(training={"steps": 1})  # type: ignore[arg-type]
    teacher.save(tmp_path / "teacher")
    study = distilling(tiny_manifest, tmp_path, teachers=[tmp_path / "teacher"])
    options = StudyOptions(tmp_path / "out", device="cpu")
    (first,) = run_study(study, options)
    assert run_study(study, options) == [first]
    teacher.evolve(limits=("another one",)).save(tmp_path / "teacher")
    (second,) = run_study(study, options)
    assert second.key != first.key


def transferring(manifest: Manifest, folder: Path, **data: object) -> Study:
    """Return a study in which a detector of the domain one learns two, with and without replay."""
    start = Detector.start(Architecture(**TINY)).evolve(steps=({"train": {}},))  # type: ignore[arg-type]
    start.save(folder / "start")
    begin = {"detector": folder / "start"}
    steps = [{"finetune": {"steps": 2, "batch": 8}}]
    return make(
        manifest,
        folder,
        data={"manifest": folder / "given.parquet", "seen": ["two"], **data},
        recipes=[
            {"name": "base", "start": begin},
            {"name": "TL", "start": begin, "steps": steps},
            {"name": "TL-replay", "start": begin, "steps": steps, "replay": 8},
        ],
    )


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_transfer_study_measures_the_source_and_replays_it(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    study = transferring(tiny_manifest, tmp_path, source=["one"])
    options = StudyOptions(tmp_path / "out", device="cpu")
    results = run_study(study, options)
    for result in results:
        assert (result.seen, result.source) == (("two",), ("one",))
        known, here = (
            result.figure("accuracy", split="test", **where)
            for where in ({"group": "source"}, {"domain": "one"})
        )
        assert known is not None and here is not None  # noqa: PT018
        assert (known.value, known.n) == (here.value, 12)
        assert result.figure("auc", group="unseen-mean", split="test") is None
    _, plain, replayed = results
    gain = replayed.figure("accuracy_gain", group="source", split="test", against="base")
    assert gain is not None
    assert replayed.key != plain.key
    assert (plain.spec.get("replay"), replayed.spec.get("replay")) == (None, 8)
    made = Detector.load(options.folder / "detectors" / "TL-replay").card
    assert made.score.n == 2 * (4 + 2)  # the threshold is fitted on both domains
    assert run_study(study, options) == results

    # without a source the same detector is found again, and only what it is measured by differs
    value = study.model_dump(mode="json")
    value["data"]["source"], value["recipes"] = [], value["recipes"][:2]
    again = run_study(Study.model_validate(value), replace(options, replace=True))
    assert again[1].key == plain.key
    assert again[1].steps[0].cached
    assert again[1].figure("auc", group="source", split="test") is None
    assert again[1].figure("auc", group="unseen-mean", split="test") is not None


def test_replay_is_checked_before_any_work(tiny_manifest: Manifest, tmp_path: Path) -> None:
    options = StudyOptions(tmp_path / "out", device="cpu")
    plan = plan_study(transferring(tiny_manifest, tmp_path, source=["one"]), options)
    assert plan.to_dict()["source"] == ("one",)
    assert [step.notes for step in plan.steps] == [
        (),
        ("TL-replay learns from 8 images of each class of one besides, against forgetting.",),
    ]
    study = transferring(tiny_manifest, tmp_path)
    for act in (plan_study, run_study):
        with pytest.raises(ConfigError, match="Recipe TL-replay: `replay: 8` .* none is named"):
            act(study, options)
    real = tiny_manifest.select(label="real")
    half = real.joined(tiny_manifest.select(label="fake", domain="two"))
    study = transferring(half, tmp_path, source=["one"])
    with pytest.raises(DataError, match="Recipe TL-replay: .* split of one has no fake one"):
        plan_study(study, options)
    few = tiny_manifest.select(domain="two").joined(
        tiny_manifest.select(domain="one", path=["one-train-0-real.jpg", "one-train-0-fake.jpg"])
    )
    with pytest.raises(DataError, match="`replay: 8` needs as many"):
        plan_study(transferring(few, tmp_path, source=["one"]), options)
    assert not (tmp_path / "out" / "cache").exists()


def test_a_plan_without_a_source_does_not_speak_of_one(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    plan = plan_study(make(tiny_manifest, tmp_path), StudyOptions(tmp_path / "out"), estimate=False)
    assert "source" not in plan.to_dict()


def test_a_plan_counts_common_steps_once(tiny_manifest: Manifest, tmp_path: Path) -> None:
    plan = plan_study(make(tiny_manifest, tmp_path), StudyOptions(tmp_path / "out"))
    assert len(plan.steps) == 4
    assert plan.seconds > 0
    assert plan.steps[1].parameters <= plan.steps[0].parameters / 2
    assert plan.disk_bytes > 0
    assert not (tmp_path / "out" / "cache").exists()


def test_a_share_for_a_domain_that_is_not_there_is_noted(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    train = {"train": {"steps": 2, "batch": 8, "domain_shares": {"one": 0.2, "onne": 0.3}}}
    recipes = [{"name": "BL", "start": TINY, "steps": [train, {"quantize": {}}]}]
    plan = plan_study(make(tiny_manifest, tmp_path, recipes=recipes), StudyOptions(tmp_path / "o"))
    assert [any("names onne," in note for note in step.notes) for step in plan.steps] == [
        True,
        False,
    ]


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lydite.study.run import StudyOptions, run_study
from lydite.study.spec import Study
study = Study.model_validate_json(Path(sys.argv[1]).read_text())
say = lambda *words: print(*words, flush=True)
run_study(study, StudyOptions(Path(sys.argv[2]), device="cpu", progress=say))
"""


def long_enough(manifest: Manifest, folder: Path) -> tuple[Study, list[str]]:
    """Return a study of one recipe, and the command that runs it in a process of its own."""
    steps = [
        {"train": TRAIN["train"] | {"steps": 40}},
        {"prune": {"rate": 0.5, "multiple": 1}},
        {"finetune": {"steps": 10, "batch": 8, "checkpoint_s": 0.0}},
    ]
    recipe = {"name": "CPF", "start": TINY, "steps": steps}
    study = make(manifest, folder, recipes=[recipe])
    file = folder / "study.json"
    file.write_text(study.model_dump_json(), encoding="utf-8")
    return study, [sys.executable, "-c", SCRIPT, str(file), str(folder / "cut")]


def same_weights(folder: Path, whole: list[Result]) -> bool:
    """Tell whether both runs of `long_enough` ended with the same bytes."""
    assert read_results(folder / "cut" / "results")[0].key == whole[0].key
    weights = "detectors/CPF/model.safetensors"
    return sha256_file(folder / "cut" / weights) == sha256_file(folder / "whole" / weights)


def test_kill_and_run_again_gives_the_same_weights(tiny_manifest: Manifest, tmp_path: Path) -> None:
    """SIGKILL in the middle of both training steps of a run in its own process."""
    study, command = long_enough(tiny_manifest, tmp_path)
    whole = run_study(study, StudyOptions(tmp_path / "whole", device="cpu"))
    for wanted in ("train 19 ", "finetune 4 "):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if wanted in line:
                    os.kill(process.pid, signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        assert not list((tmp_path / "cut").rglob("results/*.json"))
    subprocess.run(command, check=True, capture_output=True)
    assert same_weights(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_at_random_moments(tiny_manifest: Manifest, tmp_path: Path) -> None:
    study, command = long_enough(tiny_manifest, tmp_path)
    whole = run_study(study, StudyOptions(tmp_path / "whole", device="cpu"))
    moments = np.random.default_rng(1).uniform(0.0, 2.0, 20)
    for moment in moments:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun to work
            time.sleep(moment)
            process.kill()
        for card in (tmp_path / "cut").rglob("card.json"):
            if TEMPORARY_PREFIX not in str(card):
                Detector.load(card.parent)
    subprocess.run(command, check=True, capture_output=True)
    assert same_weights(tmp_path, whole)


def test_what_a_step_does_now_counts_although_the_plan_is_the_same(
    done: tuple[Study, StudyOptions, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, options, _ = done
    data = load_data(study.data, options.folder)
    assert finished(study, data, options.folder) is not None
    monkeypatch.setattr(Quantize, "version", Quantize.version + 1)
    assert finished(study, data, options.folder) is None


def test_results_are_of_their_reference_and_their_bench(
    done: tuple[Study, StudyOptions, list[Result]], tmp_path: Path
) -> None:
    study, options, _ = done
    data = load_data(study.data, options.folder)
    bench = study.bench.model_dump()
    for changes in (
        {"reference": "CQ"},
        *({"bench": bench | {name: 4}} for name in bench),
        {"limits": ["none"]},
    ):
        other = Study.model_validate(study.model_dump(mode="json") | changes)
        assert finished(other, data, options.folder) is None
    card = options.folder / "detectors" / "CQ" / "card.json"
    sound = card.read_bytes()
    card.write_text("{")
    assert finished(study, data, options.folder) is None
    card.write_bytes(sound)
    assert finished(study, data, options.folder) is not None
    for part in ("detectors/CQ/model.onnx", "scores/CQ.parquet"):
        gone = (options.folder / part).rename(tmp_path / "gone")
        assert finished(study, data, options.folder) is None
        gone.rename(options.folder / part)
    onnx = options.folder / "detectors" / "CQ" / "model.onnx"
    sound = onnx.read_bytes()
    onnx.write_bytes(sound[:-9])
    assert finished(study, data, options.folder) is None
    onnx.write_bytes(sound)
    assert finished(study, data, options.folder) is not None


@pytest.mark.parametrize(
    ("split", "label"), [("train", "real"), ("train", "fake"), ("val", "real"), ("val", "fake")]
)
def test_a_class_that_is_missing_is_found_before_any_work(
    tiny_manifest: Manifest, tmp_path: Path, split: str, label: str
) -> None:
    rows = [
        not (row.split == split and row.label == label and row.domain == "one")
        for row in tiny_manifest.rows()
    ]
    study = make(Manifest(tiny_manifest.table.filter(rows), tiny_manifest.root), tmp_path)
    with pytest.raises(DataError, match=f"BL: the {split} split .* holds no {label} image"):
        plan_study(study, StudyOptions(tmp_path / "out"), estimate=False)
    value = study.model_dump(mode="json")
    value["recipes"] = [{"name": "fresh", "start": TINY}]
    plan_study(Study.model_validate(value), StudyOptions(tmp_path / "out"), estimate=False)


def test_a_scan_serves_again_for_the_same_question_alone(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    for row in tiny_manifest.select(domain="one").rows():
        name = "a" if row.label == "real" else "b"
        (images / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row.file, images / name / row.path)
    out = tmp_path / "out"

    def asked(real: str, fake: str) -> DataSpec:
        scan = ScanSpec(root=images, layout="folders", real=(real,), fake=(fake,))
        return DataSpec(scan=scan, seen=("images",))

    def fakes(spec: DataSpec, *, renew: bool = False) -> set[str]:
        found = study_manifest(spec, out, renew=renew).select(label="fake")
        return {path.split("/")[0] for path in found.column("path")}

    assert fakes(asked("a", "b")) == {"b"}
    assert fakes(asked("b", "a")) == {"a"}
    before = (out / "manifest.parquet").stat().st_mtime_ns
    assert fakes(asked("b", "a")) == {"a"}
    assert (out / "manifest.parquet").stat().st_mtime_ns == before
    # a study that stands in the folder keeps its images until it is told otherwise
    (out / "study.json").write_text("{}")
    assert fakes(asked("a", "b")) == {"b"}
    assert (out / "manifest.parquet").stat().st_mtime_ns == before
    assert fakes(asked("a", "b"), renew=True) == {"b"}
    gone = next((images / "a").iterdir())
    gone.unlink()
    count = len(study_manifest(asked("a", "b"), out))
    assert len(study_manifest(asked("a", "b"), out, renew=True)) == count - 1


def test_a_misspelled_exclusion_is_named(tiny_manifest: Manifest, tmp_path: Path) -> None:
    study = make(tiny_manifest, tmp_path)
    data = study.data.model_copy(update={"exclude": ("tow",)})
    with pytest.raises(DataError, match="`exclude`: Unknown domain 'tow'. Did you mean 'two'"):
        load_data(data, tmp_path)


def test_broken_files_in_a_study_s_folder_are_made_anew(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    study = make(tiny_manifest, tmp_path)
    options = StudyOptions(tmp_path / "out", device="cpu")
    first = run_study(study, options)
    out = options.folder
    (out / "scores" / "BL.parquet").write_bytes(b"")
    (out / "scores" / "CQ.parquet").write_bytes(b"PAR1 and no more")
    (out / "detectors" / "CPF-50" / "model.onnx").write_bytes(b"x")
    (out / "detectors" / "CQ" / "card.json").write_text("{")
    again = run_study(study, options)
    assert [r.key for r in again] == [r.key for r in first]
    assert [r.card_digest for r in again] == [r.card_digest for r in first]
    data = load_data(study.data, out)
    assert finished(study, data, out) == again


def test_what_another_plan_left_behind_is_not_taken_for_a_result_s_own(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that replaced this one was stopped between its scores and its results."""
    first, second = (
        make(tiny_manifest, tmp_path, recipes=[{"name": "BL", "start": TINY, "steps": [step]}])
        for step in (TRAIN, {"train": TRAIN["train"] | {"steps": 3}})
    )
    options = StudyOptions(tmp_path / "out", device="cpu", replace=True)
    (result,) = run_study(first, options)
    data = load_data(first.data, options.folder)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lydite.study.run.measure", stopped)
        run_study(second, options)
    assert finished(first, data, options.folder) is None
    (again,) = run_study(first, options)
    assert again.card_digest == result.card_digest
    assert load_card(options.folder / "detectors" / "BL").digest == again.card_digest
    assert read_scores(options.folder / "scores" / "BL.parquet")["key"][0].as_py() == again.key


def test_few_images_are_validated_under_validation_whatever_their_split(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    recipes = [{"name": "BL", "start": TINY, "shots": 4, "steps": [TRAIN]}]
    study = make(tiny_manifest, tmp_path, recipes=recipes, validation=True, probes=False)
    (result,) = run_study(study, StudyOptions(tmp_path / "out", device="cpu"))
    figure = result.figure("auc", group="seen", split="val")
    assert figure is not None
    assert figure.n == 2  # one of each class

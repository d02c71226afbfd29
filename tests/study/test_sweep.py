"""`lydite place --sweep`: a tiny detector, an adapter at each of its places, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.transfer import trained
from lydite.card import Architecture, Quantization, load_card
from lydite.cli import main
from lydite.data.few import few
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.recipe import parse_step
from lydite.study.results import read_results
from lydite.study.run import StudyOptions
from lydite.study.sweep import placement_study, sweep
from lydite.transfer.placement import measure_placement
from lydite.transfer.placement_result import Placement, read_placement
from lydite.transfer.predictors import PREDICTORS

pytestmark = pytest.mark.filterwarnings("ignore:The validation AUC")
TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6], "blocks": 0})
OPTIONS = {"adapter": "residual-separable", "steps": 1, "balance": "pairs"}
PLACES = ["body.0", "body.1"]


@pytest.fixture(scope="module")
def folder(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector that counts as trained and the manifest."""
    here = tmp_path_factory.mktemp("sweep")
    detector = trained(TINY).evolve(steps=({"train": {}},), limits=("Knows one.",), name="tiny one")
    detector.save(here / "tiny")
    tiny_manifest.write(here / "images.parquet")
    return here


def words(folder: Path, *more: str) -> list[str]:
    common = ["place", str(folder / "tiny"), str(folder / "images.parquet"), "--images", "8"]
    return [*common, "--seen", "two", "--source", "one", "--sweep", *more]


@pytest.fixture(scope="module")
def swept(folder: Path) -> Path:
    """The folder of a sweep that was run to its end."""
    line = words(folder, "-o", str(folder / "out"), "--steps", "1", "--device", "cpu")
    assert main(line) == 0
    return folder / "out"


def test_a_sweep_keeps_ranking_and_measurements(
    swept: Path, folder: Path, tiny_manifest: Manifest
) -> None:
    kept = read_placement(swept / "placement.json")
    assert kept.predictors == tuple(PREDICTORS)
    train = tiny_manifest.select(split="train")
    ranked = measure_placement(
        Detector.load(folder / "tiny"),
        train.select(domain="two"),
        train.select(domain="one"),
        crops=8,
        settings=parse_step({"adapt": OPTIONS | {"place": 0}}),  # type: ignore[arg-type]
    )
    assert kept.places == ranked.places
    assert kept.card_digest == load_card(folder / "tiny").digest
    assert kept.sweep is not None
    made = kept.sweep
    assert (made.target, made.source, made.network) == (("two",), ("one",), "lydite-small")
    assert (made.step["adapter"], made.step["steps"], made.shots) == ("separable", 1, None)
    assert "place" not in made.step
    assert str(folder) not in (swept / "placement.json").read_text("utf-8")
    assert [(trial.place, trial.seed) for trial in made.trials] == [(p, 0) for p in PLACES]


def test_what_is_kept_is_what_the_results_say(swept: Path) -> None:
    made = read_placement(swept / "placement.json").sweep
    assert made is not None
    results = {result.recipe: result for result in read_results(swept / "results")}
    base = results["base"]
    for trial in made.trials:
        result = results[f"at-{trial.place}"]
        card = load_card(swept / "detectors" / result.recipe)
        assert trial.card_digest == result.card_digest == card.digest
        assert trial.trainable_parameters == card.training["trainable_parameters"]
        for role, domain in (("target", "two"), ("source", "one")):
            for metric in ("auc", "accuracy"):
                new, old = (r.figure(metric, domain=domain, split="test") for r in (result, base))
                assert new is not None
                assert old is not None
                difference = new.value - old.value  # type: ignore[operator]
                assert trial.gain(metric, role) == pytest.approx(difference)  # type: ignore[arg-type]
        paired = [f for f in trial.figures if f.metric == "accuracy_gain"]
        assert [f.n for f in paired] == [12, 12]
        assert all(f.low is not None for f in paired)
    assert {(f.metric, f.slice["role"]) for f in made.base} == {
        (metric, role) for metric in ("accuracy", "auc") for role in ("target", "source")
    }
    assert made.data == base.data


def test_a_finished_sweep_is_not_run_again_and_its_file_stays(
    swept: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (swept / "placement.json").read_bytes()
    line = words(folder, "-o", str(swept), "--steps", "1", "--device", "cpu")
    assert main([*line, "--json"]) == 0
    printed = capsys.readouterr()
    assert "already finished" in printed.err
    assert (swept / "placement.json").read_bytes() == before
    assert Placement.model_validate_json(printed.out) == read_placement(swept / "placement.json")
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "AUC two" in text
    assert "Report: file://" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("body.")] == PLACES * 2
    svg = (swept / "placement.svg").read_text("utf-8")
    assert "gain in AUC" in svg
    assert "Measured gains in AUC on two are body.0 " in svg
    # other training in the same folder is another study
    assert main([*line, "--lr", "0.5"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert any("holds another study" in line for line in error)
    assert any(line.startswith("  + ") and '"lr": 0.5' in line for line in error)
    assert (swept / "placement.json").read_bytes() == before


def test_with_shots_predictors_see_these_alone(
    folder: Path, tmp_path: Path, tiny_manifest: Manifest
) -> None:
    study = placement_study(
        folder / "tiny", folder / "images.parquet", ["two"], OPTIONS, shots=4, seeds=(3, 5)
    )
    made = sweep(study, StudyOptions(tmp_path, device="cpu"), crops=4)
    assert made is not None
    assert made.sweep is not None
    train, _ = few(tiny_manifest.select(split="train", domain="two"), 4, 3)
    assert made.images == train.digest
    assert (made.known, made.sweep.shots, made.sweep.seeds) == (None, 4, (3, 5))
    assert made.sweep.rest == "others"
    assert {trial.gain("auc", "others") is None for trial in made.sweep.trials} == {False}
    recipes = sorted((r.recipe, r.seed) for r in read_results(tmp_path / "results"))
    assert recipes == [
        *(("at-" + place, seed) for place in PLACES for seed in (3, 5)),
        ("base", 3),
    ]


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words(folder, "-o", str(tmp_path / "out"), "--seeds", "0", "1", "--dry-run", "--json")
    assert main(line) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["recipe"] for step in plan["steps"]] == [f"at-{p}" for p in PLACES] * 2
    assert plan["seconds"] > 0
    assert not (tmp_path / "out").exists()


def test_only_source_and_target_are_measured_where_the_source_is_named(folder: Path) -> None:
    place = folder / "tiny", folder / "images.parquet"
    assert placement_study(*place, ["one"], OPTIONS, source=["two"]).data.exclude == ()
    assert placement_study(*place, ["one"], OPTIONS, source=["none"]).data.exclude == ("two",)
    assert placement_study(*place, ["one"], OPTIONS).data.exclude == ()
    assert placement_study(*place, ["one"], OPTIONS).limits == ("Knows one.",)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "needs a folder for them. Name it with -o"),
        (["-o", "{}", "--seeds", "1", "1"], "A seed stands twice in 1, 1"),
        (["-o", "{}", "--adapter", "linaer"], "adapter"),
        (["-o", "{}", "--root", "{}"], "--sweep takes no --root"),
        (["-o", "{}", "--shots", "4000"], "needs as many"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    folder: Path,
    tmp_path: Path,
    more: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(folder, *(word.format(tmp_path / "out") for word in more))) == 2
    (error,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error:"))
    assert said in error
    assert not (tmp_path / "out").exists()


def test_options_of_training_without_a_sweep_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [word for word in words(folder, "--steps", "5") if word != "--sweep"]
    assert main(line) == 2
    assert "Add --sweep" in capsys.readouterr().err


def test_what_could_not_be_measured_is_refused_before_the_ranking(
    folder: Path, tmp_path: Path, tiny_manifest: Manifest
) -> None:
    fakes = tiny_manifest.select(split="test", domain="two", label="fake")
    lacking = tiny_manifest.select(split=["train", "val"]).table
    import pyarrow as pa

    part = Manifest(pa.concat_tables([lacking, fakes.table]), tiny_manifest.root)
    part.write(tmp_path / "part.parquet")
    study = placement_study(folder / "tiny", tmp_path / "part.parquet", ["two"], OPTIONS)
    told: list[str] = []
    options = StudyOptions(tmp_path / "out", progress=lambda what, *_: told.append(what))
    with pytest.raises(DataError, match="The test split holds no real image of two"):
        sweep(study, options)
    assert "place" not in told


def test_a_quantized_detector_is_refused(folder: Path, tmp_path: Path) -> None:
    trained(TINY).evolve(quantization=Quantization(scheme="linear-int8")).save(tmp_path / "q")
    with pytest.raises(ConfigError, match="is quantized"):
        placement_study(tmp_path / "q", folder / "images.parquet", ["two"], OPTIONS)

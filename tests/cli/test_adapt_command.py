"""`lydite adapt`: from a shipped detector and new images to a pack that predicts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.transfer import trained
from lydite.card import Architecture, Preprocess
from lydite.cli import main
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.export.onnx import export
from lydite.pack_folder import load_pack
from lydite.recipe import Context, parse_step
from lydite.study.adapt import usual_also

pytestmark = pytest.mark.filterwarnings("ignore:The validation AUC")
TINY = Architecture(network="lydite-small", config={"widths": [4, 6], "blocks": 0})


@pytest.fixture(scope="module")
def base(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an exported int8 detector that counts as trained."""
    folder = tmp_path_factory.mktemp("adapt")
    tiny_manifest.write(folder / "images.parquet")
    start = Detector.start(TINY, Preprocess(size=64, tiles=2), seed=1)
    start.network.eval()
    trained = start.evolve(steps=({"train": {}},), limits=("Knows one.",))
    train, val = (tiny_manifest.select(split=s, domain="one") for s in ("train", "val"))
    context = Context(train, val, seed=0, folder=folder / "scratch")
    small = parse_step({"quantize": {"images": 8}}).run(trained, context)
    Detector(small.card, small.network, {"model.onnx": export(small)}).save(folder / "base")
    return folder


def words(base: Path, out: Path, *more: str) -> list[str]:
    common = [str(base / "base"), str(base / "images.parquet"), "--seen", "two", "-o", str(out)]
    return ["adapt", *common, "--steps", "3", *more]


def test_a_pack_of_an_int8_detector_is_measured_written_and_predicts(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_manifest: Manifest
) -> None:
    before = {p.name: p.read_bytes() for p in (base / "base").iterdir()}
    assert main(words(base, tmp_path / "out", "--json", "--shots", "4")) == 0
    value = json.loads(capsys.readouterr().out)
    assert {p.name: p.read_bytes() for p in (base / "base").iterdir()} == before
    assert value["card"]["name"] == "two"
    assert value["card"]["limits"] == ["Knows one."]  # what the base cannot do, the pack cannot
    added = [(edit["op"], edit["kind"], edit["after"]) for edit in value["card"]["edits"]]
    assert added == [("add_adapter", "separable", f"body.{stage}") for stage in (0, 1)]
    assert value["adapted"]["seen"] == ["two"]
    assert value["card"]["score"]["n"] == 2  # of four shots a class, one is for the threshold
    against = [f for f in value["adapted"]["figures"] if f["slice"].get("against") == "base"]
    assert {f["metric"] for f in against} == {"accuracy_gain", "auc_gain", "flipped"}

    # what the results say of both together is what `predict --pack` does
    tests = [row for row in tiny_manifest.select(split="test").rows() if row.domain == "two"]
    images = [str(row.file) for row in tests]
    predict = ["predict", *images, "--detector", str(base / "base"), "--json"]
    assert main([*predict, "--pack", value["pack"]]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert {answer["by"] for answer in answers} <= {"base", "two"}
    right = [
        (answer["p_fake"] > 0.5) == (row.label == "fake")
        for answer, row in zip(answers, tests, strict=True)
    ]
    where = {"domain": "two", "split": "test", "with": "base"}
    (both,) = (
        f["value"]
        for f in value["adapted"]["figures"]
        if f["metric"] == "accuracy" and f["slice"] == where
    )
    assert both == pytest.approx(sum(right) / len(right))
    folder = Path(value["pack"])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert value["adapted"]["cost"]["pack_bytes"] == size
    assert value["base"]["cost"]["pack_bytes"] is None
    gains = [f for f in value["adapted"]["figures"] if f["metric"] == "accuracy_gain"]
    assert any(f["slice"].get("with") == "base" for f in gains)

    assert main(words(base, tmp_path / "out", "--shots", "4")) == 0  # finished: as it was
    said = capsys.readouterr().out
    assert "values learned" in said
    assert str(tmp_path / "out" / "pack") in said


def test_another_adaptation_takes_the_place_of_an_older_one_if_asked(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words(base, tmp_path / "out", "--shots", "4")
    assert main(line) == 0
    first = load_pack(tmp_path / "out" / "pack").card
    assert main([*line, "--seed", "3"]) == 2
    assert load_pack(tmp_path / "out" / "pack").card == first
    assert main([*line, "--seed", "3", "--replace"]) == 0
    second = load_pack(tmp_path / "out" / "pack").card
    assert second.key != first.key
    shutil.rmtree(tmp_path / "out" / "pack")
    shutil.rmtree(tmp_path / "out" / "detectors")
    capsys.readouterr()
    assert main([*line, "--seed", "3"]) == 0  # what was lost is made again
    assert load_pack(tmp_path / "out" / "pack").card.key == second.key


def test_a_dry_run_writes_no_pack(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(base, tmp_path / "out", "--dry-run", "--place", "-1")) == 0
    assert "adapt" in capsys.readouterr().out
    assert not (tmp_path / "out" / "pack").exists()


def test_what_was_known_before_is_measured_and_replayed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--shots", "4", "--source", "one", "--replay", "8"]
    assert main(words(base, tmp_path / "out", *more, "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "Learned before: one" in said
    assert "two learns from 8 real images of one besides, against forgetting." in said
    assert main(words(base, tmp_path / "out", *more, "--dry-run", "--replay-only", "both")) == 0
    said = capsys.readouterr().out
    assert "two learns from 8 images of each class of one besides, against forgetting." in said
    assert main(words(base, tmp_path / "out", *more, "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["source"] == ["one"]

    assert main(words(base, tmp_path / "out", *more, "--json")) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["adapted"]["source"] == ["one"]
    assert value["adapted"]["spec"]["replay"] == 8
    assert value["adapted"]["spec"]["replay_only"] == "real"
    assert value["card"]["score"]["n"] == 2 + 2  # a quarter of the shots and of the replay
    groups = {f["slice"].get("group") for f in value["adapted"]["figures"]}
    assert groups == {None, "seen", "source", "real-vs-real"}
    (step,) = value["adapted"]["spec"]["steps"]
    assert step["adapt"]["domain_shares"] == {"one": 0.2}
    assert main(words(base, tmp_path / "out", *more)) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["one", "source"] in rows
    assert ["two", "learned"] in rows


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "Two!"], "A pack cannot be called 'Two!'"),
        (["--name", "base"], "A pack cannot be called 'base'"),
        (["--adapter", "linaer"], "adapter"),
        (["--place", "9"], "must be a number from -2 to 1"),
        (["--shots", "4000"], "needs as many"),
        (["--shots", "1"], "`shots`: Input should be greater than or equal to 2"),
        (["--source", "one", "--replay", "1"], "`replay`: Input should be greater than or equal"),
        (["--source", "two"], "'two' stands in both `source` and `seen`"),
        (["--source", "three"], "source domain 'three' is not in the data. Domains: one, two"),
        (["--replay", "8"], "Recipe two: `replay: 8`"),
        (["--replay", "4000", "--source", "one"], "`replay: 4000` needs as many"),
        (["--replay", "8", "--source", "one", "--replay-only", "fakes"], "has no fakes one"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    base: Path, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(base, tmp_path / "out", *more)) == 2
    (error,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error:"))
    assert said in error


def test_what_would_not_fit_a_pack_is_refused_before_the_training(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = Architecture(network="paper-student-0.44m")  # its head is most of it
    start = Detector.start(student, Preprocess(size=64, tiles=2)).evolve(steps=({"train": {}},))
    start.network.eval()
    Detector(start.card, start.network, {"model.onnx": export(start)}).save(tmp_path / "student")
    line = words(base, tmp_path / "out", "--also", "head")
    line[1] = str(tmp_path / "student")
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "with head that would be" in said
    assert "--no-also" in said
    assert not (tmp_path / "out").exists()


def test_a_detector_without_an_exported_file_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Detector.start(TINY, Preprocess(size=64)).evolve(steps=({"train": {}},)).save(tmp_path / "bare")
    line = words(base, tmp_path / "out")
    line[1] = str(tmp_path / "bare")
    assert main(line) == 2
    assert "holds no model.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--replay-share", "0.2"], "says nothing without --replay"),
        (["--source", "one", "--replay", "8", "--replay-share", "20"], "must be in .0, 1.. Got 20"),
    ],
)
def test_a_share_of_nothing_and_no_share_are_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(words(base, tmp_path / "out", *more)) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_large_head_stays_frozen_unless_somebody_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_manifest: Manifest
) -> None:
    small = {"network": "paper-student-0.44m", "input_size": 64, "config": {"width": 0.25}}
    architecture = Architecture.model_validate(small)
    student = trained(architecture).evolve(steps=({"train": {}},))
    replace(student, files={"model.onnx": export(student)}).save(tmp_path / "base")
    assert usual_also(tmp_path / "base") == ()
    tiny_manifest.write(tmp_path / "images.parquet")
    for usual in ((), ("--no-also",)):
        code = main(words(tmp_path, tmp_path / "out", *usual, "--dry-run"))
        assert code == 0, capsys.readouterr().err

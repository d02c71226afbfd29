"""`lydite compress` as a user types it, on a detector trained for three steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from lydite.card import Architecture, Figure
from lydite.cli import main
from lydite.compress import budget as budgets
from lydite.compress.budget import Budget
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.evaluate.calibrate import calibrate
from lydite.files import lock_folder, sha256_file
from lydite.study.compress import choose, name_of
from lydite.study.results import Cost, Result, StepCost

# networks that have hardly learned may well answer the wrong way round
pytestmark = pytest.mark.filterwarnings("ignore:The validation AUC")


@pytest.fixture(scope="module")
def given(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("given")
    tiny_manifest.write(folder / "m.parquet")
    config = {"widths": [16, 32]}
    start = Detector.start(Architecture(network="lydite-small", input_size=64, config=config))
    for name, value in start.network.named_parameters():
        if "bn" in name:  # equal tensors would be stored once; those of a trained network differ
            torch.nn.init.normal_(value)
    made = start.evolve(steps=({"train": {}},), name="tiny")
    val = tiny_manifest.select(split="val", domain="one")
    calibrate(made, val).save(folder / "detector")
    return folder / "detector", folder / "m.parquet"


def words(given: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    detector, manifest = map(str, given)
    return ["compress", detector, manifest, "--seen", "one", "-o", str(out), "--steps", "2", *more]


def test_a_rate_tries_techniques_and_chooses_one(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: sha256_file(p) for p in given[0].iterdir()}
    out = tmp_path / "out"
    line = words(given, out, "--rate", "0.5", "--technique", "prune", "prune-int8")
    assert main([*line, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    tried = {item["technique"]: item for item in value["candidates"]}
    assert set(tried) == {"prune", "prune-int8"}
    assert tried["prune-int8"]["costs"]["size_bytes"] < tried["prune"]["costs"]["size_bytes"]
    chosen = Detector.load(Path(value["folder"]))
    assert chosen.card.name == value["choice"]["recipe"]
    assert Path(value["report"]).is_file()
    assert {p: sha256_file(p) for p in given[0].iterdir()} == before

    kept = (out / "compress.json").read_bytes()
    assert main(words(given, out, "--rate", "0.6", "--technique", "prune")) == 2
    assert "was made for another request" in capsys.readouterr().err
    assert (out / "compress.json").read_bytes() == kept

    assert main(line) == 0  # the same command once more
    printed = capsys.readouterr()
    assert "already finished" in printed.err
    assert f"Chosen: {value['choice']['recipe']}" in printed.out


def test_a_budget_is_kept_by_the_file_on_disk(
    given: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "_MEASURED_PROBES", 3)
    line = words(given, tmp_path / "out", "--budget", "60kB", "--technique", "prune", "--json")
    assert main(line) == 0
    value = json.loads(capsys.readouterr().out)
    size = (Path(value["folder"]) / "model.onnx").stat().st_size
    (item,) = value["candidates"]
    assert item["costs"]["size_bytes"] == size <= 60_000
    assert len(item["probes"]) > 1


def test_a_folder_that_is_busy_keeps_its_record(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with lock_folder(out):
        (out / "compress.json").write_text("{}")
        more = ["--rate", "0.5", "--technique", "prune", "--replace"]
        assert main(words(given, out, *more)) != 0
    assert "Another lydite process" in capsys.readouterr().err
    assert (out / "compress.json").read_text() == "{}"


def test_a_dry_run_trains_nothing_and_writes_nothing(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words(given, tmp_path / "out", "--rate", "0.6", "--technique", "prune", "--dry-run")
    assert main(line) == 0
    assert "prune" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "either `rate` or `budget`"),
        (["--rate", "0.5", "--budget", "1kB"], "either `rate` or `budget`"),
        (["--rate", "90"], "Use 0.9 to remove nine tenths"),
        (["--rate", "0.5", "--technique", "prun"], "Did you mean 'prune'"),
        (["--rate", "0.5", "--technique", "prune", "prune"], "named twice"),
        (["--rate", "0.5", "--seed", "-1"], "`seed`"),
        (["--rate", "nan"], "`rate`"),
        (["--budget", "1params", "--technique", "prune"], "No technique gets there. prune: "),
    ],
)
def test_requests_that_make_no_sense(
    given: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    says: str,
) -> None:
    assert main(words(given, tmp_path / "out", *more)) == 2
    assert says in capsys.readouterr().err


def result(recipe: str, auc: float, size_bytes: int) -> Result:
    figure = Figure(metric="auc", value=auc)
    return Result.model_construct(
        recipe=recipe,
        steps=(StepCost(step={}, key="0" * 64, figures=(figure,)),),
        cost=Cost(parameters=1, macs=1, size_bytes=size_bytes),
    )


def test_the_best_that_keeps_the_budget_is_chosen() -> None:
    results = [
        result("original", 0.99, 900),
        result("small", 0.7, 100),
        result("large", 0.9, 500),
        result("equal", 0.9, 400),
    ]
    budget = Budget(kind="size_bytes", limit=200, text="200B")
    assert choose(results).recipe == "equal"
    assert choose(results, budget).recipe == "small"
    tight = choose(results, Budget(kind="size_bytes", limit=50, text="50B"))
    assert tight.recipe == "equal"
    assert "over the budget of 50B" in tight.reason


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("lydite medium", "compress-lydite-medium"),
        ("timm/resnet18", "compress-timm-resnet18"),
        ("../../x", "compress-x"),
        ("..", "compress-detector"),
    ],
)
def test_any_name_of_a_card_makes_a_name_of_a_study(name: str, called: str) -> None:
    start = Detector.start(Architecture(network="lydite-small", config={"widths": [2]}), name=name)
    assert name_of(start) == called
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", called)

"""`lydite study`, `run`, `publish` and `schema` as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lydite.card import Figure
from lydite.cli import main
from lydite.cli.study import results_text
from lydite.data.manifest import Manifest
from lydite.study.results import Cost, Result

NETWORK = {"network": "lydite-small", "config": {"widths": [8, 16]}}


def write_study(manifest: Manifest, folder: Path, steps: int = 3) -> Path:
    manifest.write(folder / "given.parquet")
    value = {
        "name": "typed",
        "data": {"manifest": str(folder / "given.parquet"), "seen": ["one"]},
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [
            {
                "name": "BL",
                "start": NETWORK,
                "steps": [{"train": {"steps": steps, "batch": 8, "checkpoint_s": 0.0}}],
            }
        ],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


def test_study_from_plan_to_published_detector(
    tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = str(write_study(tiny_manifest, tmp_path)), str(tmp_path / "out")
    assert main(["study", study, "-o", out, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [next(iter(step["step"])) for step in plan["steps"]] == ["train"]
    assert not (tmp_path / "out" / "cache").exists()

    assert main(["study", study, "-o", out, "--json", "--device", "cpu"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert Path(value["report"]).read_text("utf-8").lower().startswith("<!doctype html")
    assert [result["recipe"] for result in value["results"]] == ["BL"]
    assert [probe["name"] for probe in value["probes"]["probes"]][0] == "format-size"

    assert main(["study", study, "-o", out]) == 0
    printed = capsys.readouterr()
    assert "already finished" in printed.err
    assert "Report: file://" in printed.out
    assert "\nProbes, AUC seen: format-size " in printed.out

    shipped = str(tmp_path / "shipped")
    assert main(["publish", out, "BL", "-o", shipped, "--title", "mine", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "mine"
    assert {f["slice"].get("split") for f in card["measured"]} == {"val", "test"}
    image = str(next(tiny_manifest.rows()).file)
    assert main(["predict", image, "--detector", shipped, "--json"]) == 0
    prediction = json.loads(capsys.readouterr().out)["predictions"][0]
    assert prediction["verdict"] in ("real", "fake", "unsure")

    assert main(["publish", out, "BLL", "-o", shipped]) == 2
    assert "Did you mean 'BL'" in capsys.readouterr().err


def test_run_makes_one_detector(
    tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_manifest.write(tmp_path / "m.parquet")
    recipe = tmp_path / "recipe.yaml"
    steps = [{"train": {"steps": 2, "batch": 4}}]
    recipe.write_text(yaml.safe_dump({"name": "r", "start": NETWORK, "steps": steps}), "utf-8")
    words = ["run", str(recipe), str(tmp_path / "m.parquet"), "--seen", "one"]
    words += ["-o", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    assert "training, " in capsys.readouterr().out
    assert main([*words, "--json", "--device", "cpu"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (Path(value["detector"]) / "model.onnx").is_file()


def test_run_replays_what_a_recipe_says(
    tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_manifest.write(tmp_path / "m.parquet")
    steps = [{"train": {"steps": 2, "batch": 4}}]
    value = {"name": "r", "start": NETWORK, "steps": steps, "replay": 8}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(value), "utf-8")
    words = ["run", str(tmp_path / "recipe.yaml"), str(tmp_path / "m.parquet"), "--seen", "one"]
    words += ["-o", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 2
    assert "Recipe r: `replay: 8`" in capsys.readouterr().err
    assert main([*words, "--source", "two"]) == 0
    assert "r learns from 8 images of each class of two besides" in capsys.readouterr().out


def test_the_source_has_a_column_where_there_is_one() -> None:
    def made(*source: str) -> Result:
        figures = [
            Figure(metric="accuracy", value=value, slice={"group": group, "split": "test"})
            for group, value in (("seen", 0.9), ("source", 0.7))
        ]
        cost = Cost(parameters=1, macs=1, size_bytes=1)
        return Result.model_construct(
            recipe="TL", seed=0, cost=cost, figures=tuple(figures), source=source
        )

    header, *_, row = results_text([made("old")]).splitlines()
    assert header.index("AUC seen") < header.index("accuracy source") < header.index("AUC unseen")
    assert row[header.index("accuracy source") :].split()[0] == "0.700"
    assert "source" not in results_text([made()])


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(tmp_path / "none.yaml")]) == 2
    assert "built-in studies: demo" in capsys.readouterr().err
    assert main(["study", str(tmp_path / "none.yaml"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "file"


@pytest.mark.parametrize("of", ["recipe", "study", "card"])
def test_schema_is_json(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", of]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_and_continued(
    tiny_manifest: Manifest, tmp_path: Path, number: int, status: int
) -> None:
    study = write_study(tiny_manifest, tmp_path, steps=400)
    command = [sys.executable, "-m", "lydite", "study", str(study), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "train" in line:
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == status
    assert "stopped" in rest
    assert "Traceback" not in rest
    assert not list((tmp_path / "out").rglob("results/*.json"))
    unfinished = list((tmp_path / "out" / "cache").glob("*.unfinished"))
    assert len(unfinished) == 1

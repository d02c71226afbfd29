"""A protocol from the command line to tables: simulated data, two tiny recipes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from lydite.cli import main
from lydite.data.demo import DEMO_DOMAINS
from lydite.errors import DataError, ResumeError
from lydite.report.across import read_folds
from lydite.report.gains import gain_column, gains_figure
from lydite.report.held import held_figure, held_rows
from lydite.report.overview import write_overview
from lydite.report.pairs import pairs_map
from lydite.report.protocol import (
    fill_protocol,
    folds_of,
    held_out,
    protocol_text,
    record_of,
    train_by_test,
)
from lydite.study.folds import run_folds
from lydite.study.results import Result
from lydite.study.run import StudyOptions
from lydite.study.spec import Study
from lydite.study.together import read_together

START = {"network": "lydite-small", "config": {"widths": [4], "blocks": 0}}
TRAIN = {"train": {"steps": 2, "batch": 8}}
pytestmark = pytest.mark.filterwarnings("ignore:The validation AUC")


def value_of(kind: str, **changes: object) -> dict[str, Any]:
    return {
        "name": "turns",
        "data": {"demo": {"size": 32, "count": 16}},
        "protocol": {"kind": kind, "test_only": ["sim-bilinear"]},
        "bench": {"warmup": 1, "repeats": 3},
        "recipes": [
            {"name": "BL", "start": START},
            {"name": "ours", "start": START, "steps": [TRAIN]},
            {"name": "half", "after": "ours", "steps": [{"quantize": {"scheme": "float16"}}]},
        ],
    } | changes


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that holds each of three domains out, the fourth being only tested on."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "study.yaml").write_text(yaml.safe_dump(value_of("leave-one-domain-out")), "utf-8")
    words = ["study", str(folder / "study.yaml"), "-o", str(folder / "out"), "--device", "cpu"]
    assert main(words) == 0
    return folder


LEARNED = sorted(set(DEMO_DOMAINS) - {"sim-bilinear"})


def test_the_plan_shows_the_folds(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", str(done / "study.yaml"), "-o", str(done / "out"), "--dry-run"]
    assert main([*words, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert {name: plan["fold"]["seen"] for name, plan in plans.items()} == {
        f"without-{one}": [d for d in LEARNED if d != one] for one in LEARNED
    }
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("Protocol leave-one-domain-out: 3 folds\n")


def test_every_fold_is_a_study_and_the_record_is_their_mean(done: Path) -> None:
    out = done / "out"
    plan = json.loads((out / "study.json").read_text("utf-8"))["study"]
    assert [fold["name"] for fold in plan["folds"]] == [f"without-{d}" for d in LEARNED]
    record = read_together(out)
    assert record is not None
    folds = folds_of(record, out)
    for recipe in record.recipes:
        each = []
        for domain, results in zip(LEARNED, folds.values(), strict=True):
            (mine,) = [r for r in results if r.recipe == recipe.recipe]
            assert domain not in mine.seen
            own = mine.figure("auc", domain=domain, split="test")
            one = recipe.figure("auc", group="held-out", fold=f"without-{domain}", split="test")
            assert own is not None
            assert one is not None
            assert one.value == pytest.approx(own.value)
            each.append(own.value)
        mean = recipe.figure("auc", group="held-out", split="test")
        assert mean is not None
        assert mean.value == pytest.approx(statistics.mean(each))
    (mine,) = [r for r in folds[f"without-{LEARNED[0]}"] if r.recipe == "ours"]
    metrics = {f.metric for f in mine.figures}
    assert {"auc_gain", "real_vs_real_auc", "false_alarm_rate"} <= metrics
    gain = mine.figure("auc_gain", domain=LEARNED[0], split="test", against="BL")
    assert gain is not None


def test_tables_say_what_the_record_says(done: Path) -> None:
    record = read_together(done / "out")
    assert record is not None
    section = held_out(record, "auc")
    gains = ["minus BL", "p", "minus what it comes after", "p"]
    assert section.header == ["recipe", *(f"without {d}" for d in LEARNED), "mean", *gains]
    assert [row[0] for row in section.rows] == ["BL", "ours", "half"]
    assert section.rows[0][-4:] == ["-", "-", "-", "-"]
    assert section.rows[1][-2:] == ["-", "-"]
    mean = record.recipes[1].figure("auc", group="held-out", split="test")
    gain = record.recipes[1].figure("auc_gain", group="held-out", split="test", against="BL")
    assert mean is not None
    assert gain is not None
    assert section.rows[1][4].startswith(f"{mean.value:.3f} [{mean.low:.3f}")
    assert section.rows[1][5].startswith(f"{gain.value:+.3f} [")
    lost = record.recipes[2].figure("auc_gain", group="held-out", split="test", against="ours")
    assert lost is not None
    assert section.rows[2][-2].startswith(f"{lost.value:+.3f} [")
    page = (done / "out" / "report.html").read_text("utf-8")
    assert "AUC on what each fold holds out" in page
    assert section.rows[1][4] in page


def test_the_figure_has_a_line_for_each_recipe_and_a_mark_for_each_fold(done: Path) -> None:
    record = read_together(done / "out")
    assert record is not None
    folds = folds_of(record, done / "out")
    rows = held_rows(record, folds)
    assert [row.recipe for row in rows] == ["BL", "ours", "half"]
    for row, recipe in zip(rows, record.recipes, strict=True):
        assert row.mean == recipe.figure("auc", group="held-out", split="test")
        assert list(row.folds) == LEARNED
        for domain, value in row.folds.items():
            (own,) = [r for r in folds[f"without-{domain}"] if r.recipe == row.recipe]
            figure = own.figure("auc", domain=domain, split="test")
            assert figure is not None
            assert value == pytest.approx(figure.value)
            assert row.label == f"{row.recipe}, {own.cost.parameters}"
    drawn = held_figure(record, folds)
    assert drawn is not None
    assert drawn == held_figure(record, folds)
    words = ", ".join(f"{name} {value:.3f}" for name, value in rows[1].folds.items())
    assert f"ours: mean {rows[1].mean.value:.3f}; {words}." in drawn
    assert "AUC on what each fold holds out. BL: mean" in (done / "out/report.html").read_text(
        "utf-8"
    )
    pairwise = record.model_copy(
        update={"protocol": record.protocol.model_copy(update={"kind": "pairwise"})}
    )
    assert held_figure(pairwise, folds) is None


def test_gains_of_several_sizes_stand_in_one_figure(done: Path) -> None:
    record = read_together(done / "out")
    assert record is not None
    folds = folds_of(record, done / "out")
    column = gain_column(record, folds)
    assert column is not None
    mean = record.recipes[0].figure("auc", group="held-out", split="test")
    assert mean is not None
    assert column.mean == mean.value
    (sizes,) = {r.cost.parameters for rs in folds.values() for r in rs if r.recipe == "BL"}
    assert (column.reference, column.parameters) == ("BL", sizes)
    assert list(column.gains) == ["ours", "half"]
    for name, gain in column.gains.items():
        recipe = next(r for r in record.recipes if r.recipe == name)
        where = {"group": "held-out", "split": "test", "against": "BL"}
        assert gain.figure == recipe.figure("auc_gain", **where)
        assert gain.seeds == 1
    larger = dataclasses.replace(column, parameters=12_000, gains={"half": column.gains["half"]})
    drawn = gains_figure([larger, column], ["half", "half"])
    assert drawn is not None
    lines = [f"{name} {gain.figure.value:+.3f}" for name, gain in column.gains.items()]
    assert f"{column.label}: {', '.join(lines)}. {larger.label}: {lines[1]}." in drawn
    assert larger.label.startswith("12 k, BL ")
    assert drawn.index(">half<") < drawn.index(">ours<")
    assert drawn.count(">half<") == 1
    assert gains_figure([dataclasses.replace(column, gains={})], ["half"]) is None


def test_a_protocol_that_holds_nothing_out_has_no_gains(done: Path) -> None:
    record = read_together(done / "out")
    assert record is not None
    bare = record.recipes[0].model_copy(update={"figures": ()})
    emptied = record.model_copy(update={"recipes": (bare, *record.recipes[1:])})
    assert gain_column(emptied, folds_of(record, done / "out")) is None


def test_a_page_is_filled_from_committed_results(done: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- protocol:turns -->\n<!-- /protocol -->\n", "utf-8")
    assert fill_protocol(page, "turns", done / "out", ["ours", "BL"])
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[:5]] == [
        "| recipe",
        "| ---",
        "| ours",
        "| BL",
        "| half",
    ]
    assert not fill_protocol(page, "turns", done / "out", ["ours", "BL"])
    with pytest.raises(DataError, match=r"no protocol\.json"):
        fill_protocol(page, "turns", tmp_path, [])


def test_report_keeps_to_the_folds_of_the_protocol(done: Path, tmp_path: Path) -> None:
    assert main(["report", str(done / "out"), "--no-images", "-o", str(tmp_path / "r.html")]) == 0
    assert "AUC on what each fold holds out" in (tmp_path / "r.html").read_text("utf-8")


def test_probes_of_every_fold_are_in_the_json(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", str(done / "study.yaml"), "-o", str(done / "out"), "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert list(made["probes"]) == list(made["folds"])
    for probes in made["probes"].values():
        assert [probe["name"] for probe in probes["probes"]][0] == "format-size"


def test_the_record_of_other_folds_is_left_alone(done: Path, tmp_path: Path) -> None:
    used = shutil.copytree(done / "out", tmp_path / "used")
    (used / f"without-{LEARNED[0]}").rename(used / "by-hand")
    page = tmp_path / "r.html"
    assert main(["report", str(used), "--no-images", "-o", str(page)]) == 0
    assert "what each fold holds out" not in page.read_text("utf-8")
    folds = read_folds(done / "out")
    assert record_of(done / "out", folds) is not None
    other = folds | {name: [r.model_copy(update={"seen": ("x",)}) for r in found]
                     for name, found in folds.items()}  # fmt: skip
    assert record_of(done / "out", other) is None
    path = write_overview(used, "t", {"by-hand": folds[f"without-{LEARNED[0]}"]}, page)
    assert "what each fold holds out" not in path.read_text("utf-8")


def test_other_folds_are_refused_in_the_same_folder(done: Path) -> None:
    study = Study.model_validate(value_of("pairwise"))
    with pytest.raises(ResumeError, match="holds another study"):
        run_folds(study, StudyOptions(done / "out", device="cpu"))


def test_pairwise_gives_the_matrix(done: Path, tmp_path: Path) -> None:
    data = {"manifest": str(done / "out" / "data" / "manifest.parquet")}
    protocol = {"kind": "pairwise", "domains": LEARNED[:2]}
    study = Study.model_validate(value_of("pairwise", data=data, protocol=protocol))
    found = run_folds(study, StudyOptions(tmp_path / "out", device="cpu"))
    record = read_together(tmp_path / "out")
    assert record is not None
    section = train_by_test(record, found, "ours")
    # domains that are only tested on come last
    assert section.header == ["learned", *LEARNED[:2], "sim-bilinear", *LEARNED[2:]]
    for row, (fold, results) in zip(section.rows, found.items(), strict=True):
        assert f"on-{row[0]}" == fold
        (mine,) = [r for r in results if r.recipe == "ours"]
        for domain, cell in zip(section.header[1:], row[1:], strict=True):
            figure = mine.figure("auc", domain=domain, split="test")
            assert figure is not None
            assert cell.startswith(f"{figure.value:.3f} [")
    ours = record.recipes[1]
    others = [
        statistics.mean(float(row[1 + n][:5]) for n, d in enumerate(LEARNED[:2]) if d != row[0])
        for row in section.rows
    ]
    mean = ours.figure("auc", group="held-out", split="test")
    assert mean is not None
    assert mean.value == pytest.approx(statistics.mean(others), abs=1e-3)
    drawing = pairs_map(record, found)
    assert drawing.count("<title") == 1
    assert "BL, ours, half by learned and tested domain" in drawing


def test_one_fold_says_what_photographs_are_taken_for(done: Path) -> None:
    record = read_together(done / "out")
    assert record is not None
    (name, *_), results = zip(*folds_of(record, done / "out").items(), strict=True)
    first: list[Result] = results[0]
    protocol = record.protocol.model_copy(update={"kind": "real-against-real"})
    single = record.model_copy(update={"folds": record.folds[:1], "protocol": protocol})
    text = protocol_text(single, {name: first})
    assert text.startswith("**Photographs called fake**\n\n| photographs | BL | ours |")
    assert "| sim-bilinear+sim-latent |" in text

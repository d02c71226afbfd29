"""The report's section on degraded images, and the table that pages quote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from lydite.card import Figure
from lydite.evaluate.degraded import summarize_degraded
from lydite.evaluate.unseen import Roles
from lydite.report.degraded import degraded_map, panels_of, rows_of
from lydite.report.degraded_table import degraded_table
from lydite.report.html import render
from lydite.report.markdown import study_table
from lydite.report.view import Line, lines_of
from lydite.study.results import Result, read_results, write_result


@pytest.fixture(scope="module")
def results(study_folder: Path) -> list[Result]:
    """The made-up study's results, two of them with figures of two degradations."""
    from lydite.evaluate.score import read_scores

    made = []
    for result in read_results(study_folder / "results"):
        if result.recipe in ("BL", "ours-small"):
            clean = read_scores(study_folder / "scores" / f"{result.recipe}.parquet")
            every = pa.concat_tables(
                [clean, *(_worn(clean, n, s) for n, s in (("jpeg-75", 1.0), ("blur-1", 3.0)))]
            )
            figures = summarize_degraded(every, roles=Roles(("sim-a",)), n_boot=50)
            result = result.model_copy(update={"figures": (*result.figures, *figures)})
        made.append(result)
    return made


def _worn(clean: pa.Table, name: str, strength: float) -> pa.Table:
    """Return scores with noise, as of degraded images."""
    p = clean["p_fake"].to_numpy()
    moved = np.clip(p + np.random.default_rng(3).normal(0, strength / 4, p.size), 0, 1)
    changed = {"degradation": [name] * p.size, "p_fake": moved, "z": moved}
    for column, values in changed.items():
        at = clean.schema.get_field_index(column)
        field = clean.schema.field(at)
        clean = clean.set_column(at, field, pa.array(values, field.type))
    return clean


@pytest.fixture(scope="module")
def lines(results: list[Result]) -> list[Line]:
    return lines_of(results)


def test_the_map_names_what_it_shows_and_repeats_itself(lines: list[Line]) -> None:
    svg = degraded_map(lines)
    assert svg is not None
    assert svg == degraded_map(lines)
    for word in ("clean", "jpeg-75", "blur-1", "BL", "ours-small", "accuracy on seen domains, %"):
        assert f">{word}<" in svg, word
    assert ">CPF-90<" not in svg  # it was not measured under any
    value = next(x for x in lines if x.name == "BL").value(
        "accuracy", group="seen", degradation="blur-1"
    )
    assert value is not None
    assert f">{100 * value:.1f}<" in svg


def test_without_figures_there_is_nothing(study_folder: Path) -> None:
    lines = lines_of(read_results(study_folder / "results"))
    assert degraded_map(lines) is None
    assert rows_of(lines) == []
    assert 'id="degraded"' not in render(lines, {}, {}, None)
    assert degraded_table(lines) == "No detector was measured on degraded images."


def test_the_page_shows_every_loss_and_keeps_its_other_tables(lines: list[Line]) -> None:
    page = render(lines, {}, {}, None)
    section = page[page.index('<section id="degraded">') :]
    section = section[: section.index("</section>")]
    rows = rows_of(lines)
    assert [(row.line.name, row.degradation) for row in rows] == [
        ("BL", "jpeg-75"), ("BL", "blur-1"), ("ours-small", "jpeg-75"), ("ours-small", "blur-1"),
    ]  # fmt: skip
    assert len(panels_of(lines)) == 3
    for row in rows:
        gain = row.cells[0].gain
        assert gain is not None
        assert f"<td>{100 * gain.value:.1f}<small>" in section
    rest = page[page.index('<section id="figures">') : page.index('<section id="recipes">')]
    assert "jpeg-75" not in rest


def test_other_tables_do_not_take_a_degradation_for_rounding(results: list[Result]) -> None:
    assert "rounding" not in study_table(results).splitlines()[0]


def figure(metric: str, value: float, **where: str) -> Figure:
    low, high = value - 0.01, value + 0.02
    where = {"group": "seen", "split": "test"} | where
    return Figure(metric=metric, value=value, low=low, high=high, n=9, slice=where)


def degraded(result: Result, losses: dict[str, float]) -> Result:
    """Return a result whose only figures are 90 % accuracy and these losses."""
    figures = [figure("accuracy", 0.9)]
    for name, loss in losses.items():
        figures += [
            figure("accuracy", 0.9 - loss, degradation=name),
            figure("accuracy_gain", -loss, degradation=name, against="clean"),
        ]
    return result.model_copy(update={"figures": tuple(figures)})


def test_the_quoted_table_cell_by_cell(results: list[Result]) -> None:
    base = results[0]
    few = lines_of([degraded(base, {"jpeg-75": 0.031, "blur-1": 0.2})])
    assert degraded_table(few).splitlines() == [
        "Accuracy on seen domains, %, and the change in points:",
        "",
        "|  | BL |",
        "| --- | ---: |",
        "| clean | 90.0 |",
        "| jpeg-75 | -3.1 [-4.1, -1.1] |",
        "| blur-1 | -20.0 [-21.0, -18.0] |",
    ]
    seeds = [
        degraded(base.model_copy(update={"seed": s}), {"jpeg-75": 0.03 + 0.02 * s}) for s in (0, 1)
    ]
    other = degraded(base.model_copy(update={"recipe": "CQ"}), {"jpeg-75": 0.0})
    assert degraded_table(lines_of([*seeds, other])).splitlines()[2:] == [
        "|  | clean | jpeg-75 |",
        "| --- | ---: | ---: |",
        "| BL | 90.0 | -4.0 ± 1.4 |",
        "| CQ | 90.0 | +0.0 [-1.0, +2.0] |",
    ]


def test_false_alarms_are_told_against_those_on_clean_images(results: list[Result]) -> None:
    """No figure tells them of clean images: they follow from what changed."""
    figures = [
        figure("false_alarm_rate", 0.25, degradation="blur-1"),
        figure("false_alarm_gain", 0.125, degradation="blur-1", against="clean"),
    ]
    lines = lines_of([results[0].model_copy(update={"figures": tuple(figures)})])
    assert degraded_table(lines).splitlines() == [
        "Photographs called fake, seen domains, %, and the change in points:",
        "",
        "|  | clean | blur-1 |",
        "| --- | ---: | ---: |",
        "| BL | 12.5 | +12.5 [+11.5, +14.5] |",
    ]
    assert "var(--bad," in (degraded_map(lines) or "")  # more of them is a loss
    fewer = [figures[0], figures[1].model_copy(update={"value": -0.125, "low": None, "high": None})]
    lines = lines_of([results[0].model_copy(update={"figures": tuple(fewer)})])
    assert "var(--bad," not in (degraded_map(lines) or "var(--bad,")


def _script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "quote_results.py"
    spec = importlib.util.spec_from_file_location("quote_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_quote_it(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _script()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    folder = tmp_path / "studies" / "made-up"
    for result in results:
        write_result(folder / "results", result)
    (folder / "study.yaml").write_text("recipes: [{name: ours-small}, {name: BL}]\n")
    page = tmp_path / "README.md"
    page.write_text("<!-- degraded:made-up -->\nold\n<!-- /degraded -->\n")
    assert script.fill_page(page, check=False) == ["README.md: degraded made-up"]
    text = page.read_text("utf-8")
    assert "old" not in text
    assert "| clean |" in text
    assert script.fill_page(page, check=False) == []


def test_a_protocols_record_beside_results_is_no_result(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _script()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    folder = tmp_path / "studies" / "made-up"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "protocol.json").write_text("{}")
    (folder / "study.yaml").write_text("recipes: [{name: BL}]\n")
    page = tmp_path / "README.md"
    page.write_text("<!-- degraded:made-up -->\nold\n<!-- /degraded -->\n")
    monkeypatch.setattr(script, "shot_curves", lambda folds: f"<svg><title>{[*folds]}</title>")
    for result in results:
        write_result(folder / "results" / "to-x", result)
    assert "['to-x']" in script.drawing(folder / "results", "curves", "made-up")
    with pytest.raises(SystemExit, match="folds alone"):
        script.drawing(folder / "results", "figure", "made-up")
    assert script.fill_page(page, check=False) == ["README.md: degraded made-up"]
    for result in results:
        write_result(folder / "results", result)
    assert script.drawing(folder / "results", "figure", "made-up").startswith("<svg")
    assert script.fill_page(page, check=False) == ["README.md: degraded made-up"]
    assert "| clean |" in page.read_text("utf-8")

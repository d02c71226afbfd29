"""The report's section on calibration: promises held against what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lydite.card import ConformalBand, ScoreMeaning
from lydite.evaluate.score import read_scores
from lydite.evaluate.summary import summarize
from lydite.evaluate.unseen import Roles
from lydite.report.calibration import METRICS, promises, rows_of
from lydite.report.html import render
from lydite.report.view import Line, lines_of
from lydite.study.results import Result, read_results

BAND = ConformalBand(alpha=0.1, low=0.5, high=2.5, n_real=60, n_fake=50)
MEANING = ScoreMeaning(threshold=1.5, band=(0.27, 0.73), fitted_on="a" * 64, n=110, conformal=BAND)


@pytest.fixture(scope="module")
def old(study_folder: Path) -> list[Result]:
    """Results of before anything of calibration was measured."""
    return [
        r.model_copy(
            update={"figures": tuple(f for f in r.figures if f.metric in ("accuracy", "auc"))}
        )
        for r in read_results(study_folder / "results")
    ]


@pytest.fixture(scope="module")
def lines(study_folder: Path) -> list[Line]:
    results = []
    for result in read_results(study_folder / "results")[:2]:
        scores = read_scores(study_folder / "scores" / f"{result.recipe}.parquet")
        figures = summarize(scores, MEANING, roles=Roles(("sim-a",)), n_boot=50)
        results.append(result.model_copy(update={"figures": figures}))
    return lines_of(results)


def test_rows_quote_each_group_beside_the_promise(lines: list[Line]) -> None:
    rows = rows_of(lines)
    assert [(row.line.name, row.group) for row in rows] == [
        (line.name, group) for line in lines for group in ("seen", "unseen-mean")
    ]
    for row in rows:
        assert row.alpha == 0.1
        for metric, figure in zip(METRICS, row.figures, strict=True):
            assert figure is not None
            assert figure == row.line.figure(metric, group=row.group)


def test_the_drawing_says_every_domain_and_class(lines: list[Line]) -> None:
    text = promises(lines)
    assert text is not None
    for line in lines:
        for domain in ("sim-a", "sim-b", "sim-c"):
            reals = line.value("miscoverage_real", domain=domain)
            fakes = line.value("miscoverage_fake", domain=domain)
            assert f"{domain} {reals:.3f} of the reals and {fakes:.3f} of the fakes" in text
    assert "(promised 0.1)" in text
    assert text.index(">sim-a (seen)<") < text.index(">sim-b (unseen)<")
    assert promises(lines) == text


def test_results_of_before_have_dashes_and_no_drawing(old: list[Result], lines: list[Line]) -> None:
    before = lines_of(old)
    assert rows_of(before) == []
    assert promises(before) is None
    page = render(before, {}, {}, None)
    assert 'id="calibration"' not in page
    assert '<th scope="col">miscoverage real</th>' in page
    both = render([*before[2:], *lines], {}, {}, None)
    assert 'id="calibration"' in both
    assert 'href="#calibration"' in both
    assert "promises-title" in both


def test_a_band_without_a_promise_has_its_row_and_no_panel(study_folder: Path) -> None:
    result = read_results(study_folder / "results")[0]
    scores = read_scores(study_folder / "scores" / f"{result.recipe}.parquet")
    plain = MEANING.model_copy(update={"conformal": None})
    figures = summarize(scores, plain, roles=Roles(("sim-a",)), n_boot=20)
    (line,) = lines_of([result.model_copy(update={"figures": figures})])
    assert promises([line]) is None
    rows = rows_of([line])
    assert [row.alpha for row in rows] == [None, None]
    decided = rows[0].figures[METRICS.index("decided")]
    assert decided is not None
    assert 0 < np.float64(decided.value) < 1

"""Figures: deterministic, self-contained, safe, and showing what they were given."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from sklearn.calibration import calibration_curve as reference

from lydite.evaluate.score import read_scores
from lydite.evaluate.unseen import Roles
from lydite.report import distributions, figures, rates
from lydite.report.axes import Dot, limits_
from lydite.report.labels import place_labels
from lydite.report.svg import COLORS, draw, look_of
from lydite.report.view import Line, columns_of, lines_of
from lydite.study.results import read_results


@pytest.fixture(scope="module")
def lines(study_folder: Path) -> list[Line]:
    return lines_of(read_results(study_folder / "results"))


def words(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own text
    return [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")]


def test_trade_off_names_every_recipe_and_repeats_itself(lines: list[Line]) -> None:
    made = [figures.trade_off(lines, "auc", "unseen-mean", "unseen", "t", "mean AUC") for _ in "ab"]
    assert made[0] == made[1]
    assert {line.name for line in lines} <= set(words(made[0]))
    assert {line.approach for line in lines} <= set(words(made[0]))


def test_matrix_holds_every_value(lines: list[Line]) -> None:
    said = words(figures.matrix(lines))
    for line in lines:
        value = line.value("auc", domain="sim-b", generator="sim-b-1")
        assert f"{value:.2f}".removeprefix("0") in said
    assert "sim-c: sim-c-0" in said


def test_the_golden_line_has_the_source_on_the_side_of_what_was_learned(lines: list[Line]) -> None:
    def golden(of: list[Line]) -> list[float]:
        found: list[float] = []

        class Axes:
            def plot(self, x: list[float], _: object, *, color: str, **_more: object) -> None:
                found.extend(x[:1] if color == COLORS["gold"] else [])

        figures._domains(Axes(), columns_of(of), 3)  # type: ignore[arg-type]
        return found

    after = [
        replace(line, result=line.result.model_copy(update={"source": ("sim-c",)}))
        for line in lines
    ]
    assert golden(lines) == [2]
    assert golden(after) == [4]


def test_the_sources_probabilities_are_spread_in_neither_half(study_folder: Path) -> None:
    scores = read_scores(study_folder / "scores" / "BL.parquet")
    counts = []
    for source in ((), ("sim-c",)):
        for unseen in (False, True):
            spread = distributions.spread_of("BL", scores, Roles(["sim-a"], source), unseen=unseen)
            counts.append(spread.p_fake.size)
    assert counts == [24, 48, 24, 24]
    held = Roles(["sim-a"], ["sim-b", "sim-c"], ["sim-a-1"])  # half of the fakes
    known, new = (
        distributions.spread_of("BL", scores, held, unseen=unseen) for unseen in (False, True)
    )
    assert np.bincount(known.targets).tolist() == [12, 6]
    assert np.bincount(new.targets).tolist() == [12, 6]
    generators = np.array(scores["generator"].to_pylist())
    expected = np.array(scores["p_fake"].to_pylist())[generators == "sim-a-1"]
    assert sorted(new.p_fake[new.targets == 1]) == sorted(expected)


def test_steps_are_drawn_for_recipes_that_have_them(lines: list[Line]) -> None:
    svg = figures.step_paths(lines)
    assert {line.name for line in lines} <= set(words(svg))
    assert "2 M" in words(svg)


def recipe_at(line: Line, name: str, rate: float, seed: int = 0, steps: str = "prune") -> Line:
    """Return a line that differs in what a curve is made of."""
    cost = line.result.cost.model_copy(update={"compression_rate": rate})
    step = line.result.steps[-1].model_copy(update={"step": {steps: {}}})
    update = {"recipe": name, "approach": "CPF", "cost": cost, "seed": seed, "steps": (step,)}
    return replace(line, result=line.result.model_copy(update=update), name=f"{name} {seed}")


def test_a_curve_has_one_stop_a_rate_and_knows_no_quantized_detector(lines: list[Line]) -> None:
    some = lines[1]
    three = [recipe_at(some, f"CPF-{rate}", rate / 100) for rate in (60, 90, 75)]
    curve = rates.stops_of(three, "accuracy", "seen")["CPF"]
    assert [round(stop.x, 2) for stop in curve] == [0.4, 0.25, 0.1]
    assert rates.stops_of(three[:1], "accuracy", "seen") == {}
    small = recipe_at(some, "CPF-90-int8", 0.9, steps="quantize")
    assert rates.stops_of([*three, small], "accuracy", "seen")["CPF"] == curve


def test_seeds_make_one_stop_with_the_ends_of_all_their_intervals(lines: list[Line]) -> None:
    one, other = lines[1], lines[3]  # two different measurements stand for two seeds
    every = [recipe_at(one, f"CPF-{rate}", rate / 100) for rate in (60, 75, 90)]
    every.append(recipe_at(other, "CPF-90", 0.9, seed=1))
    last = rates.stops_of(every, "accuracy", "seen")["CPF"][-1]
    figures_ = [line.figure("accuracy", group="seen") for line in (one, other)]
    values, lows, highs = zip(*((f.value, f.low, f.high) for f in figures_ if f), strict=True)
    assert last.y == pytest.approx(sum(values) / 2)
    assert (last.low, last.high) == (min(lows), max(highs))


def test_rate_curves_name_approaches_and_rates_or_are_left_out(lines: list[Line]) -> None:
    every = [lines[0], *(recipe_at(lines[1], f"CPF-{r}", r / 100) for r in (60, 75, 90))]
    svg = rates.rate_curves(every, ["sim-a"])
    assert svg is not None
    assert {"CPF", "60%", "75%", "90%", "accuracy on sim-a"} <= set(words(svg))
    assert svg == rates.rate_curves(every, ["sim-a"])
    assert rates.rate_curves([lines[0], lines[3]], ["sim-a"]) is None


def test_drawings_take_the_page_s_colors_and_hold_no_trace_of_time_or_style() -> None:
    svg = draw("one", "A & B", "<d>", (2, 1), lambda canvas: canvas.subplots().plot([0, 1]))
    ElementTree.fromstring(svg)  # noqa: S314 - our own text
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert f"var(--soft, {COLORS['soft']})" in svg
    assert '<title id="one-title">A &amp; B</title>' in svg
    assert "&lt;d&gt;" in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)


def test_hostile_names_stay_text(lines: list[Line]) -> None:
    evil = replace(lines[0], name="<script>$x^2$ & co")
    svg = figures.trade_off([evil], "accuracy", "seen", "evil", "t", "a")
    assert "<script" not in svg
    assert "<script>$x^2$ & co" in words(svg)


def test_nothing_to_show_is_still_a_drawing() -> None:
    for svg in (figures.trade_off([], "auc", "seen", "none", "t", "a"), figures.step_paths([])):
        assert ElementTree.fromstring(svg).tag.endswith("svg")  # noqa: S314


def test_histograms_and_reliability_show_their_detectors() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 100)
    known = [distributions.Spread(f"d{i}", rng.random(200), targets) for i in range(7)]
    new = [distributions.Spread("", np.empty(0), np.empty(0, int)) for _ in known]
    for svg in (distributions.histograms(known, new), distributions.reliability(known, new)):
        assert {f"d{i}" for i in range(7)} <= set(words(svg))


def test_calibration_curve_equals_scikit_learn_on_balanced_classes() -> None:
    rng = np.random.default_rng(1)
    targets = np.repeat([0, 1], 500)
    p_fake = np.clip(rng.normal(0.3 + 0.4 * targets, 0.2), 0, 1)
    x, y = distributions.calibration_curve(p_fake, targets)
    share, mean = reference(targets, p_fake, n_bins=10)
    assert x == pytest.approx(mean)
    assert y == pytest.approx(share)


def test_calibration_weighs_classes_equally_and_needs_both() -> None:
    p_fake, targets = np.full(110, 0.55), np.repeat([0, 1], [100, 10])
    assert distributions.calibration_curve(p_fake, targets)[1] == pytest.approx([0.5])
    assert distributions.calibration_curve(p_fake[:100], targets[:100])[0].size == 0


def test_labels_do_not_lie_on_each_other() -> None:
    points = [(100.0 + 9 * i, 100.0 + 3 * i) for i in range(6)]
    texts = [f"CPF-{i}" for i in range(6)]
    places = place_labels(points, texts, (0, 0, 400, 300), 8)
    boxes = []
    for (x, y), (dx, dy, horizontal, vertical), text in zip(points, places, texts, strict=True):
        width, height = 0.56 * 8 * len(text), 1.25 * 8
        left = x + dx - {"left": 0, "center": width / 2, "right": width}[horizontal]
        bottom = y + dy - {"bottom": 0, "center": height / 2, "top": height}[vertical]
        boxes.append((left, bottom, left + width, bottom + height))
    for a, b in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] + 0.5 or b[2] <= a[0] + 0.5 or a[3] <= b[1] + 0.5 or b[3] <= a[1] + 0.5
        assert apart


def test_the_panel_of_rates_holds_the_reference_and_one_look_an_approach(lines: list[Line]) -> None:
    dots = [Dot(lines[1], 0.5, y) for y in (0.70, 0.76)]
    axes = Canvas().add_subplot()
    limits_(axes, dots, 0.97, None)
    bottom, top = axes.get_ylim()
    assert bottom < 0.70
    assert top > 0.97
    assert len({look_of(number) for number in range(57)}) == 57

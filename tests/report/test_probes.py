"""When the page warns of a probe, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lydite.card import Figure
from lydite.data import audit
from lydite.evaluate import probes as made_by
from lydite.files import write_json
from lydite.report import probes as module
from lydite.report.html import write_report
from lydite.report.probes import close_to, probe_remarks, probes_value, speaks, spoken
from lydite.report.view import Line, lines_of
from lydite.study.probes import ProbeFigures, Probes
from lydite.study.results import Result, read_results

SEEN = {"group": "seen", "split": "test"}


def area(value: float, half: float = 0.04, group: str = "seen") -> Figure:
    where = {"group": group, "split": "test"}
    return Figure(metric="auc", value=value, low=value - half, high=value + half, n=24, slice=where)


def document(
    results: list[Result],
    header: float = 0.5,
    thumbnail: float = 0.5,
    shuffled: float = 0.5,
    **changes: object,
) -> Probes:
    values = {"format-size": header, "low-frequency": thumbnail, "shuffled-labels": shuffled}
    return Probes(
        study="made-up",
        key="b" * 64,
        created="2026-01-02T03:04:05+00:00",
        versions={"lydite": "0"},
        seed=0,
        data=results[0].data,
        labels=("real", "fake"),
        seen=("sim-a",),
        seconds=0.5,
        probes=tuple(
            ProbeFigures(name=name, images=40, figures=(area(value),))
            for name, value in values.items()
        ),
    ).model_copy(update=changes)


@pytest.fixture(scope="module")
def results(study_folder: Path) -> list[Result]:
    return read_results(study_folder / "results")


@pytest.fixture
def lines(results: list[Result]) -> list[Line]:
    """Two detectors of AUC 0.90 [0.86, 0.94] and 0.80 [0.76, 0.84]."""
    two = (results[0], results[1])
    figures = ((area(0.9),), (area(0.8), area(0.7, group="unseen-mean")))
    changed = [r.model_copy(update={"figures": f}) for r, f in zip(two, figures, strict=True)]
    return lines_of(changed)


def test_what_is_known_here_agrees_with_what_makes_it() -> None:
    assert module.WARN_AUC == audit.WARN_AUC
    assert module.SHUFFLED == made_by.SHUFFLED
    assert set(module._SEES) == set(made_by.PROBES)


def test_close_means_inside_or_above_a_detectors_interval(
    lines: list[Line], results: list[Result]
) -> None:
    by_name = {line.name: line for line in lines}
    assert len(by_name) == 2
    high, low = sorted(lines, key=lambda line: -(line.value("auc", group="seen") or 0))
    for value, wanted in ((0.75, []), (0.77, [low]), (0.85, [low]), (0.87, [high, low])):
        (header, *_) = document(results, header=value).probes
        assert speaks(header)
        assert {line.name for line in close_to(header, lines)} == {line.name for line in wanted}


def test_a_probe_at_chance_is_close_to_no_detector(
    lines: list[Line], results: list[Result]
) -> None:
    (header, *_) = document(results, header=0.63).probes  # its interval begins under 0.6
    weak = [line.result.model_copy(update={"figures": (area(0.55),)}) for line in lines]
    assert not speaks(header)
    assert not close_to(header, lines_of(weak))
    assert not probe_remarks(lines_of(weak), document(results, 0.63, 0.6, 0.58))
    assert not probe_remarks(lines, None)


def test_the_worst_warning_comes_first_and_the_lesser_says_less(
    lines: list[Line], results: list[Result]
) -> None:
    first, second = probe_remarks(lines, document(results, header=0.7, thumbnail=0.95))
    assert first.startswith("8×8 means of the pixels alone (rough content and colors) tell real")
    assert "0.950 [0.910, 0.990] on seen domains, which reaches the interval of all det" in first
    assert "such as a generator's traces" in first
    assert "a part of what detectors reach there may be that" in second
    assert "interval of" not in second


def test_a_leak_that_reaches_unseen_domains_is_said(
    lines: list[Line], results: list[Result]
) -> None:
    probes = document(results, header=0.9)
    more = probes.probes[0].model_copy(
        update={"figures": (area(0.9), area(0.8, group="unseen-mean"))}
    )
    (said,) = probe_remarks(lines, probes.model_copy(update={"probes": (more,)}))
    assert "(unseen domains: 0.800 [0.760, 0.840])" in said


def test_shuffled_labels_are_alarming_by_themselves(
    lines: list[Line], results: list[Result]
) -> None:
    (said,) = probe_remarks(lines, document(results, shuffled=0.62))
    assert "where 0.5 is all there is" in said
    assert "lydite data check" in said
    assert not probe_remarks(lines, document(results, shuffled=0.2))


def test_cats_and_dogs_are_no_fakes(lines: list[Line], results: list[Result]) -> None:
    said = probe_remarks(lines, document(results, 0.9, 0.7, labels=("cat", "dog")))
    assert len(said) == 2
    for remark in said:
        assert "fake" not in remark
        assert "generator" not in remark
        assert "tell cat from dog" in remark


def test_the_page_and_the_terminal_show_them(study_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(study_folder, tmp_path / "study")
    before = write_report(folder, images=False).read_text("utf-8")
    assert "What gives it away?" not in before
    results = read_results(folder / "results")
    assert spoken(folder, results) == ""
    assert probes_value(folder, results) is None
    made = document(results, header=0.99)
    hostile = made.probes[1].model_copy(update={"name": "<b>", "figures": (), "note": "<i>none"})
    made = made.model_copy(update={"probes": (made.probes[0], hostile, made.probes[2])})
    write_json(folder / "probes" / "probes-x.json", made.model_dump(mode="json"))
    page = write_report(folder, images=False).read_text("utf-8")
    assert '<a href="#probes">Probes</a>' in page
    part = page.split('<section id="probes">')[1].split("</section>")[0]
    assert "0.990<small>0.950–1.030</small>" in part
    assert "&lt;b&gt;" in part
    assert "<i>" not in part
    assert "at chance, as it should" in part
    assert "reference" in part
    assert "Read this first" in page
    line, *warnings = spoken(folder, results).splitlines()
    assert line.startswith("Probes, AUC seen: format-size 0.990 [0.950, 1.030], <b> -, shuf")
    value = probes_value(folder, results)
    assert value is not None
    assert [f"Warning: {w}" for w in value["warnings"]] == warnings
    assert len(warnings) == 1

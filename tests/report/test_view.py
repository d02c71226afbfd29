"""What the page says in words, and how results become lines and columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from lydite.card import Figure
from lydite.report.view import columns_of, headline, kilobytes, lines_of, remarks
from lydite.study.results import Result, read_results


@pytest.fixture(scope="module")
def results(study_folder: Path) -> list[Result]:
    return read_results(study_folder / "results")


def changed(result: Result, **values: object) -> Result:
    return result.model_copy(update=values)


def test_reference_comes_first_and_the_newest_result_counts(results: list[Result]) -> None:
    older = changed(results[0], created="2020-01-01T00:00:00+00:00", approach="old")
    lines = lines_of([older, *reversed(results)])
    assert lines[0].name == "BL"
    assert lines[0].color == 0
    assert sorted(line.name for line in lines) == sorted(r.recipe for r in results)
    assert "old" not in {line.approach for line in lines}


def test_seeds_are_told_apart(results: list[Result]) -> None:
    lines = lines_of([results[0], changed(results[0], seed=7)])
    assert [line.name for line in lines] == ["BL (seed 0)", "BL (seed 7)"]


def test_seen_columns_come_first_and_single_generators_need_no_name(results: list[Result]) -> None:
    columns = columns_of(lines_of(results))
    assert [c.label for c in columns] == [
        f"{d}: {d}-{n}" for d in ("sim-a", "sim-b", "sim-c") for n in (0, 1)
    ]
    assert [c.kind for c in columns] == ["seen"] * 2 + ["unseen"] * 4
    figures = tuple(f for f in results[0].figures if f.slice.get("generator") != "sim-b-1")
    labels = [c.label for c in columns_of(lines_of([changed(results[0], figures=figures)]))]
    assert labels[2] == "sim-b"


def with_source(result: Result, scale: float = 1.0) -> Result:
    """Return the result as of a study whose detectors had learned sim-c before."""
    where = {"group": "source", "split": "test"}
    more = (
        Figure(metric="accuracy", value=0.75 * scale, slice=where),
        Figure(metric="unreadable", value=1.0, slice=where),
    )
    return changed(result, source=("sim-c",), figures=(*result.figures, *more))


def test_the_source_is_neither_seen_nor_unseen(results: list[Result]) -> None:
    lines = lines_of([with_source(r, 1.0 if r.reference else 0.8) for r in results])
    columns = [(c.domain, c.kind) for c in columns_of(lines)]
    assert columns[::2] == [("sim-a", "seen"), ("sim-c", "source"), ("sim-b", "unseen")]
    assert "; 60.0% of sim-c right, where BL has 75.0%" in headline(lines)
    assert "BL: 1 test images could not be scored." in remarks(lines)
    labels = [group.label for group in lines[0].groups()]
    assert "source" in labels[:3]


def test_headline_speaks_of_nine_tenths_removed(results: list[Result]) -> None:
    said = headline(lines_of(results))
    best = max(
        (r for r in results if (r.cost.compression_rate or 0) >= 0.895),
        key=lambda r: r.figure("accuracy", group="seen", split="test").value or 0,
    )
    small = sum((r.cost.compression_rate or 0) >= 0.895 for r in results)
    chosen = f"Most accurate here of {small} at most a tenth as large, " if small > 1 else ""
    size = kilobytes(best.cost.size_bytes)
    assert said.startswith(f"{chosen}{best.recipe}: {size} instead of 8 MB, ")
    assert f"Best of {len(results)} on unseen domains: ours-small, mean AUC" in said
    accuracy = best.figure("accuracy", group="seen", split="test").value
    assert f"{accuracy:.1%} of sim-a right" in said


def test_headline_of_little(results: list[Result]) -> None:
    assert headline([]) == "Nothing has been measured yet."
    assert headline(lines_of(results[:1])) == "Measured: BL."


def test_remarks_warn_of_swapped_labels_failures_and_notes(results: list[Result]) -> None:
    figures = (
        Figure(metric="auc", value=0.31, slice={"group": "seen", "split": "test"}),
        Figure(metric="unreadable", value=3.0, slice={"group": "unseen-mean", "split": "test"}),
        Figure(
            metric="auc", value=0.4, slice={"domain": "sim-b", "generator": "g", "split": "test"}
        ),
    )
    said = remarks(lines_of([changed(results[0], figures=figures, notes=("mind this",))]))
    assert len(said) == 4
    assert "labels may be swapped" in said[0]
    assert said[1] == "BL: 3 test images could not be scored."
    assert said[2] == "BL: mind this"
    assert said[3] == "Ranked worse than chance by some detectors: sim-b (1 of 1)."


def test_groups_list_every_slice_once_and_totals_first(results: list[Result]) -> None:
    (line, *_) = lines_of(results)
    labels = [group.label for group in line.groups()]
    assert labels[:2] == ["seen", "unseen-mean"]
    assert labels[2:5] == ["sim-a", "sim-a: sim-a-0", "sim-a: sim-a-1"]
    assert len(labels) == len(set(labels)) == 11


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (900, "0.9 kB"),
        (523_000, "523 kB"),
        (999_600, "1 MB"),
        (1_234_000, "1.2 MB"),
        (9_960_000, "9.96 MB"),
        (18_361_234, "18.4 MB"),
        (999_600_000, "1 GB"),
        (5_210_000_000, "5.21 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert kilobytes(size) == text

"""Tables over folds: what stands in a cell, in a Markdown page, and on the page of all folds."""

from __future__ import annotations

from pathlib import Path

import pytest

from lydite.card import Figure
from lydite.errors import DataError
from lydite.report.across import across_table, fill_across, grid, read_folds
from lydite.report.overview import write_overview
from lydite.study.results import Cost, Result, StepCost, write_result

from .conftest import sha


def result(recipe: str, seed: int, accuracy: float, **changes: object) -> Result:
    where = {"group": "seen", "split": "test"}
    value = {
        "study": "pairs",
        "recipe": recipe,
        "approach": recipe,
        "spec": {},
        "key": sha(recipe),
        "card_digest": sha(f"{recipe} {seed} {accuracy}"),
        "seed": seed,
        "created": "2026-01-01T00:00:00Z",
        "versions": {},
        "hardware": {},
        "data": {},
        "seen": ("one",),
        "steps": (
            StepCost(step={"adapt": {}}, key=sha("s"), seconds=90.0 + 60 * seed,
                     trainable_parameters=912, peak_bytes=(500 + seed) * 10**6),
        ),
        "cost": Cost(parameters=1000, macs=1, size_bytes=1, pack_bytes=12_490),
        "figures": (
            Figure(metric="accuracy", value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1,
                   n=9, slice=where),
        ),
    }  # fmt: skip
    return Result.model_validate(value | changes)


FOLDS = {
    "to-<b>": [result("A", 0, 0.8), result("A", 1, 0.9), result("FT", 0, 0.7)],
    "to-c": [result("A", 0, 0.6)],
}


def test_cells_are_means_over_seeds_and_dashes_where_nothing_was_measured() -> None:
    header, first, second = grid(FOLDS, "seen")
    assert header == ["recipe", "parameters", "trained", "minutes", "peak MB", "pack kB"] + list(
        FOLDS
    )
    # minutes 1.5, 2.5 and 1.5; peaks 500, 501 and 500 MB
    assert first == [
        "A",
        "1,000",
        "912",
        "1.8",
        "500",
        "12.5",
        "0.850 ± 0.071",
        "0.600 [0.500, 0.700]",
    ]
    assert second[-2:] == ["0.700 [0.600, 0.800]", "-"]
    assert across_table(FOLDS, "seen").splitlines()[1] == "| --- |" + " ---: |" * 7


def test_a_pack_has_a_row_for_its_answer_together_with_its_base() -> None:
    alone = result("A", 0, 0.8)
    where = {"group": "seen", "split": "test", "with": "BL"}
    both = Figure(metric="accuracy", value=0.75, n=9, slice=where)
    packed = alone.model_copy(update={"figures": (*alone.figures, both)})
    _, first, second = grid({"f": [packed]}, "seen")
    assert (first[0], first[-1]) == ("A", "0.800 [0.700, 0.900]")
    assert (second[0], second[-1]) == ("A with BL", "0.750")


def test_what_trains_nothing_costs_nothing() -> None:
    row = grid(
        {"f": [result("BL", 0, 0.5, steps=(), cost=Cost(parameters=1000, macs=1, size_bytes=1))]},
        "seen",
    )[1]
    assert row[2:6] == ["-"] * 4


def test_a_page_is_filled_from_a_folder_of_folds(tmp_path: Path) -> None:
    for fold, results in FOLDS.items():
        for item in results:
            write_result(tmp_path / "results" / fold.replace("<b>", "b"), item)
    assert list(read_folds(tmp_path / "results")) == ["to-b", "to-c"]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- seen:pairs -->\nold\n<!-- /seen -->\nafter\n", "utf-8")
    assert fill_across(page, "pairs", "seen", tmp_path / "results", ["FT", "A"])
    lines = page.read_text("utf-8").splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| FT", "| A"]
    assert not fill_across(page, "pairs", "seen", tmp_path / "results", ["FT", "A"])
    with pytest.raises(DataError, match="no place <!-- unseen:pairs"):
        fill_across(page, "pairs", "unseen", tmp_path / "results", [])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no results"):
        fill_across(page, "pairs", "seen", tmp_path / "none", [])


def test_the_page_of_all_folds_is_inert_and_leads_to_each(tmp_path: Path) -> None:
    path = write_overview(tmp_path, "<script>x</script>", FOLDS)
    text = path.read_text("utf-8")
    assert "<script>" not in text
    assert "to-&lt;b&gt;" in text
    assert 'href="to-%3Cb%3E/report.html"' in text
    assert "0.850 ± 0.071" in text
    assert "Accuracy on what each fold learned" in text
    assert "known before" not in text  # nothing was measured of it

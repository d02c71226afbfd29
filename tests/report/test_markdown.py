"""The Markdown table that pages quote: exact cells from made-up results."""

from __future__ import annotations

from lydite.card import Figure
from lydite.report.markdown import study_table
from lydite.study.results import Cost, Result

SEEN, MEAN = {"group": "seen", "split": "test"}, {"group": "unseen-mean", "split": "test"}


def result(
    recipe: str, seed: int, accuracy: float, parameters: int = 2000, created: str = "2026-01-01"
) -> Result:
    far = {"domain": "far", "split": "test"}
    return Result.model_construct(
        recipe=recipe,
        seed=seed,
        created=created,
        seen=("near",),
        cost=Cost(parameters=parameters, macs=3_000_000, size_bytes=8000, latency_ratio=2.0),
        figures=(
            Figure(metric="accuracy", value=accuracy, low=0.5, high=0.9, slice=SEEN),
            Figure(metric="auc", value=accuracy, low=0.5, high=0.9, slice=MEAN),
            Figure(metric="auc", value=accuracy - 0.1, low=0.4, high=0.8, slice=far),
        ),
    )


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_one_seed_shows_intervals() -> None:
    header, rule, row = cells(study_table([result("BL", 0, 0.75)]))
    assert header == [
        "recipe", "parameters", "MMAC", "file kB", "faster", "accuracy seen", "AUC seen",
        "mean AUC unseen", "AUC far",
    ]  # fmt: skip
    assert len(rule) == len(header)
    assert row == [
        "BL", "2,000", "3.0", "8", "2.0x", "0.750 [0.500, 0.900]", "-", "0.750 [0.500, 0.900]",
        "0.650",
    ]  # fmt: skip


def test_a_source_has_its_columns_after_the_seen_ones_and_is_not_unseen() -> None:
    where = {"group": "source", "split": "test"}
    old = (
        Figure(metric="accuracy", value=0.6, low=0.5, high=0.7, slice=where),
        Figure(metric="auc", value=0.65, slice=where),
        Figure(metric="auc", value=0.65, slice={"domain": "old", "split": "test"}),
    )
    made = result("TL", 0, 0.75)
    made = made.model_copy(update={"source": ("old",), "figures": (*made.figures, *old)})
    header, _, plain, row = cells(study_table([result("BL", 0, 0.75), made]))
    assert header[5:] == [
        "accuracy seen", "AUC seen", "accuracy source", "AUC source", "mean AUC unseen", "AUC far",
    ]  # fmt: skip
    assert row[7:9] == ["0.600 [0.500, 0.700]", "0.650"]
    assert plain[7:9] == ["-", "-"]


def test_speed_has_its_interval_or_over_seeds_its_deviation() -> None:
    def timed(seed: int, ratio: float) -> Result:
        made = result("CPF", seed, 0.8)
        known = {"latency_ratio": ratio, "latency_ratio_low": 2.9, "latency_ratio_high": 3.2}
        return made.model_copy(update={"cost": made.cost.model_copy(update=known)})

    assert cells(study_table([timed(0, 3.0)]))[2][4] == "3.0x [2.9, 3.2]"
    assert cells(study_table([timed(0, 3.0), timed(1, 5.0)]))[2][5] == "4.0x ± 1.4"


def test_comparisons_have_columns_where_they_were_made() -> None:
    def against(made: Result, name: str, gain: float, flipped: float) -> Result:
        where = {**SEEN, "against": name}
        more = (
            Figure(metric="accuracy_gain", value=gain, low=-0.02, high=0.01, slice=where),
            Figure(metric="flipped", value=flipped, slice=where),
        )
        return made.model_copy(update={"figures": (*made.figures, *more)})

    base = result("BL", 0, 0.9).model_copy(update={"reference": True})
    pruned = against(result("CPF", 0, 0.89), "BL", -0.01, 0.06)
    small = against(against(result("CPF-int8", 0, 0.888), "BL", -0.012, 0.06), "CPF", -0.002, 0.004)
    header, _, *rows = cells(study_table([base, pruned, small]))
    assert (header[6], header[-1]) == ("minus BL", "rounding")
    assert [row[6] for row in rows] == [
        "-", "-0.010 [-0.020, +0.010]", "-0.012 [-0.020, +0.010]",
    ]  # fmt: skip
    assert [row[-1] for row in rows] == ["-", "-", "-0.002, 0.4% flipped"]
    assert "rounding" not in study_table([base, pruned])


def test_seeds_of_a_recipe_become_one_row_with_mean_and_deviation() -> None:
    results = [result("BL", 0, 0.9), result("CPF", 0, 0.7), result("CPF", 1, 0.8, 3000)]
    header, _, one, several = cells(study_table(results))
    assert header[:2] == ["recipe", "seeds"]
    assert one[:3] == ["BL", "1", "2,000"]
    assert one[6] == "0.900 [0.500, 0.900]"
    # 0.7 and 0.8: mean 0.75, standard deviation 0.1 / sqrt(2)
    assert several[:3] == ["CPF", "2", "2,500"]
    assert several[6] == "0.750 ± 0.071"
    assert several[-1] == "0.650"


def test_a_recipe_that_was_run_again_shows_the_newer_result() -> None:
    old, new = (
        result("BL", 0, 0.5, created="2026-01-01"),
        result("BL", 0, 0.75, created="2026-02-01"),
    )
    assert study_table([new, old]) == study_table([new])


def test_a_seed_without_a_figure_is_no_seed_that_was_left_out_in_silence() -> None:
    known, unknown = result("BL", 0, 0.75), result("BL", 1, 0.75)
    gone = tuple(f.model_copy(update={"value": None}) for f in unknown.figures)
    row = cells(study_table([known, unknown.model_copy(update={"figures": gone})]))[2]
    seeds = "(1 of 2 seeds)"
    assert row[6:] == [f"0.750 {seeds}", "-", f"0.750 {seeds}", f"0.650 {seeds}"]

"""Sweeps as files and cases, and predictors compared on them: answers known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.sweeps import placement
from lydite.cli import main
from lydite.errors import DataError
from lydite.report.placement_table import placement_table
from lydite.transfer.placement_cases import swept_case
from lydite.transfer.placement_compare import Comparison, compare_placements, read_placements
from lydite.transfer.placement_result import Placement, read_placement

GOOD, POOR = (3, 1, 2), (1, 3, 2)
#: means over two seeds of 0.1, 0.4 and 0.2
GAINS = ((0.0, 0.2), (0.5, 0.3), (0.2, 0.2))


def made(target: str = "t", **more: Any) -> Placement:
    return placement(GAINS, {"good": GOOD, "poor": POOR}, target=target, **more)


def other(target: str = "u", **more: Any) -> Placement:
    return placement(((0.1,), (0.6,), (0.3,)), {"good": GOOD, "poor": POOR}, target=target, **more)


def test_a_case_is_measured_by_the_mean_over_seeds() -> None:
    case = swept_case(made(accuracy=(0.3, 0.2, 0.1)))
    assert (case.source, case.target, case.network) == ("s", "t", "n")
    assert case.measured == pytest.approx((0.1, 0.4, 0.2))
    assert case.ranks == {"good": GOOD, "poor": POOR}
    by_accuracy = swept_case(made(accuracy=(0.3, 0.2, 0.1)), "accuracy")
    assert by_accuracy.measured == pytest.approx((0.3, 0.2, 0.1))
    assert swept_case(made(source=())).source == "d"  # nobody said what it knows


def test_predictors_are_compared_on_sweeps_with_known_answers() -> None:
    found = compare_placements({"a": made(), "b": other()}, n_boot=50, n_permutations=999)
    good, poor = found.effects.predictors
    assert (good.rho.value, poor.rho.value) == pytest.approx((1, -1))
    assert (good.regret.value, poor.regret.value) == pytest.approx((0, (0.3 + 0.5) / 2))
    assert found.effects.fixed["last"].value == pytest.approx((0.2 + 0.3) / 2)
    assert [(c.source, c.target, c.network, c.places) for c in found.cases] == [
        ("s", "t", "n", 3),
        ("s", "u", "n", 3),
    ]
    assert [case.seeds for case in found.cases] == [(0, 1), (0,)]
    assert found.cases[0].placement != found.cases[1].placement
    # the accuracies are all the same, which no ranking foresees
    flat = compare_placements({"a": made(), "b": other()}, measure="accuracy", n_boot=50)
    assert flat.effects.predictors[0].rho.value is None


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    bare = made().model_copy(update={"sweep": None})
    with pytest.raises(DataError, match=r"a: The placement of d holds no sweep.*place --sweep"):
        compare_placements({"a": bare})
    with pytest.raises(DataError, match="a and b hold the same sweep"):
        compare_placements({"a": made(), "b": made()})
    odd = placement(GAINS, {"good": GOOD}, target="u")
    with pytest.raises(DataError, match=r"a and b were not asked .*: only one of them has poor"):
        compare_placements({"a": made(), "b": odd})
    undefined = placement(((0.1, None), (0.2, 0.2)), {"good": (1, 2)})
    with pytest.raises(DataError, match=r"c: The sweep has no auc on t .* at body\.0"):
        compare_placements({"c": undefined})
    with pytest.raises(DataError, match="one or more cases"):
        compare_placements({})


def write(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(value), "utf-8")
    return str(path)


def test_placements_are_found_among_other_files(tmp_path: Path) -> None:
    write(tmp_path, "b.json", made().model_dump(mode="json"))
    write(tmp_path, "a.json", other().model_dump(mode="json"))
    write(tmp_path, "BL-seed0.json", {"format": "lydite-result"})
    assert list(read_placements(tmp_path).items()) == [("a.json", other()), ("b.json", made())]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "lydite-result"}, "is not a placement. Make one with"),
        ({"version": 2}, "has format version 2; this lydite reads up to 1"),
        ({"crops": "many"}, "is not a placement: `crops`"),
    ],
)
def test_what_is_no_placement_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", made().model_dump(mode="json") | change)
    with pytest.raises(DataError, match=said):
        read_placement(Path(path))


def test_a_sweep_has_every_place_with_every_seed(tmp_path: Path) -> None:
    value = made().model_dump(mode="json")
    *kept, last = value["sweep"]["trials"]
    for trials, said in (
        (kept, "not every place was measured once with every seed"),
        ([*kept, last, last], "not every place was measured once with every seed"),
        (kept[:4], "not over the places that were ranked"),
    ):
        broken = value | {"sweep": value["sweep"] | {"trials": trials}}
        with pytest.raises(DataError, match=said):
            read_placement(Path(write(tmp_path, "x.json", broken)))


def test_the_markdown_table_has_intervals_and_rules() -> None:
    effects = compare_placements({"a": made(), "b": other()}, n_boot=50, n_permutations=99).effects
    header, rule, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in placement_table(effects).splitlines()
    )
    assert header == ["predictor", "cases", "rho", "p", "regret"]
    assert rule == ["---", "---:", "---:", "---:", "---:"]
    assert [row[0] for row in rows] == [
        "good", "poor", "random", "always first", "always second", "always middle", "always last",
    ]  # fmt: skip
    assert rows[1][2] == "-1.00 [-1.00, -1.00]"
    assert rows[1][4] == "0.4000 [0.3000, 0.5000]"
    assert rows[0][3] == f"{effects.predictors[0].p:.4f}"
    assert rows[5] == ["always middle", "2", "-", "-", "0.0000 [0.0000, 0.0000]"]
    # a single case has no interval
    single = placement_table(compare_placements({"b": other()}, n_permutations=99).effects)
    assert "| poor | 1 | -1.00 | 1.0000 | 0.5000 |" in single


# ----------------------------------------------------------------------------------- command


def test_the_command_prints_and_writes_what_python_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        write(tmp_path, "a.json", made().model_dump(mode="json")),
        write(tmp_path, "b.json", other().model_dump(mode="json")),
    ]
    out = tmp_path / "effects.json"
    assert main(["place", "compare", *files, "-o", str(out), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text("utf-8")) == value
    assert Comparison.model_validate(value) == compare_placements({"a": made(), "b": other()})
    words = ["--measure", "accuracy", "--together", "source", "network"]
    assert main(["place", "compare", *files, *words]) == 0
    printed = capsys.readouterr().out
    assert "mean gain in accuracy" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("good")] == ["good"]
    assert "drawn by source, network" in printed


def test_mistakes_are_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path, "a.json", made().model_dump(mode="json"))
    bare = write(tmp_path, "b.json", made().model_dump(mode="json") | {"sweep": None})
    for words, said in (
        ([bare], "b.json: The placement of d holds no sweep"),
        ([good, good], "A file is named twice"),
        ([good, "-o", good], "Name another file with -o"),
        ([str(tmp_path / "none.json")], "none.json"),
        ([good, "--measure", "f1"], "measure"),
        ([], "FILES"),
    ):
        assert main(["place", "compare", *words]) == 2
        (error,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error:"))
        assert said in error

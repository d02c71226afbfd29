"""The figure of few images: its curves by hand, and where it has nothing to show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lydite.card import Figure
from lydite.report.overview import write_overview
from lydite.report.shots import Point, curves_of, passed, shot_curves
from lydite.study.results import Result

from .test_across import result


def of(shots: int | None, seed: int, values: Sequence[float], **changes: object) -> Result:
    """Return a result with accuracy, balanced accuracy and recall on what was learned."""
    where = {"group": "seen", "split": "test"}
    figures = tuple(
        Figure(metric=name, value=value, n=9, slice=where)
        for name, value in zip(("accuracy", "balanced_accuracy", "recall"), values, strict=False)
    )
    name = "pack" if shots is None else f"pack-{shots}"
    more = {"approach": "pack", "spec": {"shots": shots}, "figures": figures}
    return result(name, seed, 0.5, **(more | changes))


def accuracy(found: Result) -> float | None:
    figure = found.figure("accuracy", group="seen", split="test")
    return None if figure is None else figure.value


RESULTS = [
    of(32, 0, (0.8, 0.75, 0.6)),
    of(32, 1, (0.9, 0.75, 0.6)),
    of(8, 0, (0.6, 0.55, 0.9)),
    of(None, 0, (0.95, 0.9, 0.9)),
    of(None, 0, (0.5, 0.5, 0.1), steps=()),
]


def test_curves_run_from_few_to_many_and_leave_out_what_learned_from_all() -> None:
    (curve,) = curves_of(RESULTS, accuracy).values()
    assert curve == [Point(8, (0.6,)), Point(32, (0.8, 0.9))]
    assert round(curve[1].mean, 9) == 0.85


def test_photographs_called_real_follow_from_balanced_accuracy_and_recall() -> None:
    # 20 of 100 photographs and 90 of 100 fakes are called right
    found = passed(of(8, 0, (0.55, 0.55, 0.9)))
    assert found is not None
    assert round(found, 9) == 0.2
    assert passed(of(8, 0, (0.55,))) is None


def test_a_pack_counts_together_with_its_detector() -> None:
    packed = [
        found.model_copy(
            update={
                "figures": (
                    *found.figures,
                    Figure(
                        metric="accuracy",
                        value=0.123,
                        n=9,
                        slice={"group": "seen", "split": "test", "with": "base"},
                    ),
                )
            }
        )
        for found in RESULTS[:3]
    ]
    drawn = shot_curves({"to-x": packed})
    assert drawn is not None
    assert "pack 8 images 0.123, 32 images 0.123" in drawn


def test_the_figure_tells_its_curves_and_has_a_row_for_the_source_where_one_is_known() -> None:
    drawn = shot_curves({"to-x": RESULTS})
    assert drawn is not None
    assert "to-x: pack 8 images 0.600, 32 images 0.850." in drawn
    assert "accuracy on the source" not in drawn
    known = {"group": "source", "split": "test"}
    more = [
        r.model_copy(
            update={"figures": (*r.figures, Figure(metric="accuracy", value=0.9, n=9, slice=known))}
        )
        for r in RESULTS
    ]
    assert "accuracy on the source" in (shot_curves({"to-x": more}) or "")


def test_one_number_of_images_is_no_curve_and_the_page_goes_without(tmp_path: Path) -> None:
    few = {"to-x": [RESULTS[2], RESULTS[3]]}
    assert shot_curves(few) is None
    assert "What few images" not in write_overview(tmp_path, "t", few).read_text("utf-8")
    page = write_overview(tmp_path, "t", {"to-<b>": RESULTS}).read_text("utf-8")
    assert "What few images are worth" in page
    assert not re.search(r"<(b|script)\b", page)

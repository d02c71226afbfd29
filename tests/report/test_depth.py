"""The figure of adapters at every depth: its curves by hand, and where there is nothing to draw."""

from __future__ import annotations

from helpers.sweeps import placement
from lydite.report.depth import depth_curve, depth_curves

RANKS = {"good": (2, 1, 3)}


def test_depth_runs_from_the_first_stage_to_the_last() -> None:
    found = depth_curve(placement([(0.1, 0.3), (0.4, 0.4), (-0.1, 0.0)], RANKS))
    assert found == [(0.0, (0.1, 0.3)), (0.5, (0.4, 0.4)), (1.0, (-0.1, 0.0))]


def test_the_figure_tells_every_curve_in_words() -> None:
    one = placement([(0.1, 0.3), (0.4, 0.4), (-0.1, 0.0)], RANKS)
    other = placement([(0.5,), (0.25,), (0.0,)], RANKS, target="<u>")
    drawn = depth_curves([one, other])
    assert drawn is not None
    assert "d, t: +0.200, +0.400, -0.050." in drawn
    assert "d, &lt;u&gt;: +0.500, +0.250, +0.000." in drawn
    assert "d, 3 places" in drawn


def test_without_a_sweep_there_is_nothing_to_draw() -> None:
    bare = placement([(0.1,), (0.2,), (0.3,)], RANKS).model_copy(update={"sweep": None})
    assert depth_curves([bare]) is None
    assert depth_curves([]) is None

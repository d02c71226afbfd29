"""Two detectors on the same images: differences by hand, pairing, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lydite.card import Figure, ScoreMeaning
from lydite.errors import DataError
from lydite.evaluate.compare import FLIPPED, GAIN, compare
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.evaluate.unseen import Roles


def table(z: list[float | None], targets: list[int], domains: list[str]) -> pa.Table:
    """Return scores of images named by their place."""
    rows = [
        {
            "key": "k", "detector": "d", "runtime": "torch", "degradation": "none",
            "path": f"{place}.png", "sha256": f"{place:064x}", "label": ("real", "fake")[target],
            "target": target, "generator": "g", "domain": domain, "split": "test",
            "group": str(place), "z": score, "p_fake": None, "error": None,
        }
        for place, (score, target, domain) in enumerate(zip(z, targets, domains, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def of(figures: tuple[Figure, ...], metric: str, group: str) -> Figure:
    where = {"group": group, "split": "test", "against": "BL"}
    (found,) = [f for f in figures if f.metric == metric and f.slice == where]
    return found


PLAIN = ScoreMeaning()


def test_gain_and_flips_by_hand() -> None:
    targets, domains = [0, 0, 1, 1, 0, 1], ["a"] * 4 + ["b"] * 2
    base = table([-1, 1, 1, -1, -1, 1], targets, domains)  # right, wrong, right, wrong | both right
    mine = table([-1, -1, 1, -1, 1, 1], targets, domains)  # one mended on a, one broken on b
    figures = compare(mine, PLAIN, base, PLAIN, name="BL", roles=Roles(["a"]))
    assert of(figures, GAIN, "seen").value == pytest.approx(0.25)
    assert of(figures, FLIPPED, "seen").value == pytest.approx(0.25)
    assert of(figures, GAIN, "unseen").value == pytest.approx(-0.5)
    assert of(figures, FLIPPED, "unseen").value == pytest.approx(0.5)
    assert [of(figures, GAIN, group).n for group in ("seen", "unseen")] == [4, 2]


def test_a_source_is_compared_by_itself() -> None:
    targets, domains = [0, 1] * 3, ["a", "a", "b", "b", "c", "c"]
    base = table([-1, 1, -1, 1, -1, -1], targets, domains)
    mine = table([-1, 1, 1, 1, -1, 1], targets, domains)  # one broken on b, one mended on c
    figures = compare(mine, PLAIN, base, PLAIN, name="BL", roles=Roles(["a"], ["b"]))
    gains = [of(figures, GAIN, group).value for group in ("seen", "source", "unseen")]
    assert gains == pytest.approx([0.0, -0.5, 0.5])
    assert [of(figures, FLIPPED, group).n for group in ("seen", "source", "unseen")] == [2, 2, 2]
    without = compare(mine, PLAIN, base, PLAIN, name="BL", roles=Roles(["a"]))
    assert {f.slice["group"] for f in without} == {"seen", "unseen"}


def test_each_decides_by_its_own_threshold() -> None:
    scores = table([0.4, 0.6, 1.4, 1.6], [0, 0, 1, 1], ["a"] * 4)
    shifted = table([1.4, 1.6, 2.4, 2.6], [0, 0, 1, 1], ["a"] * 4)
    one, other = ScoreMeaning(threshold=1.0), ScoreMeaning(threshold=2.0)
    figures = compare(scores, one, shifted, other, name="BL", roles=Roles(["a"]))
    assert of(figures, FLIPPED, "seen").value == 0
    assert (
        of(compare(scores, one, shifted, one, name="BL", roles=Roles(["a"])), FLIPPED, "seen").value
        == 0.5
    )


def test_order_does_not_matter_and_failures_are_left_out() -> None:
    targets, domains = [0, 0, 1, 1], ["a"] * 4
    base = table([-1, 1, 1, None], targets, domains)
    mine = table([None, -1, 1, 1], targets, domains)
    figures = compare(mine, PLAIN, base.take([3, 1, 0, 2]), PLAIN, name="BL", roles=Roles(["a"]))
    assert of(figures, GAIN, "seen").n == 2
    assert of(figures, GAIN, "seen").value == pytest.approx(0.5)


def test_pairing_makes_the_interval_narrow() -> None:
    rng = np.random.default_rng(0)
    targets = [0, 1] * 200
    z = [float(rng.normal(2 * t - 1, 2)) for t in targets]
    other = [-value if place < 4 else value for place, value in enumerate(z)]
    mine, base = (table(values, targets, ["a"] * 400) for values in (z, other))
    gain = of(compare(mine, PLAIN, base, PLAIN, name="BL", roles=Roles(["a"])), GAIN, "seen")
    assert gain.low is not None
    assert gain.high is not None
    assert gain.high - gain.low < 0.03  # each accuracy alone is known to about 0.08


def test_other_images_are_refused() -> None:
    one, other = (table([1.0] * n, [1] * n, ["a"] * n) for n in (3, 4))
    with pytest.raises(DataError, match="same images as BL"):
        compare(one, PLAIN, other, PLAIN, name="BL", roles=Roles(["a"]))

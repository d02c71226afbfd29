"""Folds together, AUC gains, held-out generators and photographs, against slow references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from lydite.card import Figure, ScoreMeaning
from lydite.errors import DataError
from lydite.evaluate.auc_gain import AUC_GAIN, auc_gains
from lydite.evaluate.compare import GAIN, compare
from lydite.evaluate.folds import FEWEST_GROUPS, HELD_OUT, FoldScores, across_folds, p_value
from lydite.evaluate.intervals import replicates, resamples, strata_of
from lydite.evaluate.kernels import auc
from lydite.evaluate.photographs import FALSE_ALARMS, REAL_VS_REAL, photograph_figures
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.evaluate.shares import wilson
from lydite.evaluate.summary import summarize
from lydite.evaluate.unseen import Roles

DOMAINS = ("a", "b", "c")


def table(shift: float = 1.0, seed: int = 0, count: int = 12, noise: int = 0) -> pa.Table:
    """Return scores of three domains; fakes of each are of the generators g0 and g1."""
    rng, more = np.random.default_rng(seed), np.random.default_rng([noise, 1])
    rows = []
    for domain in DOMAINS:
        for target in (0, 1):
            for number in range(count):
                z = float(rng.normal(target * shift) + noise * more.normal())
                name, group = f"{domain}{target}{number}", f"{domain}{target}{number // 2}"
                rows.append(
                    {
                        "key": "k", "detector": "d", "runtime": "torch", "degradation": "none",
                        "path": name, "sha256": name, "label": ("real", "fake")[target],
                        "target": target, "generator": f"g{number % 2}" if target else "camera",
                        "domain": domain, "split": "test", "group": group,
                        "z": z, "p_fake": float(1 / (1 + np.exp(-z))), "error": None,
                    }
                )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def found(figures: Sequence[Figure], metric: str, **where: str) -> Figure:
    (figure,) = [f for f in figures if f.metric == metric and f.slice == where | {"split": "test"}]
    return figure


def arrays(scores: pa.Table) -> dict[str, np.ndarray]:
    ordered = scores.sort_by("sha256")
    return {name: np.array(ordered[name].to_pylist()) for name in ("z", "target", "domain",
            "generator", "group", "label", "p_fake", "sha256")}  # fmt: skip


def auc_of(columns: dict[str, np.ndarray], keep: np.ndarray, weights: np.ndarray) -> float:
    return float(
        roc_auc_score(columns["target"][keep], columns["z"][keep], sample_weight=weights[keep])
    )


def brute(values: list[float]) -> list[float]:
    return [float(x) for x in np.quantile(values, [0.025, 0.975])]


def test_auc_gain_is_the_paired_bootstrap_done_one_draw_at_a_time() -> None:
    mine, base = table(1.5, noise=1), table(1.0)
    figures = auc_gains(mine, base, name="BL", roles=Roles(["a"]), n_boot=60)
    one, two = arrays(mine), arrays(base)
    strata = [f"{t}/{d}" for t, d in zip(one["target"], one["domain"], strict=True)]
    for units, where in (
        ([("a",)], {"group": "seen"}),
        ([("b",), ("c",)], {"group": "unseen-mean"}),
        ([("b",)], {"domain": "b"}),
    ):
        inside = np.isin(one["domain"], [d for (d,) in units])
        names = np.array(strata)[inside]
        drawn = []
        weights = [np.ones(inside.sum())]
        for chunk in resamples(names, one["group"][inside], 60, 0):
            weights += list(chunk)
        for weight in weights:
            full = np.zeros(inside.size)
            full[inside] = weight
            gains = [
                auc_of(one, one["domain"] == d, full) - auc_of(two, two["domain"] == d, full)
                for (d,) in units
            ]
            drawn.append(float(np.mean(gains)))
        figure = found(figures, AUC_GAIN, **where, against="BL")
        assert figure.value == pytest.approx(drawn[0])
        assert [figure.low, figure.high] == pytest.approx(brute(drawn[1:]))
        assert figure.n == inside.sum()


def test_a_held_out_generator_is_unseen_and_no_part_of_seen() -> None:
    scores = table()
    figures = summarize(scores, roles=Roles(["a", "b"], unseen_generators=["g1"]), n_boot=30)
    columns, ones = arrays(scores), np.ones(scores.num_rows)
    fake, held = columns["target"] == 1, columns["generator"] == "g1"
    known = np.isin(columns["domain"], ["a", "b"])
    seen = found(figures, "auc", group="seen")
    assert seen.value == pytest.approx(auc_of(columns, known & ~held, ones))
    assert seen.n == 36
    units = [(columns["domain"] == d) & (~fake | held) for d in ("a", "b")]
    units.append(columns["domain"] == "c")
    unseen = found(figures, "auc", group="unseen-mean")
    assert unseen.value == pytest.approx(np.mean([auc_of(columns, u, ones) for u in units]))
    assert found(figures, "auc", domain="a", generator="g1").value == pytest.approx(
        auc_of(columns, units[0], ones)
    )
    gains = auc_gains(
        table(2.0), scores, name="BL", roles=Roles(["a", "b"], unseen_generators=["g1"]), n_boot=10
    )
    better = arrays(table(2.0))
    expected = [auc_of(better, u, ones) - auc_of(columns, u, ones) for u in units]
    mean = found(gains, AUC_GAIN, group="unseen-mean", against="BL")
    assert mean.value == pytest.approx(np.mean(expected))
    pair = found(gains, AUC_GAIN, domain="b", generator="g1", against="BL")
    assert pair.value == pytest.approx(expected[1])
    plain = ScoreMeaning()
    roles = Roles(["a", "b"], unseen_generators=["g1"])
    both = compare(scores, plain, scores, plain, name="BL", roles=roles, n_boot=10)
    assert [found(both, GAIN, group=g, against="BL").n for g in ("seen", "unseen")] == [36, 60]
    # a lower threshold finds more fakes and calls more photographs fake: no gain on what is unseen
    low = compare(scores, ScoreMeaning(threshold=-99.0), scores, plain, name="BL", roles=roles,
                  n_boot=10)  # fmt: skip
    right = (columns["p_fake"] > 0.5) == fake
    new = units[0] | units[1] | units[2]
    expected_gain = fake[new].mean() - right[new].mean()
    assert found(low, GAIN, group="unseen", against="BL").value == pytest.approx(expected_gain)
    # of a domain that was learned before, it is not known which fakes were
    before = Roles(["a"], ["b"], unseen_generators=["g1"])
    assert before.units(scores) == [{"domain": "c"}, {"domain": "a", "generator": "g1"}]


def test_a_generator_that_could_not_be_scored_leaves_the_mean_undefined() -> None:
    rows = table().to_pylist()
    for row in rows:
        if row["generator"] == "g1" and row["domain"] == "a":
            row |= {"z": None, "p_fake": None, "error": "truncated"}
    figures = summarize(
        pa.Table.from_pylist(rows, schema=SCORES_SCHEMA),
        roles=Roles(["a", "b", "c"], unseen_generators=["g1"]), n_boot=10,
    )  # fmt: skip
    assert found(figures, "accuracy", group="unseen-mean").value is None
    assert found(figures, "unreadable", group="unseen-mean").value == 6
    assert found(figures, "unreadable", group="seen").value == 0


def three_folds(**recipes: list[pa.Table]) -> dict[str, FoldScores]:
    """Return folds that hold out a domain each, the detectors of all the same."""
    return {f"without-{d}": FoldScores(({"domain": d},), recipes) for d in DOMAINS}


def test_means_over_folds_and_their_test_are_those_of_a_joint_bootstrap() -> None:
    base, first, second = (table(z, noise=n, count=40) for n, z in enumerate((0.8, 1.5, 1.2)))
    figures = across_folds(three_folds(BL=[base], ours=[first, second]), "BL", n_boot=80)
    columns = {name: arrays(t) for name, t in (("BL", base), ("1", first), ("2", second))}
    some = columns["BL"]
    strata = [f"{t}/{d}" for t, d in zip(some["target"], some["domain"], strict=True)]
    weights = [np.ones(len(strata))]
    for chunk in resamples(strata, some["group"], 80, 0):
        weights += list(chunk)

    def mean(name: str, weight: np.ndarray) -> float:
        parts = [auc_of(columns[name], some["domain"] == d, weight) for d in DOMAINS]
        return float(np.mean(parts))

    ours = [(mean("1", w) + mean("2", w)) / 2 for w in weights]
    gains = [mine - mean("BL", w) for mine, w in zip(ours, weights, strict=True)]
    overall = found(figures["ours"], "auc", group=HELD_OUT)
    assert overall.value == pytest.approx(ours[0])
    assert [overall.low, overall.high] == pytest.approx(brute(ours[1:]))
    assert overall.n == 240
    gain = found(figures["ours"], "auc_gain", group=HELD_OUT, against="BL")
    assert [gain.value, gain.low, gain.high] == pytest.approx([gains[0], *brute(gains[1:])])
    side = min(sum(g <= 0 for g in gains[1:]), sum(g >= 0 for g in gains[1:]))
    test = found(figures["ours"], "auc_gain_p", group=HELD_OUT, against="BL")
    assert test.value == pytest.approx(min(1, 2 * (side + 1) / 81))
    one = found(figures["BL"], "accuracy", group=HELD_OUT, fold="without-b")
    here = some["domain"] == "b"
    right = (some["p_fake"] > 0.5) == (some["target"] == 1)
    assert one.value == pytest.approx(right[here].mean())
    assert not [f for f in figures["BL"] if "against" in f.slice]


def test_what_was_made_of_another_is_compared_with_that_too() -> None:
    names = {"BL": 0.8, "ours": 1.5, "small": 1.2}
    tables = {name: [table(z, noise=n, count=40)] for n, (name, z) in enumerate(names.items())}
    made_of = {"ours": "BL", "small": "ours"}
    figures = across_folds(three_folds(**tables), "BL", made_of=made_of, n_boot=80)
    swapped = across_folds(three_folds(**tables), "ours", n_boot=80)
    for metric in ("auc_gain", "auc_gain_p", "accuracy_gain"):
        for where in ({}, {"fold": "without-a"}):
            place = {"group": HELD_OUT, "against": "ours"} | where
            gain = found(figures["small"], metric, **place)
            assert gain == found(swapped["small"], metric, **place)
            assert gain.value is not None
    against = [f.slice["against"] for f in figures["ours"] if f.metric == "auc_gain"]
    assert set(against) == {"BL"}
    assert len(against) == 4  # three folds and their mean, once each
    assert found(figures["small"], "auc_gain", group=HELD_OUT, against="BL").value is not None


def test_too_few_groups_for_a_test_have_none_and_a_perfect_mean_has_width() -> None:
    few = across_folds(three_folds(BL=[table(0.8)], ours=[table(99.0)]), "BL", n_boot=40)
    gain, test = (
        found(few["ours"], metric, group=HELD_OUT, against="BL")
        for metric in ("auc_gain", "auc_gain_p")
    )
    assert gain.low is not None and gain.low > 0  # 18 groups of a class, all in favor
    assert test.value is None
    perfect = found(few["ours"], "auc", group=HELD_OUT)
    low, high = wilson(18, 18)  # three domains of 6 groups a class
    assert (perfect.value, perfect.low, perfect.high) == (1.0, pytest.approx(low), high)


def test_an_image_that_every_fold_measures_does_not_count_as_several() -> None:
    once = {"one": FoldScores(({"domain": "a"},), {"BL": [table()]})}
    often = {f"f{n}": FoldScores(({"domain": "a"},), {"BL": [table()]}) for n in range(4)}
    short, long = (
        found(across_folds(folds, "BL", n_boot=50)["BL"], "auc", group=HELD_OUT)
        for folds in (once, often)
    )
    assert (short.low, short.high, short.n) == pytest.approx((long.low, long.high, long.n))


def test_equal_detectors_differ_as_rarely_as_the_p_value_says() -> None:
    """Groups of four images that are alike, as few groups as are allowed, 200 times anew."""
    rng, of_each = np.random.default_rng(1), 4
    targets = np.repeat([0, 1], FEWEST_GROUPS * of_each)
    groups = np.repeat(np.arange(2 * FEWEST_GROUPS), of_each).astype(str)
    strata = strata_of(targets, [""] * targets.size)
    low = 0
    for _ in range(200):
        one, other = (
            targets
            + np.repeat(rng.normal(size=2 * FEWEST_GROUPS), of_each)
            + rng.normal(0, 0.3, targets.size)
            for _ in range(2)
        )

        def gain(weights: np.ndarray) -> dict[str, np.ndarray]:
            return {"gain": auc(one, targets, weights) - auc(other, targets, weights)}  # noqa: B023

        drawn = replicates(gain, strata, groups, n_boot=300)["gain"][1]
        p = p_value(drawn)
        assert p is not None
        low += p < 0.05
    assert 2 <= low <= 18  # 10 expected


def test_p_values_by_hand() -> None:
    assert p_value(np.array([1.0] * 999)) == pytest.approx(2 / 1000)
    assert p_value(np.array([1.0, -1.0, 0.0])) == 1.0
    assert p_value(np.zeros(9)) == 1.0
    assert p_value(np.array([1.0] * 90 + [-1.0] * 9 + [np.nan])) == pytest.approx(0.2)
    assert p_value(np.empty(0)) is None


def test_folds_that_do_not_fit_are_refused() -> None:
    folds = three_folds(BL=[table()])
    with pytest.raises(DataError, match="same recipes"):
        across_folds(folds | {"x": FoldScores(({"domain": "a"},), {"TF": [table()]})}, "BL")
    with pytest.raises(DataError, match="Fold x: BL was scored on other images"):
        across_folds(folds | {"x": FoldScores(({"domain": "a"},), {"BL": [table(count=6)]})}, "BL")
    with pytest.raises(DataError, match="Fold x: nothing was measured"):
        across_folds(folds | {"x": FoldScores(({"domain": "d"},), {"BL": [table()]})}, "BL")


def test_what_one_recipe_could_not_score_leaves_its_fold_undefined() -> None:
    def without(**gone: str) -> pa.Table:
        rows = table().to_pylist()
        for row in rows:
            if all(row[name] == value for name, value in gone.items()):
                row |= {"z": None, "p_fake": None, "error": "too-small"}
        return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)

    figures = across_folds(three_folds(BL=[table()], TF=[without(domain="a")]), "BL", n_boot=20)
    whole = across_folds(three_folds(BL=[table()], TF=[table()]), "BL", n_boot=20)
    for metric in ("auc", "accuracy"):
        for recipe in ("BL", "TF"):
            gone = found(figures[recipe], metric, group=HELD_OUT, fold="without-a")
            assert (gone.value, gone.low, gone.n) == (None, None, 0)
            assert found(figures[recipe], metric, group=HELD_OUT).value is None
            kept, same = (
                found(each[recipe], metric, group=HELD_OUT, fold="without-b")
                for each in (figures, whole)
            )
            assert kept.value == same.value is not None
        test = found(figures["TF"], f"{metric}_gain_p", group=HELD_OUT, against="BL")
        assert test.value is None
    unit = {"domain": "a", "generator": "g1"}
    held = {"f": FoldScores((unit,), {"BL": [without(generator="g1")]})}
    assert found(across_folds(held, "BL")["BL"], "accuracy", group=HELD_OUT).value is None
    nothing = across_folds(three_folds(BL=[without()]), "BL")["BL"]
    assert found(nothing, "auc", group=HELD_OUT).value is None


def test_photographs_of_two_sources_are_compared_without_their_fakes() -> None:
    scores = table()
    figures = photograph_figures(scores, n_boot=40)
    columns = arrays(scores)
    real = columns["target"] == 0
    for domain in DOMAINS:
        here = real & (columns["domain"] == domain)
        rate = found(figures, FALSE_ALARMS, domain=domain)
        assert rate.value == pytest.approx((columns["p_fake"][here] > 0.5).mean())
        assert rate.n == 12
    pair = real & (columns["domain"] != "b")
    apart = found(figures, REAL_VS_REAL, group="real-vs-real", domains="a+c")
    assert apart.value == pytest.approx(
        roc_auc_score(columns["domain"][pair] == "c", columns["z"][pair])
    )
    assert apart.low is not None
    assert apart.low < apart.value < (apart.high or 0)  # type: ignore[operator]
    assert sum(f.metric == REAL_VS_REAL for f in figures) == 3


def test_a_photograph_that_two_domains_share_is_not_told_from_itself() -> None:
    rows = table().to_pylist()
    reals = {d: [r for r in rows if r["domain"] == d and r["target"] == 0] for d in DOMAINS}
    for one, other in zip(reals["a"][:10], reals["b"][:10], strict=True):
        other |= {"sha256": one["sha256"], "group": one["group"], "z": one["z"]}
    for one, other in zip(reals["a"], reals["c"], strict=True):
        other |= {"sha256": one["sha256"], "group": one["group"], "z": one["z"]}
    figures = photograph_figures(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), n_boot=20)
    pair = found(figures, REAL_VS_REAL, group="real-vs-real", domains="a+b")
    z = [r["z"] for d in ("a", "b") for r in reals[d][10:]]
    assert (pair.value, pair.n) == (pytest.approx(roc_auc_score([0, 0, 1, 1], z)), 4)
    same = found(figures, REAL_VS_REAL, group="real-vs-real", domains="a+c")
    assert (same.value, same.n) == (None, 0)


def test_cats_and_dogs_are_no_photographs_to_tell_apart() -> None:
    rows = [row | {"label": ("cat", "dog")[row["target"]]} for row in table().to_pylist()]
    assert photograph_figures(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)) == ()

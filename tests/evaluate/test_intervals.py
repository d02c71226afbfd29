"""Bootstrap intervals: coverage, groups, strata, seeds, and the pairing of differences."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lydite.errors import DataError
from lydite.evaluate import kernels
from lydite.evaluate.intervals import (
    Interval,
    bootstrap,
    intervals,
    paired_difference,
    resamples,
    strata_of,
)
from lydite.evaluate.shares import never_certain, wilson, with_width


def names(count: int, per_group: int = 1) -> list[str]:
    return [f"g{i // per_group}" for i in range(count)]


def test_draws_keep_groups_whole_and_strata_at_their_size() -> None:
    targets = np.repeat([0, 1], [40, 20])
    groups = names(60, per_group=4)
    weights = np.concatenate(list(resamples(strata_of(targets, [""] * 60), groups, 50, seed=1)))
    assert weights.shape == (50, 60)
    assert (weights[:, :40].sum(axis=1) == 40).all()
    assert (weights[:, 40:].sum(axis=1) == 20).all()
    by_group = weights.reshape(50, 15, 4)
    assert (by_group == by_group[:, :, :1]).all()
    assert weights.std() > 0.5


def test_a_group_over_two_strata_is_drawn_with_its_like() -> None:
    strata = ["a", "b", "a", "b", "a", "a"]
    groups = ["pair1", "pair1", "pair2", "pair2", "only1", "only2"]
    for weights in resamples(strata, groups, 200, seed=0):
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, :4].sum(axis=1) == 4).all()
        assert (weights[:, 4:].sum(axis=1) == 2).all()


def test_groups_that_are_alone_with_their_strata_vary_too() -> None:
    """Photographs beside several generators each: hardly two lie in the same ones."""
    hits = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        values = np.repeat(rng.normal(size=100), 4)
        groups = np.repeat(np.arange(100), 4).astype(str)
        strata = np.concatenate([rng.permutation(8)[:4] for _ in range(100)]).astype(str)
        found = intervals(
            lambda w, v=values: {"mean": (w @ v) / w.sum(axis=1)},  # type: ignore[misc]
            strata, groups, n_boot=200, seed=trial,
        )["mean"]  # fmt: skip
        hits += found.low <= 0 <= found.high
    assert 0.87 <= hits / 60 <= 1


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        targets = np.repeat([0, 1], 60)
        scores = rng.normal(targets * 1.0, 1.0)
        found = bootstrap(
            {"auc": (kernels.auc, scores)}, targets, names(120), n_boot=200, seed=trial
        )["auc"]
        hits += found.low <= 0.7602499389065233 <= found.high  # Phi(1 / sqrt(2))
    assert 0.89 <= hits / 200 <= 0.99


def test_copies_in_a_group_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    targets = np.repeat([0, 1], 50)
    scores = rng.normal(targets, 1.0)
    once = bootstrap({"auc": (kernels.auc, scores)}, targets, names(100))["auc"]
    ten, ten_targets = np.repeat(scores, 10), np.repeat(targets, 10)
    grouped = bootstrap({"auc": (kernels.auc, ten)}, ten_targets, names(1000, 10))["auc"]
    ignored = bootstrap({"auc": (kernels.auc, ten)}, ten_targets, names(1000))["auc"]
    assert grouped.value == pytest.approx(once.value)
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert ignored.high - ignored.low < 0.5 * (once.high - once.low)


def test_seed_decides() -> None:
    rng = np.random.default_rng(4)
    targets = np.repeat([0, 1], 30)
    metric = {"auc": (kernels.auc, rng.normal(targets, 1.0))}
    first = bootstrap(metric, targets, names(60), seed=5)
    assert first == bootstrap(metric, targets, names(60), seed=5)
    assert first != bootstrap(metric, targets, names(60), seed=6)


def test_pairing_cancels_what_the_images_share() -> None:
    rng = np.random.default_rng(5)
    targets = np.repeat([0, 1], 100)
    first = rng.normal(targets, 1.0)
    second = first + rng.normal(0, 0.05, 200)
    found = paired_difference(kernels.auc, first, second, targets, names(200))
    alone = bootstrap({"auc": (kernels.auc, first)}, targets, names(200))["auc"]
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.3 * (alone.high - alone.low)
    same = paired_difference(kernels.auc, first, first, targets, names(200))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_undefined_metrics_have_no_interval() -> None:
    targets = np.zeros(10, dtype=int)
    found = bootstrap(
        {"auc": (kernels.auc, np.arange(10.0)), "accuracy": (kernels.accuracy, np.zeros(10))},
        targets,
        names(10),
    )
    assert (found["auc"].value, found["auc"].low, found["auc"].n) == (None, None, 10)
    assert (found["accuracy"].value, found["accuracy"].low) == (1.0, 1.0)


def test_one_group_has_a_value_but_no_interval() -> None:
    found = bootstrap({"accuracy": (kernels.accuracy, [0.9, 0.1])}, [1, 0], ["a", "a"])["accuracy"]
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_interval_is_left_out_where_draws_are_often_undefined() -> None:
    p_fake = np.r_[0.9, np.full(9, 0.1)]  # a third of the draws call nothing fake
    found = bootstrap({"precision": (kernels.precision, p_fake)}, np.ones(10, int), names(10))
    assert (found["precision"].value, found["precision"].low) == (1.0, None)


def test_misfits_are_refused() -> None:
    with pytest.raises(DataError, match="2 groups and 1 strata"):
        intervals(lambda w: {}, ["a"], ["a", "b"])
    with pytest.raises(DataError, match="0 groups"):
        intervals(lambda w: {}, [], [])
    with pytest.raises(DataError, match="0 <= successes <= n"):
        wilson(3, 2)


def test_thousands_of_images_take_under_a_second_a_metric() -> None:
    rng = np.random.default_rng(6)
    targets = np.repeat([0, 1], 2500)
    started = time.process_time()
    bootstrap({"auc": (kernels.auc, rng.normal(targets, 1.0))}, targets, names(5000))
    assert time.process_time() - started < 2.0  # twice the goal, for slow machines


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_a_mean_over_parts_is_as_certain_as_its_smaller_parts_allow() -> None:
    groups = names(30)
    units = [np.arange(30) < 10, np.arange(30) >= 10]
    sure = Interval(1.0, 1.0, 1.0, 30)
    # parts of 10 and 20: 4 / (1/10 + 1/20) = 26.7
    assert never_certain(sure, groups, units).low == pytest.approx(wilson(26, 26)[0])
    assert never_certain(sure, groups).low == pytest.approx(wilson(30, 30)[0])
    assert never_certain(sure, groups, [units[0], np.zeros(30, bool)]) is sure
    some = Interval(0.5, 0.4, 0.6, 30)
    assert never_certain(some, groups, units) is some


def test_a_perfect_detector_is_certain_of_no_metric() -> None:
    targets, groups = np.repeat([0, 1], [20, 12]), np.array(names(32, 2))  # 10 and 6 groups
    p_fake = targets.astype(float)
    read = ("accuracy", "recall", "precision", "f1", "balanced_accuracy", "auc", "ap")
    decided = {name: (kernels.KERNELS[name], p_fake) for name in read}
    decided["false_alarm_rate"] = (kernels.false_alarm_rate, p_fake)
    plain = bootstrap(decided, targets, groups, n_boot=20)
    wide = with_width(plain, p_fake, targets, groups)
    ends = {name: (i.low, i.high) for name, i in wide.items()}
    assert ends["accuracy"] == wilson(16, 16)
    assert ends["recall"] == ends["precision"] == ends["auc"] == wilson(6, 6)
    assert ends["false_alarm_rate"] == wilson(0, 10)
    assert ends["balanced_accuracy"] == wilson(15, 15)  # 4 / (1/10 + 1/6)
    assert ends["f1"] == ends["ap"] == (None, None)
    assert {i.value for i in wide.values()} == {0.0, 1.0}


def test_what_depends_on_one_group_has_no_interval() -> None:
    # every fake of one source: the recall is drawn the same every time
    targets = np.repeat([0, 1], 30)
    groups = names(30) + ["one"] * 30
    p_fake = np.tile([0.2, 0.9], 30)
    found = bootstrap(
        {"recall": (kernels.recall, p_fake), "fpr": (kernels.false_alarm_rate, p_fake)},
        targets, groups, n_boot=50,
    )  # fmt: skip
    assert (found["recall"].value, found["recall"].low) == (0.5, None)
    assert found["fpr"].low is not None and found["fpr"].low < 0.5

"""Metrics of verdicts against counting, and intervals of numbers at their limits."""

from __future__ import annotations

import numpy as np
import pytest

from lydite.card import ScoreMeaning
from lydite.evaluate import kernels, metrics
from lydite.evaluate.intervals import Interval, bootstrap
from lydite.evaluate.shares import wilson
from lydite.evaluate.verdicts import VERDICTS, reflected, verdicts_of, verdicts_with_width

SAID = ["real", "unsure", "fake", "fake", "real", "unsure", "fake"]
TARGETS = np.array([0, 0, 0, 1, 1, 1, 1])
WIDE = ScoreMeaning(band=(0.2, 0.8))
P_FAKE = np.array([0.1, 0.5, 0.9, 0.95, 0.0, 0.8, 1.0])


def test_values_equal_counting() -> None:
    verdicts = verdicts_of(P_FAKE, WIDE)
    assert verdicts.tolist() == [{"real": 0.0, "unsure": 0.5, "fake": 1.0}[s] for s in SAID]
    found = {name: metrics.measure(kernel, verdicts, TARGETS) for name, kernel in VERDICTS.items()}
    assert found == {
        "decided": pytest.approx(5 / 7),
        "decided_error": pytest.approx(2 / 5),
        "miscoverage_real": pytest.approx(1 / 3),
        "miscoverage_fake": pytest.approx(1 / 4),
    }


@pytest.mark.parametrize("name", VERDICTS)
def test_weights_equal_repeating_images(name: str) -> None:
    verdicts = verdicts_of(P_FAKE, WIDE)
    times = np.random.default_rng(0).integers(0, 4, (20, 7))
    for row, value in zip(
        times, VERDICTS[name](verdicts, TARGETS, times.astype(float)), strict=True
    ):
        again = metrics.measure(VERDICTS[name], np.repeat(verdicts, row), np.repeat(TARGETS, row))
        assert again == (None if np.isnan(value) else pytest.approx(value))


def test_without_a_meaning_everything_is_decided() -> None:
    verdicts = verdicts_of(P_FAKE, None)
    assert metrics.measure(VERDICTS["decided"], verdicts, TARGETS) == 1.0
    wrong = metrics.measure(VERDICTS["decided_error"], verdicts, TARGETS)
    assert wrong == pytest.approx(1 - (metrics.accuracy(P_FAKE, TARGETS) or 0.0))


def test_nothing_decided_leaves_its_error_undefined() -> None:
    unsure = np.full(4, 0.5)
    targets = np.array([0, 0, 1, 1])
    assert metrics.measure(VERDICTS["decided"], unsure, targets) == 0.0
    assert metrics.measure(VERDICTS["decided_error"], unsure, targets) is None
    assert metrics.measure(VERDICTS["miscoverage_real"], unsure[2:], targets[2:]) is None


def test_a_share_of_none_is_not_certain_and_copies_do_not_make_it_so() -> None:
    verdicts, targets = np.repeat([0.0, 1.0], 20), np.repeat([0, 1], 20)
    groups = np.array([str(n // 2) for n in range(40)])
    plain = bootstrap({name: (k, verdicts) for name, k in VERDICTS.items()}, targets, groups)
    assert (plain["miscoverage_real"].low, plain["miscoverage_real"].high) == (0.0, 0.0)
    found = verdicts_with_width(plain, verdicts, targets, groups)
    assert (found["miscoverage_real"].low, found["miscoverage_real"].high) == wilson(0, 10)
    assert (found["decided"].low, found["decided"].high) == wilson(20, 20)
    unsure = verdicts.copy()
    unsure[0] = 0.5
    kept = bootstrap({name: (k, unsure) for name, k in VERDICTS.items()}, targets, groups)
    assert verdicts_with_width(kept, unsure, targets, groups)["decided"] == kept["decided"]


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_a_calibration_error_lies_in_its_interval_as_does_the_truth(temperature: float) -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.repeat([0, 1], n)
        x = 1.5 * rng.normal(1.5 * (targets - 0.5), 1.0)  # logits of calibrated probabilities
        return 1 / (1 + np.exp(-x / temperature)), targets

    truth = metrics.ece(*drawn(200_000))
    assert truth is not None
    inside = {"percentiles": 0, "reflected": 0}
    for seed in range(40):
        p_fake, targets = drawn(150)
        plain = bootstrap(
            {"ece": (kernels.ece, p_fake)},
            targets,
            [str(k) for k in range(300)],
            n_boot=120,
            seed=seed,
        )["ece"]
        made = reflected(plain)
        for name, interval in (("percentiles", plain), ("reflected", made)):
            assert interval.low is not None
            assert interval.high is not None
            inside[name] += interval.low <= truth <= interval.high
        assert made.value is not None
        assert made.low <= made.value <= made.high
    assert inside["reflected"] >= 32
    if temperature == 1.0:  # of a calibrated detector percentiles never reach the truth
        assert inside["percentiles"] <= 8


def test_without_an_interval_there_is_nothing_to_reflect() -> None:
    none = Interval(0.1, None, None, 5)
    assert reflected(none) == none

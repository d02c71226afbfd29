"""Budgets: what they say, and the mildest rate that keeps one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import nn

from lydite.card import Architecture
from lydite.compress.budget import (
    Budget,
    Probe,
    answer,
    costs_of,
    mildest_rate,
    outline_of,
    parse_budget,
    timed,
)
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export
from lydite.models.cost import count_macs, count_parameters
from lydite.recipe import Step, parse_step


@pytest.fixture(scope="module")
def detector() -> Detector:
    config = {"widths": [16, 32]}
    return Detector.start(Architecture(network="lydite-small", input_size=32, config=config))


def prune(rate: float) -> list[Step]:
    return [parse_step({"prune": {"rate": rate, "multiple": 1}}), parse_step("finetune")]


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("300kB", "size_bytes", 300_000),
        ("0.5 MB", "size_bytes", 500_000),
        ("20MMAC", "macs", 20_000_000),
        ("5ms@onnxruntime", "latency_ms", 5),
        ("250us", "latency_ms", 0.25),
        ("50kparams", "parameters", 50_000),
    ],
)
def test_budgets_people_write(text: str, kind: str, limit: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.limit, budget.text) == (kind, limit, text)


@pytest.mark.parametrize("text", ["", "300", "kB", "-3kB", "0kB", "3 parsecs", "1e3kB", "nanMB"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="`budget` must be a number above 0 with a unit"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["5ms@litert", "300kB@onnxruntime"])
def test_a_runtime_that_is_not_measured(text: str) -> None:
    with pytest.raises(ConfigError, match="only onnxruntime is measured"):
        parse_budget(text)


@pytest.mark.parametrize("kind", ["parameters", "macs", "size_bytes"])
def test_the_mildest_rate_keeps_the_budget_and_a_milder_one_does_not(
    detector: Detector, kind: str
) -> None:
    whole = costs_of(detector)
    budget = Budget.model_validate(
        {"kind": kind, "limit": whole.of(kind) * 0.4, "text": "40 %"}  # type: ignore[arg-type]
    )
    told: list[Probe] = []
    probes = mildest_rate(detector, prune, budget, told.append)
    best = answer(probes)
    assert told == probes
    assert best is not None
    assert best.costs is not None
    assert best.costs.of(budget.kind) <= budget.limit
    over = [p for p in probes if p.costs is not None and not p.fits]
    assert all(p.rate < best.rate for p in over)
    # bisection has come close: what is too large keeps hardly more
    assert (1 - max(p.rate for p in over)) / (1 - best.rate) < 1.05


def test_a_budget_that_holds_already_needs_next_to_no_pruning(detector: Detector) -> None:
    budget = Budget(kind="parameters", limit=1e9, text="1000Mparams")
    (probe,) = mildest_rate(detector, prune, budget)
    assert (probe.fits, probe.rate) == (True, 0.01)


def test_a_budget_that_cannot_be_kept_has_no_answer(detector: Detector) -> None:
    budget = Budget(kind="parameters", limit=1, text="1params")

    def eights(rate: float) -> list[Step]:
        return [parse_step({"prune": {"rate": rate}})]

    probes = mildest_rate(detector, eights, budget)
    assert answer(probes) is None
    assert any("cannot be reached" in probe.why_not for probe in probes)


def test_costs_are_those_of_the_real_thing(detector: Detector) -> None:
    costs = costs_of(detector)
    assert costs.parameters == count_parameters(detector.network)
    assert costs.macs == count_macs(detector.network, 32)
    assert costs.size_bytes == len(export(detector))
    assert costs_of(detector, size=False).size_bytes is None


def test_a_fresh_student_is_not_taken_for_smaller_than_a_trained_one(detector: Detector) -> None:
    step = parse_step({"distill": {"student": "auto", "rate": 0.5}})
    expected = costs_of(outline_of(detector, [step])).size_bytes
    trained = step.outline(detector)
    for module in trained.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
    assert len(export(trained)) == expected > len(export(step.outline(detector)))


def test_the_outline_of_int8_is_an_int8_file(detector: Detector) -> None:
    steps: Sequence[Step] = [*prune(0.5), parse_step("quantize")]
    made = outline_of(detector, steps)
    assert inspect_quantized(export(made)).integer_layers > 0
    assert count_parameters(made.network) <= 0.5 * count_parameters(detector.network)


def test_latencies_come_with_their_ratio(detector: Detector) -> None:
    (same,) = timed(detector, [detector], repeats=3)
    assert same.latency_ms is not None
    assert same.latency_ms > 0
    assert same.latency_ratio is not None
    assert same.size_bytes == len(export(detector))

"""Results on disk: what older versions wrote is still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lydite.files import write_json
from lydite.study.results import Result, StepCost, newest, read_results, write_result

STEP = {"step": {"train": {"steps": 9}}, "key": "0" * 64, "seconds": 2.0, "parameters": 7}
OLD: dict[str, Any] = {
    "study": "s",
    "recipe": "BL",
    "approach": "BL",
    "spec": {},
    "key": "0" * 64,
    "card_digest": "1" * 64,
    "seed": 0,
    "created": "2025-01-01T00:00:00+00:00",
    "versions": {},
    "hardware": {},
    "data": {},
    "seen": ["a"],
    "steps": [STEP],
    "cost": {"parameters": 7, "macs": 1, "size_bytes": 1},
    "figures": [],
}


def test_steps_of_before_memory_was_noted_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", OLD)
    (result,) = read_results(tmp_path)
    (step,) = result.steps
    assert (step.parameters, step.trainable_parameters, step.peak_bytes) == (7, None, None)


def test_what_training_took_comes_back() -> None:
    cost = StepCost.model_validate({**STEP, "trainable_parameters": 3, "peak_bytes": 5})
    back = StepCost.model_validate_json(json.dumps(cost.model_dump(mode="json")))
    assert (back.trainable_parameters, back.peak_bytes) == (3, 5)


def test_of_results_of_the_same_second_the_last_one_written_counts(tmp_path: Path) -> None:
    for number in range(12):
        cost = {**OLD["cost"], "size_bytes": number + 1}
        write_result(tmp_path, Result.model_validate({**OLD, "cost": cost}))
    sizes = [result.cost.size_bytes for result in read_results(tmp_path)]
    assert sizes == list(range(1, 13))
    assert [result.cost.size_bytes for result in newest(read_results(tmp_path))] == [12]

"""Results on disk: what older versions wrote is still read."""

from __future__ import annotations

import json
from pathlib import Path

from lydite.files import write_json
from lydite.study.results import StepCost, read_results

STEP = {"step": {"train": {"steps": 9}}, "key": "0" * 64, "seconds": 2.0, "parameters": 7}


def test_steps_of_before_memory_was_noted_are_read(tmp_path: Path) -> None:
    old = {
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
    write_json(tmp_path / "old.json", old)
    (result,) = read_results(tmp_path)
    (step,) = result.steps
    assert (step.parameters, step.trainable_parameters, step.peak_bytes) == (7, None, None)


def test_what_training_took_comes_back() -> None:
    cost = StepCost.model_validate({**STEP, "trainable_parameters": 3, "peak_bytes": 5})
    back = StepCost.model_validate_json(json.dumps(cost.model_dump(mode="json")))
    assert (back.trainable_parameters, back.peak_bytes) == (3, 5)

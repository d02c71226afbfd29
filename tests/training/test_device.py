"""Peak memory: of the GPU where one trains, of the process elsewhere."""

from __future__ import annotations

import pytest
import torch

from lydite.training import device
from lydite.training.device import peak_bytes, restart_peak


@pytest.mark.parametrize("ready", [True, False])
def test_a_gpu_answers_for_itself(monkeypatch: pytest.MonkeyPatch, ready: bool) -> None:
    gpu, reset = torch.device("cuda", 0), []
    monkeypatch.setattr(device, "forget_peak", lambda: pytest.fail("the process does not matter"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: ready)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {gpu: 123}.__getitem__)
    restart_peak(gpu)
    assert reset == [gpu] * ready
    assert peak_bytes(gpu) == 123


def test_elsewhere_the_process_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[bool] = []
    monkeypatch.setattr(device, "forget_peak", lambda: forgotten.append(True))
    restart_peak(torch.device("cpu"))
    assert forgotten == [True]
    monkeypatch.setattr(device, "resident_bytes", lambda *, peak: 7 if peak else 5)
    assert peak_bytes(torch.device("cpu")) == 7

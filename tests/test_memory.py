"""The process's memory: the peak can begin anew, and every system has some answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lydite import memory
from lydite.memory import forget_peak, resident_bytes

SIZE = 64_000_000


PEAK = """
import json, numpy as np
from lydite.memory import forget_peak, resident_bytes
start = resident_bytes(peak=False)
filled = np.ones({size}, np.uint8)
full = resident_bytes(peak=False)
del filled
high = resident_bytes(peak=True)
print(json.dumps([start, full, high, forget_peak(), resident_bytes(peak=True)]))
"""


def test_a_peak_stays_until_it_is_forgotten() -> None:
    # a process of its own: in one that has run for long, freed memory may stay with the allocator
    command = [sys.executable, "-c", PEAK.format(size=SIZE)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    start, full, high, forgotten, after = json.loads(ran.stdout)
    assert full > start + SIZE // 2
    assert high > start + SIZE // 2
    if not forgotten:
        pytest.skip("this system cannot forget a peak")
    assert after < high - SIZE // 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
def test_without_proc_the_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    pytest.importorskip("psutil")
    known = resident_bytes(peak=False)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    assert not forget_peak()
    assert resident_bytes(peak=False) == pytest.approx(known, rel=0.2)
    unit = 1 if sys.platform == "darwin" else 1024
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert 1_000_000 < resident_bytes(peak=True) == whole


def test_a_status_without_the_line_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 12 kB\n")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert resident_bytes(peak=False) == 12 * 1024
    assert resident_bytes(peak=True) > 1_000_000

"""The benchmark: honest bookkeeping on a clock of our own, no assertions about real time."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from lydite.card import Architecture
from lydite.detector import Detector
from lydite.errors import CardError, ConfigError
from lydite.export import bench as module
from lydite.export import memory
from lydite.export.bench import bench
from lydite.export.memory import peak_memory_bytes
from lydite.export.onnx import export


@pytest.fixture(scope="module")
def model() -> bytes:
    tiny = Architecture(network="lydite-small", input_size=32, config={"widths": [2], "blocks": 0})
    return export(Detector.start(tiny))


class FakeClock:
    """Time that passes only while a fake file runs."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Files take their size in milliseconds; every tenth call of a file takes ten times that."""
    clock = FakeClock()

    def call(name: str, data: bytes, _tile: object, _threads: int) -> object:
        def run() -> None:
            assert not gc.isenabled()
            clock.calls.append(name)
            slow = clock.calls.count(name) % 10 == 0
            clock.now += len(data) * 1_000_000 * (10 if slow else 1)

        return run

    monkeypatch.setattr(module, "_call", call)
    return clock


def test_rows_of_a_known_clock(fake: FakeClock) -> None:
    rows = bench({"a": b"12345678", "b": b"12"}, 64, warmup=10, repeats=40, clock=fake)
    assert [row.name for row in rows] == ["a", "b"]
    assert [row.median_ms for row in rows] == [8.0, 2.0]
    assert [row.p95_ms for row in rows] == [80.0, 20.0]
    assert [(row.ratio_low, row.ratio, row.ratio_high) for row in rows] == [(1, 1, 1), (4, 4, 4)]
    assert [row.ratio for row in rows] == [1.0, 4.0]
    assert [row.tiles_per_s for row in rows] == [125.0, 500.0]
    assert [row.peak_memory_bytes for row in rows] == [None, None]
    assert [row.size_bytes for row in rows] == [8, 2]
    assert {(row.n, row.warmup, row.threads, row.batch) for row in rows} == {(40, 10, 1, 1)}
    assert set(rows[0].versions) == {"onnxruntime", "python"}


def test_the_interval_of_a_ratio_knows_how_noisy_the_rounds_were() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(1, 3, (2, 50))
    for shared in (True, False):
        # what slows a whole round leaves the ratio as it is
        times = np.stack([4 * noise[0], 2 * (noise[0] if shared else noise[1])])
        low, high = module._ratio_intervals(times, np.random.default_rng(1))[1]
        middle = np.median(times[0]) / np.median(times[1])
        assert low <= middle <= high
        assert high - low == pytest.approx(0) if shared else high - low > 0.2


def test_files_take_turns_in_an_order_that_changes(fake: FakeClock) -> None:
    bench({"a": b"1", "b": b"1", "c": b"1"}, 64, warmup=5, repeats=20, seed=1, clock=fake)
    rounds = [tuple(fake.calls[i : i + 3]) for i in range(0, len(fake.calls), 3)]
    assert len(rounds) == 25
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1
    first, fake.calls = fake.calls, []
    bench({"a": b"1", "b": b"1", "c": b"1"}, 64, warmup=5, repeats=20, seed=1, clock=fake)
    assert fake.calls == first


def test_warm_up_is_not_timed(fake: FakeClock) -> None:
    # of ten calls only the tenth is slow, and it is the tenth of the warm-up
    (row,) = bench({"a": b"1"}, 64, warmup=10, repeats=9, clock=fake)
    assert (row.median_ms, row.p95_ms) == (1.0, 1.0)


def test_the_collector_is_on_again_even_after_an_error(fake: FakeClock) -> None:
    def broken() -> int:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        bench({"a": b"1"}, 64, clock=broken)
    assert gc.isenabled()


def test_a_real_file_runs(model: bytes) -> None:
    rows = bench({"a": model, "b": model}, {"a": 32, "b": 32}, warmup=0, repeats=3, batch=2)
    assert [row.size_bytes for row in rows] == [len(model)] * 2
    assert all(0 < row.median_ms <= row.p95_ms for row in rows)
    assert rows[0].ratio == 1.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads")
def test_threads_are_pinned_while_it_runs_and_free_again_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def call(*_args: object) -> object:
        return lambda: seen.append(os.sched_getaffinity(0))

    monkeypatch.setattr(module, "_call", call)
    (row,) = bench({"a": b"1"}, 64, warmup=0, repeats=1, threads=1)
    assert row.pinned
    assert [len(s) for s in seen] == [1]
    assert os.sched_getaffinity(0) == allowed


def test_memory_grows_with_the_weights_and_the_input() -> None:
    wide = {"widths": [64, 256], "blocks": 2}
    tiny = {"widths": [2], "blocks": 0}
    files = [
        export(Detector.start(Architecture(network="lydite-small", input_size=32, config=config)))
        for config in (tiny, wide)
    ]
    small, large = (peak_memory_bytes("a file", data, 32) for data in files)
    assert large > small + len(files[1]) - len(files[0])
    assert peak_memory_bytes("a file", files[0], 32, batch=512) > small + 512 * 3 * 32 * 32 * 4


def test_modules_in_the_current_folder_are_not_run(
    model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('foreign code ran')")
    monkeypatch.chdir(tmp_path)
    assert peak_memory_bytes("a file", model, 32) > 0


def test_memory_that_takes_too_long_is_an_error(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_TIMEOUT_S", 0.01)
    with pytest.raises(CardError, match="leave memory out"):
        peak_memory_bytes("a file", model, 32)


def test_memory_of_a_broken_file_is_an_error() -> None:
    with pytest.raises(CardError, match="The memory of broken cannot be measured"):
        peak_memory_bytes("broken", b"\x08\xff", 32)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "`threads` must be 1 to 1024, or None. Got 0"),
        ({"threads": 100_000}, "`threads`"),  # a runtime that takes it never comes back
        ({"batch": -1}, "`batch`"),
        ({"batch": 10**9}, "`batch` of a benchmark must be 1 to 4,096"),
        ({"repeats": 0}, "`repeats`"),
        ({"repeats": 10**13}, "`repeats`"),
        ({"warmup": -1}, "must be 0 to 1,000,000. Got -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    model: bytes, options: dict[str, int], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        bench({"a": model}, 32, **options)  # type: ignore[arg-type]


def test_no_files_and_broken_files_are_refused(model: bytes) -> None:
    with pytest.raises(ConfigError, match="at least one exported file"):
        bench({}, 32)
    with pytest.raises(CardError, match="is not an ONNX model"):
        bench({"broken": b"\x08\xff"}, 32)
    with pytest.raises(CardError, match="a cannot be run"):
        bench({"a": model}, 48)

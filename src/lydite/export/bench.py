"""Speed of exported files, measured side by side so that one machine's mood hits all alike."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lydite.errors import CardError, ConfigError
from lydite.export.memory import peak_memory_bytes
from lydite.session import require_threads

#: replicates behind the interval of a ratio
RATIO_DRAWS = 1000
#: tiles of a call, and calls, at most
MAX_BATCH = 4096
MAX_REPEATS = 1_000_000


@dataclass(frozen=True)
class Latency:
    """One row of a benchmark.

    Attributes:
        name: of the file.
        median_ms: median time of one call, milliseconds.
        p95_ms: 95th percentile of the same.
        ratio: the first file's median over this one's; above 1 means faster than the first.
        ratio_low: lower end of its 95 % interval, by a bootstrap over whole rounds.
        ratio_high: upper end.
        tiles_per_s: throughput, tiles in a call over the median time of one.
        size_bytes: of the file.
        n: timed calls.
        batch: tiles in a call.
        threads: CPU threads of the runtime.
        warmup: calls before the timed ones.
        pinned: the threads were held on as many processors (where the system can do that).
        versions: of the runtime and of Python.
        peak_memory_bytes: what loading and running the file takes; None where not measured.
    """

    name: str
    median_ms: float
    p95_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    tiles_per_s: float
    size_bytes: int
    n: int
    batch: int
    threads: int
    warmup: int
    pinned: bool
    versions: dict[str, str]
    peak_memory_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self)


def bench(
    models: Mapping[str, bytes],
    size: int | Mapping[str, int],
    *,
    threads: int = 1,
    batch: int = 1,
    warmup: int = 20,
    repeats: int = 200,
    memory: bool = False,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Latency]:
    """Time exported files in one interleaved run.

    In every round each file runs once, in an order drawn anew, so that a slow moment of the machine
    does not fall on one file. The garbage collector is off meanwhile, and the runtime's threads
    sleep between calls instead of spinning.

    Args:
        models: ONNX files by name; the first is what ratios refer to.
        size: side of the input in pixels, one for all or one by name.
        threads: CPU threads of the runtime.
        batch: tiles in a call.
        warmup: rounds before the timed ones.
        repeats: timed rounds.
        memory: measure each file's peak memory too, in a process of its own before the timed run.
        seed: of the input and of the order.
        clock: nanoseconds that only grow.

    Returns:
        One row a file, in the order given.

    Raises:
        ConfigError: no files, or a number out of range.
        CardError: a file cannot be run.
    """
    require_threads(threads)
    _check(models, batch=batch, warmup=warmup, repeats=repeats)
    sides = {name: size if isinstance(size, int) else size[name] for name in models}
    peaks = {
        name: peak_memory_bytes(name, data, sides[name], threads=threads, batch=batch)
        for name, data in (models.items() if memory else ())
    }
    draw = np.random.default_rng(seed)
    with _pinned(threads) as pinned, _no_collections():
        calls = []
        for name, data in models.items():
            tile = draw.standard_normal((batch, 3, sides[name], sides[name]), dtype=np.float32)
            calls.append(_call(name, data, tile, threads))
        times = _timed(calls, warmup, repeats, draw, clock)
    medians = np.median(times, axis=1)
    spread = _ratio_intervals(times, draw)
    return [
        Latency(
            name=name,
            median_ms=float(medians[index]),
            p95_ms=float(np.percentile(times[index], 95)),
            ratio=float(medians[0] / medians[index]),
            ratio_low=float(spread[index, 0]),
            ratio_high=float(spread[index, 1]),
            tiles_per_s=float(1e3 * batch / medians[index]),
            size_bytes=len(data),
            n=repeats,
            batch=batch,
            threads=threads,
            warmup=warmup,
            pinned=pinned,
            versions=_versions(),
            peak_memory_bytes=peaks.get(name),
        )
        for index, (name, data) in enumerate(models.items())
    ]


def _timed(
    calls: list[Callable[[], object]],
    warmup: int,
    repeats: int,
    draw: np.random.Generator,
    clock: Callable[[], int],
) -> NDArray[np.float64]:
    """Return the milliseconds of every call, (files, repeats), all files taking turns."""
    times = np.zeros((len(calls), repeats))
    for number in range(-warmup, repeats):
        for index in draw.permutation(len(calls)):
            started = clock()
            calls[index]()
            elapsed = clock() - started
            if number >= 0:
                times[index, number] = elapsed / 1e6
    return times


def _ratio_intervals(times: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Return the 95 % interval of each file's ratio of medians to the first: (files, 2).

    Whole rounds are drawn, with all their files, so that what slowed a round slows both.
    """
    repeats = times.shape[1]
    medians = np.empty((len(times), RATIO_DRAWS))
    for number in range(RATIO_DRAWS):  # all draws at once would take a thousand times the memory
        rounds = draw.integers(repeats, size=repeats)
        medians[:, number] = np.median(times[:, rounds], axis=1)
    ends: NDArray[np.float64] = np.percentile(medians[0] / medians, (2.5, 97.5), axis=1).T
    return ends


def _call(name: str, data: bytes, tile: Any, threads: int) -> Callable[[], object]:
    """Return a function that runs a file once.

    Raises:
        CardError: it cannot be loaded, or does not take this input.
    """
    session, feed = open_session(name, data, tile, threads)
    return lambda: session.run(None, feed)


def open_session(name: str, data: bytes, tile: Any, threads: int) -> tuple[Any, dict[str, Any]]:
    """Return a runtime session for a file, and what to feed it; it has run once.

    Args:
        name: of the file, for the message.
        data: ONNX file.
        tile: (B, 3, S, S) float32.
        threads: CPU threads of the runtime, which sleep between calls.

    Raises:
        CardError: it cannot be loaded, or does not take this input.
    """
    from lydite.onnx_guard import check_onnx
    from lydite.session import first_line, session_options

    check_onnx(data, name)
    options = session_options(data, threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: tile}
        session.run(None, feed)
    except Exception as error:
        # onnxruntime raises a dozen classes of its own, all without a common base
        raise CardError(f"{name} cannot be run: {first_line(error)}") from error
    return session, feed


def _check(models: Mapping[str, bytes], **numbers: int) -> None:
    """Refuse a benchmark of nothing."""
    if not models:
        raise ConfigError("A benchmark needs at least one exported file. Got none.")
    for what, value in numbers.items():
        least = 0 if what == "warmup" else 1
        most = MAX_BATCH if what == "batch" else MAX_REPEATS
        if not least <= value <= most:
            raise ConfigError(f"`{what}` of a benchmark must be {least} to {most:,}. Got {value}.")


@contextmanager
def _pinned(threads: int) -> Iterator[bool]:
    """Hold this thread, and those it starts, on as many processors as the runtime has threads."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[-threads:]))
    try:
        yield True
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the garbage collector out of the measured times."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _versions() -> dict[str, str]:
    """Return the versions that latency depends on."""
    return {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}

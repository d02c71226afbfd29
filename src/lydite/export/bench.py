"""Latency of exported files, measured side by side so that one machine's mood hits all alike."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime

from lydite.errors import CardError, ConfigError


@dataclass(frozen=True)
class Latency:
    """One row of a benchmark.

    Attributes:
        name: of the file.
        median_ms: median time of one call, milliseconds.
        p95_ms: 95th percentile of the same.
        ratio: the first file's median over this one's; above 1 means faster than the first.
        size_bytes: of the file.
        n: timed calls.
        batch: tiles in a call.
        threads: CPU threads of the runtime.
        warmup: calls before the timed ones.
        versions: of the runtime and of Python.
    """

    name: str
    median_ms: float
    p95_ms: float
    ratio: float
    size_bytes: int
    n: int
    batch: int
    threads: int
    warmup: int
    versions: dict[str, str]

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
        seed: of the input and of the order.
        clock: nanoseconds that only grow.

    Returns:
        One row a file, in the order given.

    Raises:
        ConfigError: no files, or a number below 1 (`warmup`: below 0).
        CardError: a file cannot be run.
    """
    _check(models, threads=threads, batch=batch, warmup=warmup, repeats=repeats)
    draw = np.random.default_rng(seed)
    calls = []
    for name, data in models.items():
        side = size if isinstance(size, int) else size[name]
        tile = draw.standard_normal((batch, 3, side, side), dtype=np.float32)
        calls.append(_call(name, data, tile, threads))
    times = np.zeros((len(calls), repeats))
    with _no_collections():
        for number in range(-warmup, repeats):
            for index in draw.permutation(len(calls)):
                started = clock()
                calls[index]()
                elapsed = clock() - started
                if number >= 0:
                    times[index, number] = elapsed / 1e6
    medians = np.median(times, axis=1)
    return [
        Latency(
            name=name,
            median_ms=float(medians[index]),
            p95_ms=float(np.percentile(times[index], 95)),
            ratio=float(medians[0] / medians[index]),
            size_bytes=len(data),
            n=repeats,
            batch=batch,
            threads=threads,
            warmup=warmup,
            versions=_versions(),
        )
        for index, (name, data) in enumerate(models.items())
    ]


def _call(name: str, data: bytes, tile: Any, threads: int) -> Callable[[], object]:
    """Return a function that runs a file once.

    Raises:
        CardError: it cannot be loaded, or does not take this input.
    """
    from lydite.onnx_guard import check_onnx
    from lydite.session import first_line

    check_onnx(data, name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: tile}
        session.run(None, feed)
    except Exception as error:
        # onnxruntime raises a dozen classes of its own, all without a common base
        raise CardError(f"{name} cannot be run: {first_line(error)}") from error
    return lambda: session.run(None, feed)


def _check(models: Mapping[str, bytes], **numbers: int) -> None:
    """Refuse a benchmark of nothing."""
    if not models:
        raise ConfigError("A benchmark needs at least one exported file. Got none.")
    for what, value in numbers.items():
        least = 0 if what == "warmup" else 1
        if value < least:
            raise ConfigError(f"`{what}` of a benchmark must be at least {least}. Got {value}.")


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

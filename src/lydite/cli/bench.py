"""`lydite bench`: speed, memory and size of exported detectors, side by side in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.card import ONNX_NAME, load_card
from lydite.cli.output import emit, table
from lydite.errors import CardError, ConfigError
from lydite.files import read_bytes
from lydite.onnx_guard import MAX_ONNX_BYTES

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.export.bench import Latency


def register(app: App) -> None:
    """Add the command."""
    app.command(bench)


def bench(
    *detectors: Path,
    threads: int = 1,
    batch: int = 1,
    warmup: int = 20,
    repeats: int = 200,
    memory: Annotated[bool, Parameter(negative="--no-memory")] = True,
    json: bool = False,
) -> None:
    """Measure latency, throughput, memory and size of exported detectors in one interleaved run.

    Parameters
    ----------
    detectors
        Detector folders that hold a model.onnx; the first is what ratios refer to.
    threads
        CPU threads of the runtime.
    batch
        Tiles in a call.
    warmup
        Rounds before the timed ones.
    repeats
        Timed rounds.
    memory
        Measure peak memory too, each file in a process of its own.
    json
        Print the rows as JSON.
    """
    from lydite.export.bench import bench as run_bench

    models: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    for folder in detectors:
        name = str(folder)
        if name in models:
            raise ConfigError(f"{name} was named twice. Name each detector once.")
        sizes[name], models[name] = _exported(folder)
    rows = run_bench(
        models,
        sizes,
        threads=threads,
        batch=batch,
        warmup=warmup,
        repeats=repeats,
        memory=memory,
    )
    emit([row.to_json() for row in rows], json, lambda: _text(rows))


def _text(rows: list[Latency]) -> str:
    """Return the rows as people read them."""
    headers = ["detector", "median ms", "p95 ms", "times as fast", "tiles/s", "peak MB", "bytes"]
    return table(
        headers,
        [
            [
                row.name,
                round(row.median_ms, 3),
                round(row.p95_ms, 3),
                f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]",
                round(row.tiles_per_s, 1),
                None if row.peak_memory_bytes is None else round(row.peak_memory_bytes / 1e6, 1),
                row.size_bytes,
            ]
            for row in rows
        ],
    )


def _exported(folder: Path) -> tuple[int, bytes]:
    """Return a detector's input size and its exported file.

    Raises:
        CardError: no detector, or one that was never exported.
    """
    card = load_card(folder)
    if ONNX_NAME not in card.files:
        raise CardError(f"{folder} holds no {ONNX_NAME}. Make one with: lydite export {folder}")
    return card.preprocess.size, read_bytes(folder / ONNX_NAME, MAX_ONNX_BYTES)

"""Budgets: how small or fast a detector has to become, and the mildest rate that gets it there.

What a compressed detector will weigh and how fast it will run follows from its shape alone, so
all of this works on outlines (see `Step.outline`), before anything is trained.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from lydite.card import Quantization
from lydite.compress.quantize import SHAPE_TILES, shape_ranges
from lydite.config import Frozen
from lydite.detector import Detector
from lydite.errors import ConfigError, LyditeError
from lydite.export.bench import bench
from lydite.export.onnx import export, to_onnx
from lydite.models.contract import Network
from lydite.models.cost import count_macs, count_parameters
from lydite.recipe import Step

Kind = Literal["size_bytes", "macs", "latency_ms", "parameters"]

_BUDGET = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*(?:@\s*([a-z]+))?\s*$")
#: unit in lower case: what is limited, and how many of its own units one is
_UNITS: dict[str, tuple[Kind, float]] = {
    "b": ("size_bytes", 1),
    "kb": ("size_bytes", 1e3),
    "mb": ("size_bytes", 1e6),
    "mac": ("macs", 1),
    "kmac": ("macs", 1e3),
    "mmac": ("macs", 1e6),
    "gmac": ("macs", 1e9),
    "us": ("latency_ms", 1e-3),
    "ms": ("latency_ms", 1),
    "s": ("latency_ms", 1e3),
    "params": ("parameters", 1),
    "kparams": ("parameters", 1e3),
    "mparams": ("parameters", 1e6),
}
#: rates searched; beyond the last a network is no network any more
_LEAST, _MOST = 0.01, 0.995
#: probes of a search whose every probe takes seconds, and of one that only counts
_MEASURED_PROBES, _COUNTED_PROBES = 7, 16


class Budget(Frozen):
    """An upper limit on one cost.

    Attributes:
        kind: what is limited.
        limit: how much, in the units that `kind` names.
        text: as it was written.
    """

    kind: Kind
    limit: float
    text: str


class Costs(Frozen):
    """What a detector of some shape costs, whatever its weights.

    Attributes:
        parameters: of the network.
        macs: multiply-adds for one tile.
        size_bytes: of the exported file; None where it was not made.
        latency_ms: median of one tile in onnxruntime on one thread; None where not measured.
        latency_ratio: the original's median over this one's, in the same interleaved run.
    """

    parameters: int
    macs: int
    size_bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None

    def of(self, kind: Kind) -> float:
        """Return one of them."""
        value = getattr(self, kind)
        assert value is not None, f"{kind} was not measured"
        return float(value)


class Probe(Frozen):
    """One rate that was looked at.

    Attributes:
        rate: share of the parameters to remove.
        costs: of the outline at that rate; None where the step cannot reach the rate.
        fits: within the budget.
        why_not: why the rate cannot be reached.
    """

    rate: float
    costs: Costs | None
    fits: bool
    why_not: str = ""


def parse_budget(text: str) -> Budget:
    """Return the budget in "300kB", "0.5MB", "20MMAC", "5ms@onnxruntime" or "50kparams".

    Raises:
        ConfigError: not a number with a known unit, or a runtime that is not measured here.

    >>> parse_budget("300kB")
    Budget(kind='size_bytes', limit=300000.0, text='300kB')
    """
    match = _BUDGET.match(text)
    unit = match[2].lower() if match else ""
    if match is None or unit not in _UNITS or float(match[1]) == 0:
        raise ConfigError(
            f"`budget` must be a number above 0 with a unit, such as 300kB, 20MMAC, "
            f"5ms@onnxruntime or 50kparams. Got {text!r}."
        )
    kind, factor = _UNITS[unit]
    runtime = match[3]
    if runtime is not None and (kind != "latency_ms" or runtime != "onnxruntime"):
        raise ConfigError(
            f"A runtime can be named for latency alone, and only onnxruntime is measured here. "
            f"Got {text!r}. Use 5ms@onnxruntime."
        )
    return Budget(kind=kind, limit=float(match[1]) * factor, text=text.strip())


def outline_of(detector: Detector, steps: Sequence[Step]) -> Detector:
    """Return the shape that steps will give a detector, ready to be exported.

    A full int8 step at the end gets ranges from synthetic tiles: sizes and speed are then those
    of the real file, its answers mean nothing.

    Raises:
        LyditeError: a step cannot be done on this network, or needs what is not installed.
    """
    made = detector
    for step in steps:
        made = step.outline(made)
    made = made.evolve(network=_distinct(made.network))
    last = steps[-1] if steps else None
    if last is not None and last.kind == "quantize":
        made = made.evolve(quantization=_quantization(made, last))
    return made


def _distinct(network: Network) -> Network:
    """Return a copy in which no two biases or statistics are equal, as after training.

    Tensors of equal content are stored once in an exported file, which would make that of a fresh
    network smaller than that of the same network when it has learned.
    """
    network = copy.deepcopy(network)
    draw = torch.Generator().manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data += torch.rand(tensor.shape, generator=draw)
    return network


def _quantization(detector: Detector, step: Step) -> Quantization:
    """Return what a `quantize` step will put into the card, with ranges that mean nothing."""
    scheme = step.model_dump()["scheme"]
    if scheme != "static-int8":
        return Quantization(scheme=scheme)
    data = to_onnx(detector.network, detector.card.architecture.input_size)
    ranges = shape_ranges(detector, data, float_input=step.model_dump()["float_input"])
    return Quantization(scheme=scheme, ranges=ranges, n=SHAPE_TILES)


def costs_of(detector: Detector, *, size: bool = True) -> Costs:
    """Return parameters, multiply-adds and, with `size`, the bytes of the exported file."""
    return Costs(
        parameters=count_parameters(detector.network),
        macs=count_macs(detector.network, detector.card.preprocess.size),
        size_bytes=len(export(detector)) if size else None,
    )


def timed(original: Detector, others: Sequence[Detector], repeats: int = 60) -> list[Costs]:
    """Return the costs of detectors, latencies from one run interleaved with the original."""
    everyone = [original, *others]
    files = {str(number): export(item) for number, item in enumerate(everyone)}
    sizes = {str(number): item.card.preprocess.size for number, item in enumerate(everyone)}
    rows = bench(files, sizes, repeats=repeats)
    found = []
    for row, item in zip(rows[1:], others, strict=True):
        found.append(
            Costs(
                parameters=count_parameters(item.network),
                macs=count_macs(item.network, item.card.preprocess.size),
                size_bytes=row.size_bytes,
                latency_ms=row.median_ms,
                latency_ratio=row.ratio,
            )
        )
    return found


def mildest_rate(
    detector: Detector,
    steps_at: Callable[[float], Sequence[Step]],
    budget: Budget,
    told: Callable[[Probe], None] = lambda _probe: None,
) -> list[Probe]:
    """Search the smallest rate whose outline keeps a budget; return every probe, in order.

    The last probe that fits is the answer; none fits where even the highest reachable rate costs
    too much. Costs fall with the rate, so the search halves the interval each time.

    Args:
        detector: to be compressed.
        steps_at: the steps of one technique for a rate.
        budget: to be kept.
        told: called with each probe.
    """
    probes: list[Probe] = []

    def look(rate: float) -> Probe:
        probe = _probe(detector, steps_at, budget, rate)
        probes.append(probe)
        told(probe)
        return probe

    low, high = _LEAST, _MOST
    if look(low).fits:
        return probes
    counted = budget.kind in ("macs", "parameters")
    for _ in range(_COUNTED_PROBES if counted else _MEASURED_PROBES):
        # halved in proportion: what is left counts, and near rate 1 little is left
        middle = 1 - math.sqrt((1 - low) * (1 - high))
        probe = look(middle)
        # a rate that cannot be reached is as much as to say "less"
        if probe.fits or probe.costs is None:
            high = middle
        else:
            low = middle
    return probes


def answer(probes: Sequence[Probe]) -> Probe | None:
    """Return the mildest probe that fits, or None."""
    return min((p for p in probes if p.fits), key=lambda p: p.rate, default=None)


def _probe(
    detector: Detector,
    steps_at: Callable[[float], Sequence[Step]],
    budget: Budget,
    rate: float,
) -> Probe:
    """Look at one rate."""
    rate = round(rate, 4)
    try:
        made = outline_of(detector, steps_at(rate))
        if budget.kind == "latency_ms":
            (costs,) = timed(detector, [made])
        else:
            costs = costs_of(made, size=budget.kind == "size_bytes")
    except LyditeError as error:
        return Probe(rate=rate, costs=None, fits=False, why_not=str(error))
    return Probe(rate=rate, costs=costs, fits=costs.of(budget.kind) <= budget.limit)

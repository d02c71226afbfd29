"""Calibration: which values the inner tensors of an exported network take on real images."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lydite.errors import DataError
from lydite.export.onnx import quiet
from lydite.export.quantized import STATIC_OPS, Ranges, ranged_tensors
from lydite.export.translate import INPUT_NAME

Float32 = NDArray[np.float32]
Method = Literal["minmax", "percentile"]

#: share of the values that "percentile" keeps, in percent
PERCENTILE = 99.99
HISTOGRAM_BINS = 2048


def calibrate(
    data: bytes, batches: Iterable[Float32], method: Method = "minmax", *, float_input: bool = True
) -> Ranges:
    """Return the range of every inner tensor that runs in integers.

    Args:
        data: float32 file of `to_onnx`.
        batches: preprocessed tiles, each (T, 3, S, S) float32; one is in memory at a time.
        method: "minmax" takes the extremes, "percentile" leaves out the rarest large values.
        float_input: the first learned layer stays float32 (see `ranged_tensors`).

    Raises:
        DataError: no batches, or the network answers NaN or infinity.
    """
    wanted = ranged_tensors(data, float_input=float_input)
    with tempfile.TemporaryDirectory(prefix="lydite-") as folder, _silent():
        calibrator = _calibrator(data, method, Path(folder))
        fed = 0
        for batch in batches:
            calibrator.collect_data(_Reader(batch))
            fed += 1
        found = calibrator.compute_data() if fed else None
    if found is None:
        raise DataError("Calibration needs at least one image. Got none.")
    ranges = {name: _limits(found[name].range_value) for name in wanted}
    for name, limits in ranges.items():
        if not all(map(math.isfinite, limits)):
            raise DataError(f"The network's values are not finite at {name}: train it again.")
    return ranges


class _Reader:
    """Hands one batch to onnxruntime's calibration."""

    def __init__(self, batch: Float32) -> None:
        self._next: dict[str, Float32] | None = {INPUT_NAME: batch}

    def get_next(self) -> dict[str, Float32] | None:
        """Return the batch, and from then on None."""
        batch, self._next = self._next, None
        return batch


def _calibrator(data: bytes, method: Method, folder: Path) -> Any:
    """Return onnxruntime's calibrator for a file; it keeps two files in `folder`."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    source = folder / "float.onnx"
    source.write_bytes(data)
    percentile = method == "percentile"
    # Not symmetric: the activations are unsigned, so that a range need not lie around zero.
    options: dict[str, float] = {"symmetric": False}
    if percentile:
        options |= {"percentile": PERCENTILE, "num_bins": HISTOGRAM_BINS}
    return create_calibrator(
        source,
        list(STATIC_OPS),
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
        extra_options=options,
    )


def _limits(pair: tuple[Any, Any]) -> tuple[float, float]:
    """Return a range as plain numbers."""
    low, high = (float(np.asarray(value, dtype=np.float32).item()) for value in pair)
    return low, high


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what onnxruntime's calibration prints off our stdout."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield

"""The step `qat`: train the detector on under the rounding that its exported file will do.

Quantization-aware training of Jacob et al. 2018 (arXiv 1712.05877), section 3: weights and
activations are rounded in the forward pass, gradients pass through, and the weights settle where
rounding costs little. It ends like `quantize` with the scheme "static-int8": the ranges stand in
the card, the stored weights stay float32, and the exported file is the one that training saw.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from lydite.card import FULL_BITS, Quantization, ScoreMeaning, WeightBits
from lydite.compress.fake_quantize import FakeQuantized
from lydite.compress.quantize import shape_ranges
from lydite.compress.trace import program_of
from lydite.config import Fraction
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, TrainingError
from lydite.export.calibrate import Float32, Method, calibrate
from lydite.export.calibration import balanced_sample, calibration_tiles
from lydite.export.onnx import export, to_onnx
from lydite.export.parity import CHUNK, manifest_tiles, network_logits
from lydite.export.quantized import quantize_static
from lydite.export.rounding import rounding_of
from lydite.predictor import Predictor
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.labels import FromLabels
from lydite.training.team import Team
from lydite.training.train import fit_labels, require_trained

#: training under rounding takes about this many times as long as without
COST = 2
#: share of the quantization error by which file and training may differ
ALLOWED_GAP = 0.5
#: of so many calibration images training and file are compared
CHECK_IMAGES = 8


@STEPS.add("qat")
class Qat(Step, FromLabels):
    """Train with rounding, then fix the ranges for an int8 file, which nothing may follow.

    What the training before it brought against degraded copies or weak domains is kept by the same
    switches here: rounding is learned on the images that the step sees, and on no others.

    Attributes:
        images: how many training images to calibrate the first ranges on, half of each class.
        method: how the first ranges follow from the measured values, see `calibrate`.
        float_input: the first learned layer stays float32, see `quantize`.
        weight_bits: 7 rounds weights half as finely, see `quantize`.
        observe: share of the training in which ranges follow the activations (moving average of
            each batch's extremes); they stay fixed for the rest. 0 keeps the calibrated ones.
        result: "int8", the file that training saw; or "float32": rounding was a regularizer alone,
            which keeps weights where small changes do little, and any step may follow.
    """

    kind: ClassVar[str] = "qat"
    version: ClassVar[int] = 2

    quiet: ClassVar[frozenset[str]] = FromLabels.newer | {"result", "weight_bits"}

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 200
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-4
    warmup: Fraction = 0.05
    images: Annotated[int, Field(ge=2, le=100_000)] = 64
    method: Method = "minmax"
    float_input: bool = True
    weight_bits: WeightBits = FULL_BITS
    observe: Fraction = 0.5
    result: Literal["int8", "float32"] = "int8"

    @property
    def copies(self) -> bool:  # type: ignore[override]
        """Whether the result is a rounded copy; what stays in float has learned on."""
        return self.result == "int8"

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network; nothing may follow an int8 result."""
        super().check(stage)
        require_trained(self, stage, "rounding is learned last.")
        stage.quantized = self.result == "int8"
        stage.images += COST * self.pushed_images

    def outline(self, detector: Detector) -> Detector:
        """Return the detector as it is, if training can follow what its file will do.

        Raises:
            ConfigError: it cannot, there is no such file, or `degrade` does not fit.
        """
        self.require_lesson(detector)
        require_followed(detector, float_input=self.float_input)
        return detector

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the trained detector with its quantization in the card.

        The meaning of the score is reset: an int8 result gets its parent's, moved as far as scores
        moved, a float32 one is fitted anew.

        Raises:
            ConfigError: the network's exported file cannot be followed operation by operation.
            DataError: the training images lack a class.
            DecodeError: one of the images cannot be read.
            TrainingError: training does not compute what the exported file computes.
        """
        chosen = balanced_sample(context.train, self.images, context.seed)
        tiles = manifest_tiles(parent, chosen, CHECK_IMAGES)[:CHUNK]
        quantized = self._prepared(parent, chosen, tiles, context)
        # bfloat16 would round once more, and not as the file does
        fitted = fit_labels(
            quantized, self, parent, replace(context, precision="float32"), what=self.kind
        )
        assert isinstance(fitted.network, FakeQuantized)
        quantization = Quantization(
            scheme="static-int8",
            ranges=fitted.network.ranges(),
            calibration=chosen.digest,
            n=len(chosen),
            weight_bits=self.weight_bits,
        )
        network = copy.deepcopy(parent.network)
        state = fitted.network.state_dict()
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        made = parent.evolve(
            network=network.eval(),
            quantization=quantization,
            score=ScoreMeaning(),
            measured=(),
        )
        gap = require_mirrored(fitted.network, made, export(made), tiles)
        made = made.evolve(training=fitted.report | {"rounding_gap": round(gap, 6)})
        return made if self.result == "int8" else made.evolve(quantization=None)

    def _prepared(
        self, parent: Detector, chosen: Manifest, tiles: Float32, context: Context
    ) -> FakeQuantized:
        """Return the parent's network under the rounding of its own int8 file."""
        data = to_onnx(parent.network, parent.card.architecture.input_size)
        what = f"{self.kind} calibration"
        batches = calibration_tiles(chosen, parent.card.preprocess, context, what)
        ranges = calibrate(data, batches, self.method, float_input=self.float_input)
        file = quantize_static(data, ranges, self.weight_bits)
        # every process of a team counts its own images
        observe = round(self.observe * self.learned_images / Team.current().world)
        network = FakeQuantized(
            parent.network, data, rounding_of(file), ranges, observe, self.weight_bits
        )
        require_mirrored(network, parent, file, tiles)
        return network


def require_followed(detector: Detector, *, float_input: bool) -> None:
    """Refuse a detector whose shape training cannot follow into its int8 file.

    All that `run` does before training is done here, on synthetic tiles.

    Raises:
        ConfigError: the network cannot be written down or exported, no layer of it runs in
            integers, or its file holds other operations.
    """
    program_of(detector.network)  # in no time, where the file takes seconds
    try:
        data = to_onnx(detector.network, detector.card.architecture.input_size)
        ranges = shape_ranges(detector, data, float_input=float_input)
        rounding = rounding_of(quantize_static(data, ranges))
        FakeQuantized(detector.network, data, rounding, ranges)
    except ConfigError:
        raise
    except Exception as error:  # exporter and quantizer raise whatever they run into
        raise ConfigError(
            f"`qat` cannot make an int8 file of this network of {detector.network.family}: "
            f"{type(error).__name__}: {error}. Use another network, or leave `qat` out."
        ) from error


def require_mirrored(
    network: FakeQuantized, detector: Detector, file: bytes, tiles: Float32
) -> float:
    """Return how far training's arithmetic is from the exported file's: mean logit difference.

    Args:
        network: under rounding.
        detector: the same weights without rounding.
        file: the same weights in an int8 file.
        tiles: preprocessed, (N, 3, S, S).

    Raises:
        TrainingError: the difference is more than what a few ties between two grid points explain.
    """
    chunks = [tiles[i : i + CHUNK] for i in range(0, len(tiles), CHUNK)]
    predictor = Predictor.from_bytes(detector.card, file, threads=1)
    answers = np.concatenate([predictor.logits(chunk) for chunk in chunks])
    exact = network_logits(detector, chunks)
    rounded = network_logits(replace(detector, network=network), chunks)
    gap = float(np.abs(answers - rounded).mean())
    error = float(np.abs(answers - exact).mean())
    if not gap <= ALLOWED_GAP * error + 1e-3 * max(1.0, float(np.abs(exact).max())):
        raise TrainingError(
            f"The exported file does not compute what `qat` trains: logits differ by {gap:.2g} on "
            f"average, where rounding itself changes them by {error:.2g}. Use `quantize` on this "
            "network, and please report it with the versions that `lydite doctor` shows."
        )
    return gap

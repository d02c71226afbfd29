"""The step `quantize`: fewer bits in the exported file (the paper's CQ, full int8, half floats)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from lydite.card import FULL_BITS, Quantization, ScoreMeaning, WeightBits
from lydite.detector import Detector
from lydite.export.calibrate import Method, calibrate
from lydite.export.calibration import balanced_sample, calibration_tiles
from lydite.export.onnx import to_onnx
from lydite.export.parity import synthetic_tiles
from lydite.export.quantized import Ranges
from lydite.export.weights_only import require_bfloat16
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.train import require_trained

#: synthetic tiles that stand for images where only shapes matter
SHAPE_TILES = 4
#: what the plan tells about a scheme
NOTES = {
    "linear-int8": (
        "quantize with linear-int8 shrinks linear layers alone; convolutions stay float32 "
        "(static-int8 covers both)."
    ),
    "weight-int8": (
        "quantize with weight-int8 makes the file smaller but not faster: weights become float32 "
        "again at every call (static-int8 is both)."
    ),
}


@STEPS.add("quantize")
class Quantize(Step):
    """Prepare a detector for a file of fewer bits; the stored weights stay float32.

    What the exported file needs is measured here, once, and recorded in the card, so that exporting
    takes no data and gives the same file everywhere.

    Attributes:
        scheme: "static-int8": convolutions and linear layers; "linear-int8": the paper's, linear
            layers only. These are faster as well. "weight-int8", "float16" and "bfloat16" store the
            weights of all learned layers that small and compute in float32: a quarter or half of
            the file, and no calibration.
        images: how many training images to measure activations on, half of them of each class
            ("static-int8" only). Few leave accuracy to the draw, many make the ranges wide and
            their steps coarse (`studies/calibration`).
        method: how ranges follow from the measured values, see `calibrate`.
        float_input: the first learned layer stays float32. What tells generated images apart are
            differences of a single gray level there, and eight bits round them away.
        weight_bits: 7 makes int8 exact with the faster kernels of processors without VNNI too, for
            weights rounded half as finely ("static-int8" only; `lydite doctor` tells of them).
    """

    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = 2
    copies: ClassVar[bool] = True
    quiet: ClassVar[frozenset[str]] = frozenset({"weight_bits"})

    scheme: Literal["static-int8", "linear-int8", "weight-int8", "float16", "bfloat16"] = (
        "static-int8"
    )
    images: Annotated[int, Field(ge=2, le=100_000)] = 256
    method: Method = "minmax"
    float_input: bool = True
    weight_bits: WeightBits = FULL_BITS

    @model_validator(mode="after")
    def _bits_of_layers(self) -> Quantize:
        if self.weight_bits != FULL_BITS and self.scheme != "static-int8":
            raise ValueError(f"`weight_bits` is for static-int8; got it with {self.scheme}")
        return self

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network, and bfloat16 where it does not run; nothing may follow."""
        super().check(stage)
        require_trained(self, stage, "the ranges of random activations mean nothing.")
        if self.scheme == "bfloat16":
            require_bfloat16()
        stage.quantized = True
        if self.scheme in NOTES:
            stage.notes.append(NOTES[self.scheme])

    def remarks(self, detector: Detector) -> tuple[str, ...]:
        """Say where there is nothing to round."""
        modules = detector.network.modules()
        if self.scheme != "linear-int8" or any(isinstance(m, nn.Linear) for m in modules):
            return ()
        return ("linear-int8 finds no linear layer here: the file stays as it is in float32.",)

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with its quantization in the card.

        The meaning of the score is reset: it is fitted on what the rounded file answers.

        Raises:
            DataError: the training images lack a class.
            DecodeError: one of the chosen images cannot be read.
        """
        quantization = Quantization(scheme=self.scheme)
        if self.scheme == "static-int8":
            chosen = balanced_sample(context.train, self.images, context.seed)
            data = to_onnx(parent.network, parent.card.architecture.input_size)
            batches = calibration_tiles(chosen, parent.card.preprocess, context, self.kind)
            quantization = Quantization(
                scheme=self.scheme,
                ranges=calibrate(data, batches, self.method, float_input=self.float_input),
                calibration=chosen.digest,
                n=len(chosen),
                weight_bits=self.weight_bits,
            )
        return parent.evolve(quantization=quantization, score=ScoreMeaning(), measured=())


def shape_ranges(detector: Detector, data: bytes, *, float_input: bool) -> Ranges:
    """Return ranges from synthetic tiles: of the right tensors, and their values mean nothing.

    Args:
        detector: whose shape is looked at.
        data: its float32 file.
        float_input: the first learned layer stays float32.
    """
    return calibrate(data, [synthetic_tiles(detector, SHAPE_TILES)], float_input=float_input)

"""The step `dequantize`: back to the float weights of a quantized detector, to train them on."""

from __future__ import annotations

from typing import ClassVar

from lydite.card import ScoreMeaning
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.recipe import STEPS, Context, Stage, Step


@STEPS.add("dequantize")
class Dequantize(Step):
    """Drop the rounding and keep the weights, which a card stores in float32 all along.

    Other steps refuse a quantized detector, as its ranges are those of the weights they were
    measured on. After this one they may follow, and `quantize` or `qat` at the end measures new
    ranges: so a published int8 detector is trained on.
    """

    kind: ClassVar[str] = "dequantize"

    def check(self, stage: Stage) -> None:
        """Refuse a detector that is not quantized.

        Raises:
            ConfigError: it is not.
        """
        if not stage.quantized:
            raise ConfigError(
                "`dequantize` needs a quantized detector: put it after `quantize` or `qat`, or at "
                "the start of a recipe that goes on from one. Without it there is nothing to drop."
            )
        stage.quantized = False

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the float detector; the meaning of its score is reset, and fitted anew."""
        return parent.evolve(quantization=None, score=ScoreMeaning(), measured=())

"""The step `finetune`: go on training a detector that already works, gently.

After pruning it repairs what was cut (the paper's CPF); on another selection of images it is plain
transfer learning (the paper's TL+FT).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from lydite.config import Fraction
from lydite.detector import Detector
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.loop import fit, require_trained
from lydite.training.objectives import cross_entropy
from lydite.training.settings import TrainSettings


@STEPS.add("finetune")
class Finetune(Step, TrainSettings):
    """Train all layers on from the detector's weights, with a lower learning rate."""

    kind: ClassVar[str] = "finetune"

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 300
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    warmup: Fraction = 0.05

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network."""
        super().check(stage)
        require_trained(self, stage, "there is nothing to go on from.")
        stage.images += self.steps * self.batch

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector after further training."""
        objective = cross_entropy(self.label_smoothing)
        fitted = fit(parent.network, objective, parent, self, context, what=self.kind)
        return parent.evolve(network=fitted.network, training=fitted.report)

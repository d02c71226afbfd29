"""The step `distill`: a smaller student learns from the detector's soft outputs (the paper's CKD).

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from lydite.card import Architecture, Fraction
from lydite.detector import Detector
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.loop import fit, require_trained
from lydite.training.objectives import distillation
from lydite.training.settings import TrainSettings


@STEPS.add("distill")
class Distill(Step, TrainSettings):
    """Train a new student network; the detector so far is its teacher.

    The student takes the teacher's preprocessing.

    Attributes:
        student: a name of `lydite models`.
        config: further arguments of the student.
        temperature: T of the soft targets.
        weight: share of the soft-target loss; the rest is cross-entropy on the labels.
    """

    kind: ClassVar[str] = "distill"

    student: str
    config: dict[str, Any] = {}
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    weight: Fraction = 0.7

    def check(self, stage: Stage) -> None:
        """Refuse an untrained teacher; from here on the network is the student."""
        super().check(stage)
        require_trained(self, stage, "the teacher has nothing to teach.")
        stage.network = self.student
        stage.images += self.steps * self.batch

    def outline(self, detector: Detector) -> Detector:
        """Return an untrained student."""
        return self._student(detector, 0)

    def _student(self, teacher: Detector, seed: int) -> Detector:
        """Return an untrained student that takes what the teacher takes."""
        architecture = Architecture(
            network=self.student,
            input_size=teacher.card.architecture.input_size,
            config=self.config,
        )
        return Detector.start(architecture, teacher.card.preprocess, seed=seed)

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the student."""
        student = self._student(parent, context.seed)
        teacher = parent.network
        fitted = fit(
            student.network,
            distillation(teacher, self.temperature, self.weight),
            student,
            self,
            context,
            what=self.kind,
            companions=(teacher,),
        )
        return student.evolve(network=fitted.network, training=fitted.report)

"""The step `finetune`: go on training a detector that already works, gently.

After pruning it repairs what was cut (the paper's CPF); on another selection of images it is plain
transfer learning (the paper's TL+FT), of all layers or of chosen ones.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from lydite.config import Fraction
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.freezing import has_statistics
from lydite.training.labels import FromLabels
from lydite.training.train import fit_labels, require_trained
from lydite.transfer.layers import Layers, parameters_of


@STEPS.add("finetune")
class Finetune(Step, FromLabels):
    """Train on from the detector's weights, with a lower learning rate.

    Attributes:
        layers: which learn: "all"; "head" (what makes logits of features); "norms" (scale, shift
            and running statistics of every norm); {first: 2} (two stages from the input side) or
            {last: 2} (two stages before the head, and the head). The others keep every bit,
            running statistics included.
        frozen_norms: batch norms go by their running statistics as in prediction, and keep them;
            their scale and shift learn where they do without. For the last steps of a network that
            is far along, or for batches too small to measure: with statistics of each batch it
            learns for other inputs than it meets later (Wu & Johnson 2021, arXiv 2105.07576). Not
            right behind a step that changes the network, whose statistics are of what was before.
    """

    kind: ClassVar[str] = "finetune"
    quiet: ClassVar[frozenset[str]] = FromLabels.newer | {"layers", "frozen_norms"}

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 300
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    warmup: Fraction = 0.05
    layers: Layers = "all"
    frozen_norms: bool = False

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network."""
        super().check(stage)
        require_trained(self, stage, "there is nothing to go on from.")
        stage.images += self.pushed_images

    def outline(self, detector: Detector) -> Detector:
        """Return the detector as it is, if it has the layers and can learn from such crops.

        Raises:
            ConfigError: it has not, or cannot, or has no batch norms to freeze.
        """
        self.require_lesson(detector)
        parameters_of(detector.network, self.layers)
        if self.frozen_norms and not has_statistics(detector.network):
            raise ConfigError(
                f"{detector.card.architecture.network} has no norms with running statistics; take "
                "`frozen_norms` out."
            )
        return detector

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector after further training.

        Raises:
            ConfigError: the network has no such layers.
        """
        some = None if self.layers == "all" else parameters_of(parent.network, self.layers)
        fitted = fit_labels(
            parent.network,
            self,
            parent,
            context,
            what=self.kind,
            trainable=some,
            frozen_norms=self.frozen_norms,
        )
        return parent.evolve(network=fitted.network, training=fitted.report)

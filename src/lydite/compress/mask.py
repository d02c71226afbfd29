"""The paper's pruning: single weights set to zero. Nothing becomes smaller or faster."""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lydite.card import MaskWeights, ScoreMeaning
from lydite.compress.prune import WHY_TRAINED, require_fraction
from lydite.detector import Detector
from lydite.models.contract import Network
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.loop import require_trained


def smallest(weight: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """Return True for the `rate` of the weights that are smallest in magnitude.

    Args:
        weight: weights of one layer, any shape.
        rate: share to mark, in [0, 1]; the number is rounded to the nearest.

    Returns:
        A boolean array of the same shape; of equal weights the earlier ones are marked.
    """
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    marked = np.zeros(weight.size, dtype=np.bool_)
    marked[order[: round(rate * weight.size)]] = True
    return marked.reshape(weight.shape)


def mask_weights_(network: Network, rate: float) -> MaskWeights:
    """Zero the smallest weights of every convolution and linear layer, in place.

    Args:
        network: whose weights are changed.
        rate: share of each layer's weights.

    Returns:
        The edit that tells later training to keep the zeros.
    """
    names = []
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            continue
        zero = smallest(parameter.detach().cpu().numpy().astype(np.float64), rate)
        with torch.no_grad():
            parameter.masked_fill_(torch.from_numpy(zero).to(parameter.device), 0.0)
        names.append(name)
    return MaskWeights(parameters=tuple(names))


@STEPS.add("mask")
class Mask(Step):
    """Set the smallest weights of every layer to zero: the paper's unstructured L1 pruning.

    It shrinks nothing: zeros are stored and multiplied like any other number. It is here to repeat
    the paper's experiments; `prune` is what makes a detector smaller.

    Attributes:
        rate: share of each layer's weights to zero, in (0, 1).
    """

    kind: ClassVar[str] = "mask"

    rate: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("mask", value, "weights")

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network, and say that nothing shrinks.

        Raises:
            ConfigError: nothing was trained before.
        """
        super().check(stage)
        require_trained(self, stage, WHY_TRAINED)
        stage.notes.append(
            "`mask` sets weights to zero but shrinks nothing: the file and the multiply-adds stay "
            "as they are. `prune` removes channels."
        )

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with zeros among its weights."""
        network = copy.deepcopy(parent.network)
        edit = mask_weights_(network, self.rate)
        context.progress("mask", 1, 1, f"{len(edit.parameters)} layers")
        return parent.evolve(
            network=network,
            edits=(*parent.card.edits, edit),
            score=ScoreMeaning(),
            measured=(),
            training={"zeroed": self.rate},
        )

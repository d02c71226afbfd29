"""The paper's pruning: single weights set to zero. Nothing becomes smaller or faster."""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import nn

from lydite.card import ScoreMeaning
from lydite.compress.prune import WHY_TRAINED, require_fraction
from lydite.detector import Detector
from lydite.edits import MaskWeights
from lydite.errors import ConfigError
from lydite.models.contract import Network
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.train import require_trained

Pattern = Literal["any", "2:4"]


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


def two_of_four(weight: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return True for the two smallest in magnitude of every four weights along the inputs.

    The 2:4 pattern of Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv
    2104.08378): of each output, and of each position of a kernel, four consecutive inputs.

    Args:
        weight: (O, I, ...) weights of one layer, I a multiple of 4.

    Returns:
        A boolean array of the same shape; of equal weights the earlier ones are marked.
    """
    last = np.moveaxis(weight, 1, -1)
    fours = np.abs(last).reshape(-1, 4)
    order = np.argsort(fours, axis=1, kind="stable")
    marked = np.zeros(fours.shape, dtype=np.bool_)
    np.put_along_axis(marked, order[:, :2], True, axis=1)
    return np.moveaxis(marked.reshape(last.shape), -1, 1)


def mask_weights_(network: Network, rate: float, pattern: Pattern = "any") -> MaskWeights:
    """Zero the smallest weights of every convolution and linear layer, in place.

    Args:
        network: whose weights are changed.
        rate: share of each layer's weights.
        pattern: "any": wherever they are; "2:4": see `two_of_four`, layers whose number of inputs
            is no multiple of four staying as they are.

    Returns:
        The edit that tells later training to keep the zeros.

    Raises:
        ConfigError: "2:4", and no layer has a multiple of four inputs.
    """
    names = []
    for name, parameter in _layer_weights(network).items():
        if pattern == "2:4" and parameter.shape[1] % 4:
            continue
        weight = parameter.detach().cpu().numpy().astype(np.float64)
        zero = two_of_four(weight) if pattern == "2:4" else smallest(weight, rate)
        with torch.no_grad():
            parameter.masked_fill_(torch.from_numpy(zero).to(parameter.device), 0.0)
        names.append(name)
    if not names:
        raise ConfigError(
            "`pattern: 2:4` finds no layer whose number of inputs is a multiple of four. "
            "Use the other pattern, `any`."
        )
    return MaskWeights(parameters=tuple(names))


def _layer_weights(network: Network) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by name, in the network's order.

    Other parameters of several dimensions (positions and class token of a transformer) are none.
    """
    layers = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    weights = {id(layer.weight) for layer in layers}
    return {name: p for name, p in network.named_parameters() if id(p) in weights}


def _zeroed(network: Network) -> float:
    """Return which share of the weights of convolutions and linear layers is zero."""
    weights = [weight.detach() for weight in _layer_weights(network).values()]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return round(zeros / sum(weight.numel() for weight in weights), 6)


@STEPS.add("mask")
class Mask(Step):
    """Set the smallest weights of every layer to zero: the paper's unstructured L1 pruning.

    It shrinks nothing: zeros are stored and multiplied like any other number. It is here to repeat
    the paper's experiments; `prune` is what makes a detector smaller.

    Attributes:
        rate: share of each layer's weights to zero, in (0, 1).
        pattern: "any" zeros the smallest weights wherever they are; "2:4" (with `rate` 0.5) the two
            smallest of every four inputs of a layer, which is what NVIDIA's sparse tensor cores
            can skip; layers whose number of inputs is no multiple of four stay as they are.
    """

    kind: ClassVar[str] = "mask"
    quiet: ClassVar[frozenset[str]] = frozenset({"pattern"})

    rate: Annotated[float, Field(gt=0, lt=1)]
    pattern: Pattern = "any"

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("mask", value, "weights")

    @model_validator(mode="after")
    def _half(self) -> Mask:
        if self.pattern == "2:4" and self.rate != 0.5:
            raise ValueError("`pattern: 2:4` zeros exactly one half; use `rate: 0.5`")
        return self

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
        if self.pattern == "2:4":
            stage.notes.append(
                "`pattern: 2:4` is for comparison: no runtime that lydite exports to computes "
                "faster from it. NVIDIA's sparse tensor cores would."
            )

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with zeros among its weights."""
        network = copy.deepcopy(parent.network)
        edit = mask_weights_(network, self.rate, self.pattern)
        context.progress("mask", 1, 1, f"{len(edit.parameters)} layers")
        return parent.evolve(
            network=network,
            edits=(*parent.card.edits, edit),
            score=ScoreMeaning(),
            measured=(),
            training={"zeroed": self.rate if self.pattern == "any" else _zeroed(network)},
        )

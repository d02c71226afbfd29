"""Pruning: remove the least important channels, so that the network really shrinks."""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from lydite.card import KeepChannels, ScoreMeaning
from lydite.compress.channels import (
    ParameterCount,
    Scope,
    Score,
    group_scores,
    plan_channels,
    top_channels,
)
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.models.contract import Network
from lydite.models.surgery import replay_
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.loop import require_trained

WHY_TRAINED = "fresh weights do not say what matters."


def prune_edits(
    network: Network,
    rate: float,
    *,
    score: Score = "l1",
    scope: Scope = "uniform",
    multiple: int = 8,
    seed: int = 0,
) -> tuple[KeepChannels, ...]:
    """Return the edits that remove `rate` of a network's parameters, least important first.

    Args:
        network: as it is; nothing changes.
        rate: share of the parameters to remove, in (0, 1); at least this much goes.
        score: how channels are ranked (see `lydite.compress.channels.group_scores`).
        scope: one keep share for every group, or one ranking over all of them.
        multiple: channels per group are multiples of this.
        seed: of random scores.

    Raises:
        ConfigError: the network cannot be pruned, or not this far.
    """
    scores = group_scores(network, score, seed)
    kept = plan_channels(network, scores, rate, scope, multiple)
    return tuple(
        KeepChannels(group=name, keep=top_channels(values, kept[name]))
        for name, values in scores.items()
        if kept[name] < len(values)
    )


def require_fraction(kind: str, value: Any, of: str) -> Any:
    """Return `value` unless it is a number outside (0, 1).

    Raises:
        PydanticCustomError: it is; pydantic adds where and what was given.
    """
    if isinstance(value, int | float) and not 0 < value < 1:
        raise PydanticCustomError(
            "rate",
            "must be in (0, 1) for `{kind}`; use 0.9 to {verb} nine tenths of the {of}",
            {"kind": kind, "verb": "zero" if kind == "mask" else "remove", "of": of},
        )
    return value


@STEPS.add("prune")
class Prune(Step):
    """Remove whole channels, the least important ones first.

    The network becomes smaller and faster in every runtime. Batch-norm statistics and the
    threshold are those of the wide network, so a `finetune` belongs behind it.

    Attributes:
        rate: share of the detector's parameters to remove, in (0, 1); at least this much goes.
        score: "l1" or "l2" (norm of the weights that make a channel), "bn" (scale of its batch
            norm) or "random" (a control).
        scope: "uniform" keeps the same share of every group of channels; "global" ranks all
            channels together and spares no group but for a sixteenth of it.
        multiple: channels per group are multiples of this, which runtimes compute fastest.
    """

    kind: ClassVar[str] = "prune"

    rate: Annotated[float, Field(gt=0, lt=1)]
    score: Score = "l1"
    scope: Scope = "uniform"
    multiple: Annotated[int, Field(ge=1, le=64)] = 8

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("prune", value, "parameters")

    def check(self, stage: Stage) -> None:
        """Refuse a network that is untrained or has no known channel groups.

        Raises:
            ConfigError: nothing was trained before, or the network is one of timm's.
        """
        super().check(stage)
        require_trained(self, stage, WHY_TRAINED)
        if stage.network.startswith("timm/"):
            raise ConfigError(
                f"`prune` cannot remove channels of {stage.network}: the channel groups of timm's "
                "networks are not known. Use `distill` into one of `lydite models` instead."
            )

    def outline(self, detector: Detector) -> Detector:
        """Return the network pruned as far as wanted, whatever its weights.

        Raises:
            ConfigError: the network cannot be pruned, or not this far.
        """
        return self._narrower(detector, 0)

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the narrower detector.

        Raises:
            ConfigError: the network cannot be pruned, or not this far.
        """
        context.progress("prune", 0, 1, f"{self.score}, {self.scope}")
        made = self._narrower(parent, context.seed)
        before, after = (made.card.training[key] for key in ("parameters_before", "parameters"))
        context.progress("prune", 1, 1, f"{before:,} to {after:,} parameters")
        return made

    def _narrower(self, parent: Detector, seed: int) -> Detector:
        """Return the pruned detector."""
        edits = prune_edits(
            parent.network,
            self.rate,
            score=self.score,
            scope=self.scope,
            multiple=self.multiple,
            seed=seed,
        )
        network = copy.deepcopy(parent.network)
        replay_(network, edits)
        before, after = ParameterCount(parent.network).total, ParameterCount(network).total
        return parent.evolve(
            network=network,
            edits=(*parent.card.edits, *edits),
            score=ScoreMeaning(),
            measured=(),
            training={"parameters_before": before, "parameters": after},
        )

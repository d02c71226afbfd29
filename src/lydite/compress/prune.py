"""Pruning: remove the least important channels, so that the network really shrinks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from lydite.card import ScoreMeaning
from lydite.compress.channels import Floats, top_channels
from lydite.compress.importance import DATA_SCORES, Gates, Score, channel_scores, watch_gates
from lydite.compress.rounds import Widths, staged
from lydite.compress.widths import ParameterCount, Scope
from lydite.detector import Detector
from lydite.edits import Edit
from lydite.models.contract import Network
from lydite.models.surgery import edits_for, replay_
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.device import number_format
from lydite.training.loop import fit
from lydite.training.objectives import cross_entropy
from lydite.training.settings import TrainSettings
from lydite.training.train import require_trained

WHY_TRAINED = "fresh weights do not say what matters."
#: how a network recovers between rounds; like `finetune`, whose defaults these are
RECOVERY = {"lr": 3e-4, "warmup": 0.05}


def prune_edits(
    network: Network,
    rate: float,
    *,
    score: Score = "l1",
    scope: Scope = "uniform",
    multiple: int = 8,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
) -> tuple[Edit, ...]:
    """Return the edits that remove `rate` of a network's parameters, least important first.

    Scores that need images are replaced by "l1", as in a plan.

    Args:
        network: as it is; nothing changes.
        rate: share of the parameters to remove, in (0, 1); at least this much goes.
        score: how channels are ranked (see `lydite.compress.importance.channel_scores`).
        scope: one keep share for every group, or one ranking over all of them.
        multiple: channels per group are multiples of this.
        seed: of random scores.
        rates: share of the channels to remove of single groups, by group name.

    Raises:
        ConfigError: the network cannot be pruned, or not this far.
    """
    scores = channel_scores(network, score, seed)
    widths = Widths(network, rate, scope, multiple, rates or {})
    return keep_best(network, scores, widths.after(1, network, scores))


def keep_best(
    network: Network, scores: Mapping[str, Floats], kept: Mapping[str, int]
) -> tuple[Edit, ...]:
    """Return the edits that keep the `kept[name]` channels of the highest scores of every group."""
    return edits_for(
        network,
        [
            (group, top_channels(scores[group.name], kept[group.name]))
            for group in network.groups()
            if kept[group.name] < group.size
        ],
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
            norm) or "random" (a control); or asked of training images, "taylor" (first-order
            change of the loss), "fisher" (second-order) or "domains" (what all generators need
            before what one of them needs).
        scope: "uniform" keeps the same share of every group of channels; "global" ranks all
            channels together and spares no group but for a sixteenth of it.
        multiple: channels per group are multiples of this, which runtimes compute fastest.
        images: how many crops of training images the scores are made of, where they are made of
            images.
        rounds: prune in this many rounds, each removing the same share of what it finds, and score
            anew before each.
        recover: steps of training between two rounds.
        rates: share of the channels to remove of single groups, in [0, 1), by the group's name (0
            leaves it whole); the other groups bring the detector to `rate`.
    """

    kind: ClassVar[str] = "prune"
    quiet: ClassVar[frozenset[str]] = frozenset({"images", "rounds", "recover", "rates"})

    rate: Annotated[float, Field(gt=0, lt=1)]
    score: Score = "l1"
    scope: Scope = "uniform"
    multiple: Annotated[int, Field(ge=1, le=64)] = 8
    images: Annotated[int, Field(ge=2, le=100_000)] = 256
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    recover: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    rates: dict[str, Annotated[float, Field(ge=0, lt=1)]] = {}

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("prune", value, "parameters")

    @property
    def together(self) -> bool:
        """Whether every process of a team has to take part: rounds are handed from one to all."""
        return self.rounds > 1

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network, and say what cannot be known before the work.

        Raises:
            ConfigError: nothing was trained before.
        """
        super().check(stage)
        require_trained(self, stage, WHY_TRAINED)
        asks = self.score in DATA_SCORES
        if asks:
            stage.images += self.rounds * self.images
        if self.together:
            stage.images += (self.rounds - 1) * self.recover * TrainSettings().batch
        if self.scope == "global" and (asks or self.rounds > 1):
            why = f"`score: {self.score}` asks images" if asks else "each round scores anew"
            stage.notes.append(
                f"`prune` with `scope: global`: {why}, so which groups become how narrow is known "
                "only then. The size in this plan is that of one round with `score: l1`; the "
                "`rate` holds in any case."
            )

    def outline(self, detector: Detector) -> Detector:
        """Return the network pruned as far as wanted, whatever its weights.

        Raises:
            ConfigError: the network cannot be pruned, or not this far.
        """
        one = self.model_copy(update={"rounds": 1})
        return one._cut(detector, detector, 1, channel_scores(detector.network, self.score, 0))

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the narrower detector; killed between rounds, the same call goes on.

        Raises:
            ConfigError: the network cannot be pruned, or not this far.
            DataError: the scores need training images that are not there.
        """
        if self.rounds == 1:
            return self._round(parent, parent, 1, context)
        self.outline(parent)  # refuses what the last round could not do
        made = parent
        for number in range(1, self.rounds + 1):
            here = replace(
                context,
                seed=(context.seed + 7919 * (number - 1)) % 2**31,
                folder=context.folder / f"round-{number}",
            )
            cut = partial(self._round, parent, made, number, here)
            made = staged(here.folder / "cut", cut)
            if number < self.rounds and self.recover:
                recover = partial(self._recover, made, here)
                made = staged(here.folder / "recovered", recover, together=True)
        return made

    def _round(self, start: Detector, parent: Detector, number: int, context: Context) -> Detector:
        """Return the detector after one round of scoring and cutting."""
        what = "prune" if self.rounds == 1 else f"prune {number}/{self.rounds}"
        note = f"{self.score}, {self.scope}"

        def watch() -> Gates:
            device = number_format()[0] if context.device == "auto" else context.device
            return watch_gates(
                parent.network,
                parent.card.preprocess,
                context.train,
                self.images,
                context.seed,
                device=device,
                progress=lambda done, total: context.progress(what, done, total + 1, note),
            )

        total = 1 + (self.images if self.score in DATA_SCORES else 0)
        context.progress(what, 0, total, note)
        scores = channel_scores(parent.network, self.score, context.seed, watch)
        made = self._cut(start, parent, number, scores)
        before, after = (made.card.training[key] for key in ("parameters_before", "parameters"))
        context.progress(what, total, total, f"{before:,} to {after:,} parameters")
        return made

    def _recover(self, detector: Detector, context: Context) -> Detector:
        """Return the detector after a short training."""
        settings = TrainSettings(steps=self.recover, **RECOVERY)
        fitted = fit(
            detector.network,
            cross_entropy(),
            detector,
            settings,
            replace(context, folder=context.folder / "training"),
            what="recover",
        )
        return detector.evolve(network=fitted.network)

    def _cut(
        self, start: Detector, parent: Detector, number: int, scores: Mapping[str, Floats]
    ) -> Detector:
        """Return the detector as narrow as it is to be after a round."""
        widths = Widths(
            start.network, self.rate, self.scope, self.multiple, self.rates, self.rounds
        )
        kept = widths.after(number, parent.network, scores)
        edits = keep_best(parent.network, scores, kept)
        network = copy.deepcopy(parent.network)
        replay_(network, edits)
        before, after = ParameterCount(start.network).total, ParameterCount(network).total
        return parent.evolve(
            network=network,
            edits=(*parent.card.edits, *edits),
            score=ScoreMeaning(),
            measured=(),
            training={"parameters_before": before, "parameters": after},
        )

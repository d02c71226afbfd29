"""Learning from labels, with what helps on generators that were never met: each part a switch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field, model_validator
from torch import Tensor

from lydite.card import Preprocess
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.training.batches import Batches
from lydite.training.degrade import Degrade
from lydite.training.mixed import MixedBatches, require_crops
from lydite.training.objectives import Objective, cross_entropy
from lydite.training.robust import GroupedBatches, GroupWeights
from lydite.training.settings import NEWER, TrainSettings
from lydite.training.swad import Swad, Valley
from lydite.training.watch import Watch


@dataclass(frozen=True)
class Lesson:
    """What a step that learns from labels gives to the training loop.

    Attributes:
        objective: what to minimize.
        batches: where images come from; None: the plain ones.
        paired: the network sees every crop twice, clean and degraded.
        groups: weights of groups that follow their losses.
    """

    objective: Objective
    batches: Batches | None = None
    paired: bool = False
    groups: GroupWeights | None = None

    @property
    def notes(self) -> dict[str, float | int | str | None]:
        """What the card says of it besides the loop's report."""
        return {"group_weights": self.groups.summary()} if self.groups else {}


class FromLabels(TrainSettings):
    """Options of steps that learn from labels alone.

    Attributes:
        degrade: mild degradations of each crop, as images meet them on their way: probabilities
            `jpeg`, `blur`, `resize`, `noise` and `webp`, and their ranges (see
            `lydite.training.degrade`). Without `consistency` the network sees the degraded copy
            alone. `jpeg` and `blur` beside it are as before, and happen to both copies.
        consistency: weight of how much the network says otherwise of the degraded copy of a crop
            than of the clean one, as Jensen-Shannon divergence (AugMix, Hendrycks et al. 2020,
            arXiv 1912.02781, with two copies; they use 12). The labels are learned on
            both copies, so a step takes twice as long. 0 for none; it needs `degrade`.
        robust: step size of group DRO (Sagawa et al. 2020, arXiv 1911.08731; they use 0.01): the
            more a group's loss, the more it counts, exponentially; a group is one label in one
            domain. 0 counts all images alike. It is said to need strong `weight_decay` or few
            steps where the network can learn all images by heart.
        swad: average the weights of all steps from where the loss on validation images stops
            falling to where it has risen, and end there (Cha et al. 2021, arXiv 2102.08604, who
            keep the learning rate constant); {} for their numbers, see `lydite.training.swad`.
            From random weights it needs `after`. Batch norms are measured anew, as with `swa`;
            either of the two, or `ema`.
    """

    #: options that step entries leave out at their defaults
    newer: ClassVar[frozenset[str]] = NEWER | {"degrade", "consistency", "robust", "swad"}

    degrade: Degrade | None = None
    consistency: Annotated[float, Field(ge=0, le=1000)] = 0.0
    robust: Annotated[float, Field(ge=0, le=10)] = 0.0
    swad: Swad | None = None

    @model_validator(mode="after")
    def _copies_to_compare(self) -> FromLabels:
        if self.consistency and self.degrade is None:
            raise ValueError(
                "`consistency` compares a crop with its degraded copy; say with `degrade` how to "
                "make one, such as {jpeg: 0.5, resize: 0.3}"
            )
        return self

    @model_validator(mode="after")
    def _one_weight_of_domains(self) -> FromLabels:
        if self.robust and self.domain_shares:
            raise ValueError(
                "`robust` weighs domains by their losses, however often they are drawn, so that "
                "`domain_shares` would say nothing; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _valley_can_be_found(self) -> FromLabels:
        if self.swad is None:
            return self
        if self.ema or self.swa:
            raise ValueError("`swad`, `swa` and `ema` average weights; take the others out")
        left = self.steps - self.swad.after
        if (needed := self.swad.every * self.swad.patience) > left:
            raise ValueError(
                f"`swad` looks at the validation loss every {self.swad.every} steps and waits for "
                f"{self.swad.patience} looks, which takes {needed} steps; it has {left}. Set a "
                "smaller `every`"
            )
        return self

    @property
    def pushed_images(self) -> int:
        """How many images the step pushes through training, those only looked at for a third."""
        if self.swad is None:
            return self.learned_images
        looks = (self.steps - self.swad.after) // self.swad.every
        return self.learned_images + looks * self.swad.crops // 3

    @property
    def learned_images(self) -> int:
        """How many images the step learns from, copies counted."""
        return self.steps * self.batch * (2 if self.consistency else 1)

    def require_lesson(self, detector: Detector) -> None:
        """Refuse what the detector's preprocessing excludes, before anything is trained.

        Raises:
            ConfigError: `degrade` scales images that are not cut freely.
        """
        require_crops(detector.card.preprocess, self, self.degrade)

    def lesson(self, train: Manifest, preprocess: Preprocess, seed: int) -> Lesson:
        """Return what to learn, and from which images.

        Args:
            train: images to learn from.
            preprocess: of the detector.
            seed: of the step.

        Raises:
            DataError: no images, or one class only.
        """
        if self.degrade is None and not self.robust:
            return Lesson(cross_entropy(self.label_smoothing))
        kind = GroupedBatches if self.robust else MixedBatches
        batches = kind(train, preprocess, self, seed, ImageStore(), degrade=self.degrade)
        groups = None
        if isinstance(batches, GroupedBatches):
            groups = GroupWeights(batches.groups, self.robust)
        objective = from_labels(self.label_smoothing, self.consistency, groups)
        return Lesson(objective, batches, bool(self.consistency), groups)

    def valley(self, val: Manifest, preprocess: Preprocess, seed: int) -> Valley | None:
        """Return what finds the weights to average, None without `swad`.

        Args:
            val: validation images.
            preprocess: of the detector.
            seed: of the step.

        Raises:
            DataError: a class is missing.
        """
        if self.swad is None:
            return None
        return Valley(self.swad, Watch(val, preprocess, self, seed, self.swad.crops))


def from_labels(
    label_smoothing: float, consistency: float, groups: GroupWeights | None
) -> Objective:
    """Return cross-entropy on the labels, over groups if there are any, plus consistency.

    Args:
        label_smoothing: as in Szegedy et al. 2016.
        consistency: weight of the divergence between copies; with it the objective takes
            {"degraded": logits, "clean": logits}.
        groups: whose numbers are the targets; None: targets are labels.
    """

    def loss(outputs: Tensor | dict[str, Tensor], _clean: Tensor, targets: Tensor) -> Tensor:
        copies = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
        labels = targets if groups is None else groups.labels(targets)
        each = torch.stack(
            [
                F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
                for logits in copies
            ]
        ).mean(0)
        total = each.mean() if groups is None else groups.weighted(each, targets)
        if len(copies) == 2 and consistency:
            total = total + consistency * jensen_shannon(*copies)
        return total

    return loss


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two predictions, the mean over images.

    The mean of KL(p || m) and KL(q || m) with m = (p + q) / 2; symmetric, from 0 to log 2.

    Args:
        one: logits (N, K).
        other: logits (N, K) of the same images.
    """
    logs = torch.stack([F.log_softmax(one, dim=1), F.log_softmax(other, dim=1)])
    middle = torch.logsumexp(logs, dim=0) - torch.log(torch.tensor(2.0))
    return (logs.exp() * (logs - middle)).sum(2).mean()

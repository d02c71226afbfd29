"""What a student takes from its teachers: one frozen configuration per method, with its loss.

Methods are combined as a sum; each adds `scale` times its loss. To add one, give a class its own
`name`, list it in `Method`, and write its loss as a pure function in `lydite.training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from lydite.config import Frozen
from lydite.models.contract import Network
from lydite.training.hints import View, attention_loss, hint_loss, look, patch_loss
from lydite.training.objectives import (
    Objective,
    decoupled_loss,
    labeled_cross_entropy,
    matched_loss,
    soft_targets,
)

Scale = Annotated[float, Field(gt=0, le=1e6)]
Views = dict[str, Tensor]


class _Base(Frozen):
    """What every method has.

    Attributes:
        scale: the method's loss is multiplied by this.
    """

    #: what it looks at besides logits, in the student and in every teacher
    views: ClassVar[frozenset[View]] = frozenset()
    #: the student's feature map passes a learned regressor first
    regressed: ClassVar[bool] = False
    #: it learns from one teacher, not from the mean of several
    single: ClassVar[bool] = False

    scale: Scale = 1.0

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return a scalar, the mean over images.

        Args:
            student: "logits" (N, 2), and what `views` and `regressed` ask for.
            teachers: the same of each teacher, without gradients.
            targets: (N,), `UNLABELED` where no label is known.
            temperature: T of soft targets.
        """
        raise NotImplementedError


class Logits(_Base):
    """Soft targets: the teachers' probabilities at a temperature (Hinton et al. 2015)."""

    name: Literal["logits"] = "logits"

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return the soft-target loss."""
        soft = soft_targets([seen["logits"] for seen in teachers], temperature)
        return matched_loss(student["logits"], soft, temperature)


class Decoupled(_Base):
    """Soft targets taken apart: target class, and the others (Zhao et al. 2022, arXiv 2203.08679).

    With two classes there is only one other, its part is zero whatever `beta`, and the method is
    `alpha` times `logits`.

    Attributes:
        alpha: weight of the target class against the rest.
        beta: weight of the other classes among themselves.
    """

    name: Literal["decoupled"] = "decoupled"
    alpha: Annotated[float, Field(ge=0, le=1000)] = 1.0
    beta: Annotated[float, Field(ge=0, le=1000)] = 8.0

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return the decoupled loss."""
        soft = soft_targets([seen["logits"] for seen in teachers], temperature)
        return decoupled_loss(student["logits"], soft, targets, temperature, self.alpha, self.beta)


class Features(_Base):
    """Hints: predict the teacher's last feature map (FitNets, Romero et al. 2015).

    The 1x1 convolution that predicts it is trained with the student and thrown away after.
    """

    views: ClassVar[frozenset[View]] = frozenset({"features"})
    regressed: ClassVar[bool] = True
    single: ClassVar[bool] = True

    name: Literal["features"] = "features"

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return the mean squared difference of the feature maps."""
        return hint_loss(student["hint"], teachers[0]["features"])


class Attention(_Base):
    """Look where the teacher looks (Zagoruyko and Komodakis 2017), in the last feature map."""

    views: ClassVar[frozenset[View]] = frozenset({"features"})
    single: ClassVar[bool] = True

    name: Literal["attention"] = "attention"

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return the squared distance of the attention maps."""
        return attention_loss(student["features"], teachers[0]["features"])


class Patches(_Base):
    """Soft targets at every position, for networks that score positions (the lydite family)."""

    views: ClassVar[frozenset[View]] = frozenset({"votes"})

    name: Literal["patches"] = "patches"

    def loss(
        self, student: Views, teachers: Sequence[Views], targets: Tensor, temperature: float
    ) -> Tensor:
        """Return the soft-target loss, the mean over positions."""
        return patch_loss(student["votes"], [seen["votes"] for seen in teachers], temperature)


Method = Annotated[Logits | Decoupled | Features | Attention | Patches, Field(discriminator="name")]


def _listed(value: Any) -> Any:
    """Return the list in a recipe's entry: a name, a method with options, or a list of these."""
    entries = value if isinstance(value, list | tuple) else [value]
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


Methods = Annotated[
    tuple[Method, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=str | Method | list[str | Method]),
]


def distillation(
    teachers: Sequence[Network],
    methods: Sequence[Method],
    temperature: float,
    weight: float,
    labeled: float = 1.0,
) -> Objective:
    """Return weight * (sum of the methods' losses) + (1 - weight) * cross-entropy on the labels.

    Teachers see the student's own crops, before any degradation, and learn nothing.

    Args:
        teachers: one or more; "features" and "attention" look at the first.
        methods: what is taken from them.
        temperature: T of soft targets.
        weight: share of the methods, in [0, 1].
        labeled: share of the images that have a label.
    """
    views = views_of(methods, regressed=True)

    def loss(outputs: Tensor | dict[str, Tensor], clean: Tensor, targets: Tensor) -> Tensor:
        student = outputs if isinstance(outputs, dict) else {"logits": outputs}
        with torch.no_grad():
            seen = [
                {name: value.float() for name, value in look(teacher, clean, views).items()}
                for teacher in teachers
            ]
        parts = [m.scale * m.loss(student, seen, targets, temperature) for m in methods]
        hard = labeled_cross_entropy(student["logits"], targets, labeled)
        return weight * torch.stack(parts).sum() + (1 - weight) * hard

    return loss


def views_of(methods: Sequence[Method], *, regressed: bool) -> frozenset[View]:
    """Return what the methods look at, with or without what only a regressor does."""
    return frozenset().union(*(m.views for m in methods if regressed or not m.regressed))

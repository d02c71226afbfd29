"""What a student can learn from a teacher's inside: feature maps, attention, votes of positions.

Pure functions of tensors, and the module that is trained where the student alone is not enough.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.models.contract import Network
from lydite.training.objectives import matched_loss, soft_targets

#: what can be seen of a network besides its logits: the last feature map (N, C, h, w), and the
#: logits of every position (N, 2, h, w)
View = Literal["features", "votes"]


def look(network: Network, images: Tensor, views: Collection[View]) -> dict[str, Tensor]:
    """Run a network once and return its "logits", (N, 2), and the wanted views.

    Args:
        network: must score positions if "votes" are wanted.
        images: (N, 3, S, S).
        views: names of what else to return.
    """
    if not views:
        return {"logits": network(images)}
    features = network.features(images)
    seen = {"logits": network.head(features)}
    if "features" in views:
        seen["features"] = features
    if "votes" in views:
        votes = network.votes(features)
        assert votes is not None, "the outline has refused networks that score no positions"
        seen["votes"] = votes
    return seen


def feature_shape(network: Network, size: int) -> tuple[int, ...]:
    """Return the shape of one image's last feature map, from shapes alone.

    Args:
        network: stays as it is.
        size: side of the input in pixels.
    """
    return tuple(_on_shapes(network, size)[1].shape[1:])


def scores_positions(network: Network, size: int) -> bool:
    """Tell whether a network has a vote at every position of its last feature map."""
    shapes, features = _on_shapes(network, size)
    return shapes.votes(features) is not None


def _on_shapes(network: Network, size: int) -> tuple[Network, Tensor]:
    """Return a copy without values, and its last feature map without values."""
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        return shapes, shapes.features(torch.empty(1, 3, size, size, device="meta"))


@dataclass(frozen=True)
class Hint:
    """A map that the student's last feature map is to predict.

    Attributes:
        inputs: channels of the student's map.
        channels: channels of the teacher's map.
        grid: (h, w) that both are averaged to: the coarser of the two.
    """

    inputs: int
    channels: int
    grid: tuple[int, int]


class Pupil(nn.Module):
    """A student in training, and the regressor that is trained beside it and thrown away after.

    All outputs come from one pass through `forward`, so that several devices can share the work.

    Args:
        student: the network that will remain.
        views: what the losses need of it.
        hint: what a learned 1x1 convolution predicts from the student's feature map; None for no
            regressor.
    """

    def __init__(self, student: Network, views: Collection[View], hint: Hint | None) -> None:
        super().__init__()
        self.student = student
        needed: set[View] = {"features"} if hint else set()
        self.views: frozenset[View] = frozenset(views) | needed
        self.hint = hint
        self.regressor = nn.Conv2d(hint.inputs, hint.channels, 1) if hint else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return "logits", the views, and "hint" (N, C, h, w), for (N, 3, S, S) input."""
        seen = look(self.student, images, self.views)
        if self.regressor is not None and self.hint is not None:
            seen["hint"] = self.regressor(F.adaptive_avg_pool2d(seen["features"], self.hint.grid))
        return seen


def coarser(*maps: Sequence[int]) -> tuple[int, int]:
    """Return the smallest height and the smallest width of shapes that end in (h, w)."""
    return min(shape[-2] for shape in maps), min(shape[-1] for shape in maps)


def hint_loss(hint: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference between a predicted and the teacher's feature map.

    Romero et al. 2015, "FitNets" (arXiv 1412.6550), equation 3, as a mean instead of half a sum,
    and learned together with everything else instead of in a stage before.

    Args:
        hint: (N, C, h, w), from the regressor.
        teacher: (N, C, H, W) with H >= h and W >= w; averaged to (h, w).
    """
    return F.mse_loss(hint, F.adaptive_avg_pool2d(teacher, coarser(hint.shape)))


def attention(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return where a feature map is strong, as a vector of length 1 per image.

    Zagoruyko and Komodakis 2017 (arXiv 1612.03928), F_sum^2 of section 3.1: squares summed over
    channels.

    Args:
        features: (N, C, H, W).
        grid: (h, w) that the sums are averaged to.

    Returns:
        (N, h * w).
    """
    energy = F.adaptive_avg_pool2d(features.square().sum(dim=1, keepdim=True), grid)
    return F.normalize(energy.flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of two attention maps, the mean over images, in [0, 2].

    Zagoruyko and Komodakis 2017, equation 2, with the square of the norm, which is smooth where
    the maps agree.

    Args:
        student: feature map (N, C, h, w).
        teacher: feature map (N, D, H, W); both are averaged to the coarser grid.
    """
    grid = coarser(student.shape, teacher.shape)
    return (attention(student, grid) - attention(teacher, grid)).square().sum(dim=1).mean()


def patch_loss(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the soft-target loss of every position, the mean over positions and images.

    Args:
        student: logits (N, K, h, w).
        teachers: logits (N, K, H, W) of each; all are averaged to the coarsest grid.
        temperature: T > 0.
    """
    grid = coarser(student.shape, *(votes.shape for votes in teachers))
    soft = soft_targets([_rows(votes, grid) for votes in teachers], temperature)
    return matched_loss(_rows(student, grid), soft, temperature)


def _rows(votes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return logits (N, K, h, w), averaged to a grid, as one row a position: (N * h * w, K)."""
    return F.adaptive_avg_pool2d(votes, grid).permute(0, 2, 3, 1).flatten(0, 2)

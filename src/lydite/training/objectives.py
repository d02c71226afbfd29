"""What a training step minimizes, as functions of the network's outputs, its input and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

#: called with what the network in training returned (logits (N, 2), or a dictionary of tensors),
#: its undegraded input (N, 3, S, S) and targets (N,); gives a scalar, the mean over images
Objective = Callable[[Any, Tensor, Tensor], Tensor]

#: target of an image whose label is not known
UNLABELED = -1


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Return softmax cross-entropy against the labels."""

    def loss(logits: Tensor, _images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    return loss


def labeled_cross_entropy(logits: Tensor, targets: Tensor, labeled: float = 1.0) -> Tensor:
    """Return cross-entropy over the images that have a label, the mean over these.

    The sum is divided by how many labels a batch holds on average, not by how many these images
    do, so that the pieces of a batch add up to the whole however it is divided.

    Args:
        logits: (N, K).
        targets: (N,), `UNLABELED` where no label is known.
        labeled: share of all images that have a label, in (0, 1].
    """
    if labeled == 1:
        return F.cross_entropy(logits, targets)
    total = F.cross_entropy(logits, targets, ignore_index=UNLABELED, reduction="sum")
    return total / (labeled * len(targets))


def soft_targets(teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the log of the teachers' mean probabilities at a temperature.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2: the
    ensemble's distribution is the arithmetic mean of its members'.

    Args:
        teachers: logits (N, K) of each.
        temperature: T > 0.

    Returns:
        (N, K) log-probabilities.
    """
    logs = torch.stack([F.log_softmax(logits / temperature, dim=1) for logits in teachers])
    return torch.logsumexp(logs, dim=0) - math.log(len(teachers))


def matched_loss(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(soft targets || student / T), the mean over images.

    Hinton et al. 2015, section 2; the factor T^2 keeps the gradients' size when T changes.

    Args:
        student: logits (N, K).
        targets: log-probabilities (N, K), from `soft_targets`.
        temperature: T > 0.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_p, targets, reduction="batchmean", log_target=True) * temperature**2


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher / T || student / T), the mean over images, for logits (N, K)."""
    return matched_loss(student, soft_targets([teacher], temperature), temperature)


def decoupled_loss(
    student: Tensor,
    soft: Tensor,
    targets: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Return T^2 (alpha TCKD + beta NCKD), the mean over images.

    Zhao et al. 2022, "Decoupled Knowledge Distillation" (arXiv 2203.08679), equation 7. TCKD
    compares how likely the target class is against all others; NCKD compares the others among
    themselves, and is zero for two classes, where there is only one other. The ordinary
    divergence is TCKD + (1 - p) NCKD with the teacher's probability p of the target (equation 6).

    Args:
        student: logits (N, K).
        soft: the teacher's log-probabilities (N, K) at the same temperature.
        targets: (N,); where it is `UNLABELED`, the teacher's most likely class stands in.
        temperature: T > 0.
        alpha: weight of TCKD.
        beta: weight of NCKD.
    """
    target = torch.where(targets == UNLABELED, soft.argmax(dim=1), targets)
    own, own_others = _decouple(F.log_softmax(student / temperature, dim=1), target)
    wanted, wanted_others = _decouple(soft, target)
    tckd = F.kl_div(own, wanted, reduction="batchmean", log_target=True)
    nckd = F.kl_div(own_others, wanted_others, reduction="batchmean", log_target=True)
    return (alpha * tckd + beta * nckd) * temperature**2


def _decouple(log_p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of target against the rest (N, 2), and within the rest (N, K-1)."""
    is_target = F.one_hot(target, log_p.shape[1]).bool()
    others = log_p[~is_target].view(len(log_p), -1)
    binary = torch.stack([log_p[is_target], torch.logsumexp(others, dim=1)], dim=1)
    return binary, F.log_softmax(others, dim=1)

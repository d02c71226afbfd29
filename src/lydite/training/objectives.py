"""What a training step minimizes, as functions of logits, input and targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: called with the network's logits (N, 2), its input (N, 3, S, S) and targets (N,); gives a scalar
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Return softmax cross-entropy against the labels."""

    def loss(logits: Tensor, _images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    return loss


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher / T || student / T), the mean over images.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; the
    factor T^2 keeps the gradients' size when T changes.

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: T > 0.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def distillation(teacher: nn.Module, temperature: float, weight: float) -> Objective:
    """Return weight * soft-target loss + (1 - weight) * cross-entropy (Hinton et al. 2015).

    The teacher sees the student's own crops and learns nothing.
    """

    def loss(logits: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(images).float()
        soft = soft_target_loss(logits, wanted, temperature)
        return weight * soft + (1 - weight) * F.cross_entropy(logits, targets)

    return loss

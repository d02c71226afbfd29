"""Averages of the weights along the way, which generalize better than the last weights.

Two are here: the exponential one (`ema`), which follows all along, and the plain mean of the last
part of a run (`swa`), of every single step as in Cha et al. 2021, "SWAD" (arXiv 2102.08604), but
over a window that is set beforehand (`lydite.training.swad` finds it on validation losses). The
mean of weights has seen no activations, so batch norms measure theirs anew (Izmailov et al. 2018,
arXiv 1803.05407, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lydite.training.settings import TrainSettings

Weights = dict[str, Tensor]
#: batches, from the last ones, that batch norms are measured on again
NORM_BATCHES = 50


def floats_of(network: nn.Module) -> Weights:
    """Return the floating-point weights and buffers, without gradients; they share memory."""
    state = network.state_dict()
    return {name: value.detach() for name, value in state.items() if value.is_floating_point()}


def started(settings: TrainSettings, network: nn.Module) -> Weights | None:
    """Return what is averaged into before the first step; None: nothing yet, or nothing at all."""
    if not settings.ema:
        return None
    return {name: value.clone() for name, value in floats_of(network).items()}


def swa_start(settings: TrainSettings) -> int:
    """Return the first step, from 0, whose weights count in the plain mean."""
    return settings.steps - max(1, round(settings.swa * settings.steps))


def moved(
    average: Weights | None, settings: TrainSettings, network: nn.Module, step: int
) -> Weights | None:
    """Return the average after a step; an old one is changed in place.

    Args:
        average: before.
        settings: which average.
        network: after the step.
        step: number of the step, from 0.
    """
    if settings.ema and average is not None:
        # the average forgets the random start quickly (as in Polyak warm-up)
        share = 1 - min(settings.ema, (1 + step) / (10 + step))
    elif settings.swa and step >= swa_start(settings):
        if average is None:
            return {name: value.clone() for name, value in floats_of(network).items()}
        share = 1 / (step - swa_start(settings) + 1)
    else:
        return average
    assert average is not None, "made with the run"
    for name, value in floats_of(network).items():
        average[name].lerp_(value, share)
    return average


@torch.no_grad()
def renew_norms_(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of batch norms anew: the mean over batches, in place.

    Norms in evaluation mode, and those that a forward pass does not call, keep theirs.

    Args:
        network: in training mode, but for what is frozen.
        batches: inputs (N, 3, S, S).
    """
    norms = [m for m in network.modules() if isinstance(m, _NormBase) and m.training]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    before = [({k: v.clone() for k, v in n.named_buffers()}, n.momentum) for n in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean
    for images in batches:
        network(images)
    for norm, (buffers, momentum) in zip(norms, before, strict=True):
        norm.momentum = momentum
        count = norm.num_batches_tracked
        if count is not None and not int(count):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)

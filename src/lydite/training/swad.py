"""The mean of the weights over the valley of the validation loss: SWAD.

Cha et al. 2021, "SWAD: Domain Generalization by Seeking Flat Minima" (arXiv 2102.08604), algorithm
1: weights of every single step are averaged, from where the loss on validation images stops falling
to where it has risen for good. Validation splits the run into stretches of equal length; a stretch
is in the mean as a whole or not at all, so that only means of stretches are kept, and only of those
that are not decided yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from lydite.config import Frozen
from lydite.errors import ResumeError
from lydite.training.averaging import Weights, floats_of
from lydite.training.watch import Watch


class Swad(Frozen):
    """How the valley is found.

    Attributes:
        after: steps before anything is looked at or averaged. The paper's networks are trained
            already; from random weights the loss stays on a plateau at first, which would count
            as the valley.
        every: steps between two looks at the validation loss.
        patience: the valley begins at a loss that is the lowest of so many, counted from it on
            (the paper's optimum patience).
        overfit: it ends before so many losses in a row above the limit (overfit patience).
        tolerance: the limit, as a multiple of the mean of the `patience` losses it begins with.
        crops: of validation images that the loss is taken on, the same every time, every domain
            and class equally.
    """

    after: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    overfit: Annotated[int, Field(ge=1, le=1000)] = 6
    tolerance: Annotated[float, Field(ge=1, le=100)] = 1.3
    crops: Annotated[int, Field(ge=2, le=1_000_000)] = 512


def begin_of(losses: Sequence[float], patience: int) -> int | None:
    """Return the stretch that the valley begins with, None while there is none.

    Args:
        losses: behind every stretch.
        patience: see `Swad`.

    >>> begin_of([0.9, 0.7, 0.8, 0.75], 3), begin_of([0.9, 0.8, 0.7, 0.6], 2)
    (1, None)
    """
    windows = range(len(losses) - patience + 1)
    return next((s for s in windows if losses[s] <= min(losses[s : s + patience])), None)


def end_of(losses: Sequence[float], begin: int, settings: Swad) -> int | None:
    """Return the last stretch of a valley, None while it goes on.

    Args:
        losses: behind every stretch.
        begin: its first stretch.
        settings: how it is found.

    >>> end_of([0.5, 0.6, 0.9, 0.8], 0, Swad(patience=2, overfit=2, tolerance=1.3))
    1
    """
    first = losses[begin : begin + settings.patience]
    limit = settings.tolerance * sum(first) / len(first)
    # the losses that set the limit do not end it
    for now in range(begin + max(settings.patience, settings.overfit), len(losses)):
        if min(losses[now - settings.overfit + 1 : now + 1]) > limit:
            return now - settings.overfit
    return None


@dataclass
class Stretch:
    """A mean of weights.

    Attributes:
        weights: the mean; empty before the first step.
        steps: how many steps it is over.
    """

    weights: Weights
    steps: int = 0

    def add_(self, weights: Weights, steps: int = 1) -> None:
        """Take the weights of a step, or the mean of several, into the mean."""
        self.steps += steps
        if not self.weights:
            self.weights = {name: value.clone() for name, value in weights.items()}
            return
        for name, value in weights.items():
            self.weights[name].lerp_(value, steps / self.steps)


class Valley:
    """Follows a run and keeps the mean over its valley.

    Args:
        settings: how it is found.
        watch: what the loss is taken on.
    """

    def __init__(self, settings: Swad, watch: Watch) -> None:
        self.settings, self.watch = settings, watch
        self.losses: list[float] = []
        self.lengths: list[int] = []
        self.now = Stretch({})
        self.waiting: dict[int, Stretch] = {}
        self.sure = Stretch({})

    @property
    def begin(self) -> int | None:
        """The first stretch of the valley, None while there is none."""
        return begin_of(self.losses, self.settings.patience)

    @property
    def end(self) -> int | None:
        """The last stretch of the valley, None while it goes on."""
        begin = self.begin
        return None if begin is None else end_of(self.losses, begin, self.settings)

    def due(self, steps: int, total: int) -> bool:
        """Tell whether a stretch ends after so many steps of so many.

        A rest of less than half a stretch belongs to the last one: alone, a few steps would count
        as much as a whole stretch does.
        """
        looked, rest = steps - self.settings.after, total - steps
        whole = looked % self.settings.every == 0 and 2 * rest >= self.settings.every
        return looked > 0 and (rest == 0 or whole)

    @torch.no_grad()
    def add_(self, network: nn.Module, steps: int) -> None:
        """Take the weights after so many steps into the stretch that runs."""
        if steps > self.settings.after:
            self.now.add_(floats_of(network))

    @torch.no_grad()
    def close_(self, loss: float) -> None:
        """End the stretch that runs, with the validation loss behind it."""
        self.waiting[len(self.losses)] = self.now
        self.losses.append(loss)
        self.lengths.append(self.now.steps)
        self.now = Stretch({})
        self._sort_()

    def _sort_(self) -> None:
        """Count what is in the valley whatever comes, and forget what cannot be in it any more."""
        last, begin, end = len(self.losses) - 1, self.begin, self.end
        if begin is None:
            # it may still begin with a stretch that has not seen `patience` losses yet
            for number in [n for n in self.waiting if n < last - self.settings.patience + 2]:
                del self.waiting[number]
            return
        # it ends, at the earliest, so many stretches before the next loss
        until = last + 1 - self.settings.overfit if end is None else end
        for number in sorted(self.waiting):
            if begin <= number <= until:
                stretch = self.waiting[number]
                self.sure.add_(stretch.weights, stretch.steps)
            if number < begin or number <= until or end is not None:
                del self.waiting[number]

    @torch.no_grad()
    def weights(self) -> Weights:
        """Return the mean over the valley; of the last stretch where none was found."""
        if self.begin is None:
            return self.waiting[len(self.losses) - 1].weights
        whole = Stretch({})
        if self.sure.steps:
            whole.add_(self.sure.weights, self.sure.steps)
        for number in sorted(self.waiting):
            whole.add_(self.waiting[number].weights, self.waiting[number].steps)
        return whole.weights

    def summary(self) -> str:
        """Return in words which steps the mean is over.

        Steps count from 1.
        """
        last = len(self.losses) - 1
        begin, end = self.begin, self.end
        first = last if begin is None else begin
        until = last if end is None else end
        before = self.settings.after
        start = before + sum(self.lengths[:first]) + 1
        span = f"steps {start} to {before + sum(self.lengths[: until + 1])}"
        if begin is None:
            return f"{span}: the validation loss was still falling"
        return span if end is None else f"{span}: then it rose, and training ended"

    def tensors(self) -> Weights:
        """Return all means by name, for a checkpoint."""
        named = {"now": self.now, "sure": self.sure}
        named |= {str(number): stretch for number, stretch in self.waiting.items()}
        return {
            f"{name}.{key}": value
            for name, stretch in named.items()
            for key, value in stretch.weights.items()
        }

    def notes(self) -> str:
        """Return all else that a checkpoint needs, as text."""
        steps = {"now": self.now.steps, "sure": self.sure.steps}
        return json.dumps({"losses": self.losses, "lengths": self.lengths, "steps": steps})

    def restore_(self, tensors: Weights, notes: str) -> None:
        """Go on from what a checkpoint has.

        Raises:
            ResumeError: it is not of such a run.
        """
        stretches: dict[str, Weights] = {}
        for name, value in tensors.items():
            place, key = name.split(".", 1)
            stretches.setdefault(place, {})[key] = value
        try:
            value = json.loads(notes)
            self.losses, self.lengths = list(value["losses"]), list(value["lengths"])
            self.now = Stretch(stretches.pop("now", {}), value["steps"]["now"])
            self.sure = Stretch(stretches.pop("sure", {}), value["steps"]["sure"])
            waiting = {int(number): weights for number, weights in stretches.items()}
            self.waiting = {n: Stretch(w, self.lengths[n]) for n, w in sorted(waiting.items())}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ResumeError(
                f"The average in the checkpoint cannot be used ({error}). Delete the checkpoint to "
                "begin this step again."
            ) from error

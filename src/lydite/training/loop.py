"""The one training loop.

The loop reads from top to bottom: batch, loss, update, checkpoint. What is learned is an
objective's business, where batches come from is `batches`' and `feed`'s, devices and precision are
Lightning Fabric's (several GPUs: start the same command under `torchrun`).
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lydite.data.images import ImageStore
from lydite.detector import Detector
from lydite.edits import Edit
from lydite.errors import ConfigError, TrainingError
from lydite.models.surgery import masks_of
from lydite.recipe import Context
from lydite.training.averaging import NORM_BATCHES, moved, renew_norms_, started
from lydite.training.batches import Batches
from lydite.training.checkpoint import load_checkpoint_, save_checkpoint
from lydite.training.device import make_fabric, peak_bytes, place_, restart_peak
from lydite.training.feed import Feed
from lydite.training.freezing import Freeze
from lydite.training.hints import Pupil
from lydite.training.objectives import Objective
from lydite.training.robust import GroupWeights
from lydite.training.settings import TrainSettings
from lydite.training.swad import Valley

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Fitted(Generic[Module]):
    """What a training run gives back.

    Attributes:
        network: trained, on the CPU, in evaluation mode.
        report: steps, final loss (moving average), seconds, highest memory, how many values
            learned, images, device, precision, devices; of a resumed run, over all its parts.
    """

    network: Module
    report: dict[str, float | int | str | None]


def fit(
    network: Module,
    objective: Objective,
    detector: Detector,
    settings: TrainSettings,
    context: Context,
    *,
    what: str = "train",
    companions: tuple[nn.Module, ...] = (),
    batches: Batches | None = None,
    trainable: Collection[str] | None = None,
    frozen_norms: bool = False,
    paired: bool = False,
    groups: GroupWeights | None = None,
    valley: Valley | None = None,
) -> Fitted[Module]:
    """Train a copy of `network`; killed at any moment, the same call goes on where it stopped.

    Args:
        network: where to begin; stays as it is. It may be any module that takes (N, 3, S, S) and
            returns what the objective expects: a tensor or a dictionary of tensors.
        objective: what to minimize.
        detector: gives preprocessing and edits (masked weights stay zero).
        settings: steps, batch, learning rate, crops.
        context: data, seed, scratch folder, progress, device.
        what: name shown in progress.
        companions: further networks that the objective calls (a teacher); moved to the device.
        batches: where images come from; the training split unless given.
        trainable: names of the parameters that learn (see `Freeze`); None: all of them.
        frozen_norms: norms go by their running statistics, and keep them.
        paired: the network sees each crop and its undegraded copy in one pass; the objective takes
            {"degraded": logits, "clean": logits}.
        groups: told about every batch, and kept in checkpoints; the objective calls it.
        valley: told about every step, and asked for the weights that are the result; training ends
            with it.

    Raises:
        DataError: an image cannot be read, or a class is missing.
        ConfigError: the batch cannot be dealt out evenly to the devices.
        TrainingError: the loss or its gradient is not finite, the loader hangs, or one of several
            devices has too little memory; the last checkpoint stands.
        ResumeError: the checkpoint in the folder does not fit.
    """
    masks = _masks(network, detector.card.edits)
    network = copy.deepcopy(network)
    fabric = make_fabric(context, network)
    require_dealt(settings.batch, fabric.world_size)
    preprocess = detector.card.preprocess
    if batches is None:
        batches = Batches(context.train, preprocess, settings, context.seed, ImageStore())
    freeze = Freeze(network, trainable, norms=frozen_norms)
    run = _Run(fabric, network, objective, settings, context, batches, masks, companions, freeze)
    run.paired = paired
    run.follow_(groups, valley)
    report = run.run(what)  # before the result, which is taken off the device
    return Fitted(run.result(), report)


class _Run(Generic[Module]):
    """State of one training run."""

    def __init__(
        self,
        fabric: Fabric,
        network: Module,
        objective: Objective,
        settings: TrainSettings,
        context: Context,
        batches: Batches,
        masks: dict[str, Tensor],
        companions: tuple[nn.Module, ...],
        freeze: Freeze,
    ) -> None:
        self.fabric, self.objective, self.settings = fabric, objective, settings
        self.context, self.batches, self.seed = context, batches, context.seed
        restart_peak(fabric.device)
        self.network = place_(network, fabric.device, torch.channels_last)
        self.freeze = freeze
        self.masks = {k: v.to(fabric.device) for k, v in masks.items()}
        for module in companions:
            module.to(fabric.device).eval()
        optimizer = torch.optim.AdamW(
            freeze.learning, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.step, self.average, self.notes = load_checkpoint_(
            context.folder, self.network, optimizer
        )
        if self.average is not None:
            self.average = {k: v.to(fabric.device) for k, v in self.average.items()}
        else:
            self.average = started(settings, self.network)
        self.optimizer = optimizer
        self.model, self.fabric_optimizer = fabric.setup(self.network, optimizer)
        self.feed = Feed(batches, fabric, settings.steps)
        self.pieces = int(self.notes.get("pieces", 1))
        self.loss = float(self.notes.get("loss", math.nan))
        self.seconds = float(self.notes.get("seconds", 0.0))
        self.peak_before = int(self.notes.get("peak_bytes", 0))
        self.paired = False
        self.groups: GroupWeights | None = None
        self.valley: Valley | None = None

    def follow_(self, groups: GroupWeights | None, valley: Valley | None) -> None:
        """Keep weights of groups, and a valley, up to date, from those of the checkpoint on."""
        self.groups, self.valley = groups, valley
        if groups is not None and "group_weights" in self.notes:
            groups.restore_(json.loads(str(self.notes["group_weights"])))
        if valley is not None and "valley" in self.notes:
            valley.restore_(self.average or {}, str(self.notes["valley"]))
            self.average = None

    def run(self, what: str) -> dict[str, float | int | str | None]:
        """Do the remaining steps and return the report."""
        settings, total = self.settings, self.settings.steps
        first, started = self.step, time.perf_counter()
        saved, before = started, self.seconds
        with self.feed:
            while self.step < total and not self._ended:
                loss = self._update(*self.feed.take(self.step))
                self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
                self.step += 1
                now = time.perf_counter()
                self.seconds = before + now - started
                speed = (self.step - first) * settings.batch / (now - started)
                note = f"loss {self.loss:.3f}, {speed:.0f} images/s"
                self.context.progress(what, self.step, total, note)
                if now - saved >= settings.checkpoint_s and self.step < total:
                    self._save()
                    saved = time.perf_counter()
        if self.step < total:
            self.context.progress(what, total, total, f"ended at step {self.step}")
        report: dict[str, float | int | str | None] = {}
        if self.valley is not None:
            report["swad"] = self.valley.summary()
        return report | {
            "steps": self.step,
            "loss": round(self.loss, 6),
            "seconds": round(self.seconds, 1),
            "peak_bytes": self._peak_bytes(),
            "trainable_parameters": self.freeze.size,
            "images": self.step * settings.batch,
            "device": str(self.fabric.device),
            "precision": str(self.fabric._precision.precision),
            "devices": self.fabric.world_size,
        }

    @property
    def _ended(self) -> bool:
        """The valley, if one is followed, has ended."""
        return self.valley is not None and self.valley.end is not None

    def result(self) -> Module:
        """Return the trained network on the CPU."""
        average = self.average if self.valley is None else self.valley.weights()
        if average is not None:
            self.network.load_state_dict(self.network.state_dict() | average)
            if self.settings.swa or self.valley is not None:
                self._renew_norms_()
        # standard memory layout again, so that stored weights do not depend on the training device
        network = place_(self.network, torch.device("cpu"), torch.contiguous_format)
        for parameter in network.parameters():
            parameter.grad = None
        self.freeze.undo_()
        network.eval()
        return network

    def _renew_norms_(self) -> None:
        """Measure batch norms on the last batches, on every device on all of each."""
        self.network.train()
        self.freeze.rest_()
        steps = range(max(0, self.step - NORM_BATCHES), self.step)
        loaded = (self.batches.fetch(self.batches.positions(step)) for step in steps)
        pairs = (self.feed.on_device(batch) for batch in loaded)
        with self.fabric.autocast():
            renew_norms_(self.network, (self._input(*pair) for pair in pairs))

    def _input(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return what goes through the network at once."""
        return torch.cat([images, clean]) if self.paired else images

    def _outputs(self, images: Tensor, clean: Tensor) -> Any:
        """Return what the objective takes."""
        outputs = _float(self.model(self._input(images, clean)))
        if not self.paired:
            return outputs
        degraded, undegraded = outputs.chunk(2)
        return {"degraded": degraded, "clean": undegraded}

    def _update(self, images: Tensor, clean: Tensor, targets: Tensor) -> float:
        """Do one optimizer step and return the loss; out of memory halves the pieces.

        Not on several devices: those that have enough would take another number of pieces, and
        average the gradients of one with another's.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.step)
        self.model.train()
        self.freeze.rest_()
        if self.groups is not None:
            self.groups.begin_(targets, self.fabric, self.fabric.world_size)
        while True:
            # dropout draws from a generator that depends on the step alone, so resuming is exact
            torch.manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
            self.optimizer.zero_grad(set_to_none=True)
            if self.groups is not None:
                self.groups.clear_()
            try:
                loss = self._backward(images, clean, targets)
                break
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if self.fabric.world_size > 1:
                    raise TrainingError(
                        f"Device {self.fabric.global_rank} ran out of memory at step "
                        f"{self.step + 1}. Use a smaller `batch` (now {self.settings.batch})."
                    ) from error
                if self.pieces * 2 > len(images) // 2:
                    raise
                self.pieces *= 2
        self._require_finite("loss", loss)
        # an infinite norm clips nothing, and tells whether the gradient is finite all the same
        norm = self.fabric.clip_gradients(
            self.model,
            self.fabric_optimizer,
            max_norm=self.settings.clip or math.inf,
            error_if_nonfinite=False,
        )
        self._require_finite("norm of the gradient", float(cast(Tensor, norm)))
        self.fabric_optimizer.step()
        self._after_step_()
        return loss

    def _require_finite(self, what: str, value: float) -> None:
        """Stop before weights are spoiled.

        Raises:
            TrainingError: the value is not finite.
        """
        if not math.isfinite(value):
            raise TrainingError(
                f"The {what} became {value} at step {self.step + 1}. The last good state is kept "
                f"in {self.context.folder}. Try a smaller `lr` (now {self.settings.lr:g})."
            )

    def _backward(self, images: Tensor, clean: Tensor, targets: Tensor) -> float:
        """Add up the gradients of a batch, in as many pieces as memory needs; return its loss."""
        total = 0.0
        parts = zip(*(x.chunk(self.pieces) for x in (images, clean, targets)), strict=True)
        for part, undegraded, wanted in parts:
            share = len(part) / len(images)
            with self.fabric.autocast():  # for teachers, which Fabric does not know
                loss = self.objective(self._outputs(part, undegraded), undegraded, wanted) * share
            self.fabric.backward(loss)
            total += float(loss.detach())
        return total

    def _after_step_(self) -> None:
        """Put masked weights back to zero, move the average and the weights of groups."""
        with torch.no_grad():
            parameters = dict(self.network.named_parameters())
            for name, mask in self.masks.items():
                parameters[name].mul_(mask)
            self.average = moved(self.average, self.settings, self.network, self.step)
        if self.groups is not None:
            self.groups.step_(self.fabric)
        if self.valley is not None:
            self.valley.add_(self.network, self.step + 1)
            if self.valley.due(self.step + 1, self.settings.steps):
                normalize = self.feed.normalize
                loss = self.valley.watch.loss(self.network, normalize, self.fabric)
                self._require_finite("loss on validation images", loss)
                self.valley.close_(loss)

    def _peak_bytes(self) -> int:
        """Return the highest memory of this part of the run and of those before it."""
        return max(self.peak_before, peak_bytes(self.fabric.device))

    def _save(self) -> None:
        """Write a checkpoint (first device only)."""
        notes: dict[str, float | str] = {
            "loss": self.loss,
            "seconds": self.seconds,
            "peak_bytes": self._peak_bytes(),
            "pieces": self.pieces,
        }
        if self.groups is not None:
            notes["group_weights"] = json.dumps(self.groups.weights.tolist())
        average = self.average
        if self.valley is not None:
            notes["valley"], average = self.valley.notes(), self.valley.tensors()
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.context.folder, self.step, self.network, self.optimizer, average, notes
            )


def _masks(network: nn.Module, edits: Iterable[Edit]) -> dict[str, Tensor]:
    """Return what stays zero, under the names that parameters have in what is trained."""
    if isinstance(network, Pupil):
        return {f"student.{name}": mask for name, mask in masks_of(network.student, edits).items()}
    return masks_of(network, edits)


def require_dealt(batch: int, world: int) -> None:
    """Refuse batches of which devices would get unequal shares, whose means then count the same.

    Raises:
        ConfigError: `batch` is no multiple of two images for each device.
    """
    if world > 1 and batch % (2 * world):
        raise ConfigError(
            f"`batch: {batch}` cannot be dealt out in pairs to {world} processes alike. Use a "
            f"multiple of {2 * world}, or fewer processes."
        )


def _float(outputs: Any) -> Any:
    """Return a tensor, or every tensor of a dictionary, in float32."""
    if isinstance(outputs, dict):
        return {name: value.float() for name, value in outputs.items()}
    return outputs.float()


def _out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a runtime error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

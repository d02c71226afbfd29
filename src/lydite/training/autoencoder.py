"""Train a tiny autoencoder on photographs, by the loop that trains everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lydite.card import Architecture, Card, Preprocess
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.detector import Detector, load_weights_
from lydite.errors import CardError, FileError
from lydite.files import digest, read_bytes, read_json, sha256_bytes, write_bytes, write_json
from lydite.models import Network
from lydite.models.autoencoder import AUTOENCODERS, TinyAutoencoder
from lydite.recipe import Context, Progress, silent
from lydite.training.batches import Batches
from lydite.training.checkpoint import CHECKPOINT_NAME
from lydite.training.loop import fit
from lydite.training.objectives import Objective
from lydite.training.settings import TrainSettings
from lydite.training.strata import Stratum

#: raised when equal settings would give other autoencoders than before
VERSION = 1
RECORD_NAME = "autoencoder.json"
WEIGHTS_NAME = "autoencoder.safetensors"
MAX_WEIGHTS_BYTES = 64 * 1024**2
#: side of the crops that are learned from, in pixels
CROP = 64
BATCH = 16
LEARNING_RATE = 2e-3

#: weights of the coarse picture, of every pixel, and of the strength of detail
COARSE, FINE, DETAIL = 1.0, 0.5, 0.05
#: side of the blocks whose frequencies are compared, and of the places over which strength is taken
BLOCK, PLACE = 8, 5
#: variance in [-1, 1] below which detail does not count: half a gray level
FAINT = (0.5 / 127.5) ** 2


def reconstruction() -> Objective:
    """Return the loss of an autoencoder against its own input.

    L1 on the picture scaled down by four and, with less weight, on every pixel; and for every
    frequency and place the difference of the logarithms of their power. The first two alone give a
    blurred picture, whose lack of detail would tell real from fake; the last asks for as much
    detail as the photograph has, wherever the small grid could not keep which.
    """
    basis: dict[torch.device, Tensor] = {}

    def power(x: Tensor) -> Tensor:
        kernels = basis.setdefault(x.device, _dct_kernels().to(x.device))
        waves = F.conv2d(x.flatten(0, 1)[:, None], kernels, stride=BLOCK // 2)
        return torch.log(F.avg_pool2d(waves**2, PLACE) + FAINT)

    def loss(outputs: Tensor, images: Tensor, _targets: Tensor) -> Tensor:
        coarse = F.l1_loss(F.avg_pool2d(outputs, 4), F.avg_pool2d(images, 4))
        detail = F.l1_loss(power(outputs), power(images))
        return COARSE * coarse + FINE * F.l1_loss(outputs, images) + DETAIL * detail

    return loss


def _dct_kernels() -> Tensor:
    """Return the orthonormal DCT-II of 8x8 blocks but for their mean, as kernels (63, 1, 8, 8)."""
    k, n = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)[None]
    rows = torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", rows, rows).reshape(-1, 1, BLOCK, BLOCK)[1:]


class PhotographBatches(Batches):
    """Batches of photographs alone, every one once an epoch; targets mean nothing."""

    def __init__(self, rows: Sequence[Row], settings: TrainSettings, seed: int) -> None:
        self.rows = list(rows)
        self.preprocess, self.settings, self.seed = Preprocess(size=CROP), settings, seed
        self.store = ImageStore()
        self.strata, self.pairs = [Stratum((np.arange(len(self.rows)),), (0,))], None
        self._orders = {}


def settings_of(steps: int) -> TrainSettings:
    """Return how autoencoders are trained."""
    return TrainSettings(
        steps=steps, batch=BATCH, lr=LEARNING_RATE, weight_decay=0.0, balance="none"
    )


def identity(name: str, steps: int) -> dict[str, Any]:
    """Return what makes a trained autoencoder the one it is, its photographs and seed apart.

    Raises:
        ConfigError: an unknown name.
    """
    AUTOENCODERS.get(name)
    settings = settings_of(steps).model_dump(mode="json", exclude={"checkpoint_s"})
    return {"kind": name, "version": VERSION, "train": settings}


def train_autoencoder(
    name: str,
    photographs: Manifest,
    steps: int,
    folder: Path,
    *,
    seed: int = 0,
    progress: Progress = silent,
    device: str = "auto",
) -> TinyAutoencoder:
    """Return a trained autoencoder; one that `folder` holds already is not trained again.

    Killed at any moment, the same call goes on where it stopped.

    Args:
        name: a key of `AUTOENCODERS`.
        photographs: what to learn from, at least 64 pixels a side; labels do not matter.
        steps: of training.
        folder: keeps weights, record and, until it is done, checkpoints.
        seed: of the start, the batches and the noise.
        progress: told about the work.
        device: "auto", "cpu" or "cuda".

    Raises:
        ConfigError: an unknown name.
        DataError: a photograph cannot be read.
        TrainingError: the loss is not finite.
    """
    network = AUTOENCODERS.get(name).build(seed)
    wanted = identity(name, steps) | {"seed": seed, "photographs": photographs.digest}
    if _is_there(folder, wanted):
        return load_autoencoder(folder)
    settings = settings_of(steps)
    batches = PhotographBatches(list(photographs.rows()), settings, seed)
    # the loop asks a detector for preprocessing and masks; there are no others here
    card = Card(
        name=name,
        architecture=Architecture(network=name, input_size=CROP),
        preprocess=batches.preprocess,
        key=digest(wanted),
    )
    holder = Detector(card, cast(Network, network))
    context = Context(photographs, photographs, seed, folder, progress, device, "float32")
    fitted = fit(network, reconstruction(), holder, settings, context, what=name, batches=batches)
    _save(folder, fitted.network, wanted, fitted.report)
    return fitted.network


def _save(folder: Path, network: nn.Module, wanted: dict[str, Any], report: dict[str, Any]) -> None:
    """Write weights, then the record that makes them count, then remove the checkpoint."""
    from safetensors.torch import save

    data = save({name: value.contiguous() for name, value in network.state_dict().items()})
    write_bytes(folder / WEIGHTS_NAME, data)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    record = wanted | {"parameters": parameters, "weights": sha256_bytes(data), "report": report}
    write_json(folder / RECORD_NAME, record)
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)


def _is_there(folder: Path, wanted: dict[str, Any]) -> bool:
    """Tell whether a folder holds the finished autoencoder that is wanted."""
    try:
        record = read_json(folder / RECORD_NAME)
    except FileError:
        return False
    return isinstance(record, dict) and record | wanted == record


def load_autoencoder(folder: Path) -> TinyAutoencoder:
    """Load a tiny autoencoder that was trained here or elsewhere.

    Raises:
        ConfigError: its kind is unknown to this version.
        CardError: record and weights do not fit together.
        FileError: unreadable.
    """
    record = read_json(folder / RECORD_NAME)
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise CardError(f"{folder / RECORD_NAME} is not the record of an autoencoder.")
    network = AUTOENCODERS.get(record["kind"]).build(0)
    data = read_bytes(folder / WEIGHTS_NAME, MAX_WEIGHTS_BYTES)
    if sha256_bytes(data) != record.get("weights"):
        raise CardError(
            f"{folder / WEIGHTS_NAME} is not the file its record describes. Delete the folder, "
            "and the autoencoder is trained again."
        )
    load_weights_(cast(Network, network), data, str(folder))
    return network.eval()

"""The autoencoders that twins are made with: our own tiny ones, earlier ones, and a folder's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lydite.data.align.crop import UNIT
from lydite.data.manifest import Manifest
from lydite.errors import ConfigError, unknown_name
from lydite.files import sha256_file
from lydite.models import local_autoencoder
from lydite.models.autoencoder import AUTOENCODERS
from lydite.recipe import Progress
from lydite.training import autoencoder as tiny

UInt8 = NDArray[np.uint8]

STEPS = range(1, 1_000_001)


@dataclass(frozen=True)
class Source:
    """One autoencoder as it was asked for, before it is trained or loaded.

    Attributes:
        name: of its domain and files.
        identity: what it is, as JSON.
        folder: where it lies; None for one that is trained here.
    """

    name: str
    identity: dict[str, Any]
    folder: Path | None


def find_sources(names: Sequence[str], steps: int) -> tuple[Source, ...]:
    """Return the autoencoders that names and folders stand for; nothing is loaded.

    Args:
        names: keys of `AUTOENCODERS`, folders of diffusers, or folders of autoencoders that an
            earlier call trained.
        steps: of training, for the first kind.

    Raises:
        ConfigError: an unknown name, a folder without an autoencoder, or two of one name.
        MissingDiffusersError: a folder of diffusers, and that is not installed.
    """
    if not names:
        raise ConfigError(f"`autoencoder` must name one at least, such as {next(iter(_known()))}.")
    if steps not in STEPS:
        raise ConfigError(f"`steps` must be from 1 to {STEPS[-1]:,}. Got {steps}.")
    sources = tuple(_source(name, steps) for name in names)
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise ConfigError(
                f"Two autoencoders are called '{name}', which becomes the name of a domain. "
                "Rename one folder, or name it once."
            )
    return sources


def _known() -> list[str]:
    return list(AUTOENCODERS)


def _source(name: str, steps: int) -> Source:
    """Return what one name or folder stands for."""
    if name in AUTOENCODERS:
        return Source(name, tiny.identity(name, steps), None)
    folder = Path(name)
    if not folder.is_dir():
        sentence = unknown_name("autoencoder", name, _known())
        raise ConfigError(f"{sentence} Or a folder with an autoencoder of diffusers.")
    called = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:40]
    called = called or "autoencoder"
    if (folder / tiny.RECORD_NAME).is_file():
        tiny.load_autoencoder(folder)
        weights = sha256_file(folder / tiny.WEIGHTS_NAME)
        return Source(called, {"kind": "tiny", "weights": weights}, folder)
    identity = local_autoencoder.describe(folder)
    local_autoencoder.require_diffusers()
    return Source(called, identity, folder)


class Reconstruction:
    """A network as the autoencoder that twins are made with."""

    def __init__(self, name: str, network: torch.nn.Module) -> None:
        self.name, self.network = name, network
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def __call__(self, rgb: UInt8, seed: int) -> UInt8:
        """Return decoder(encoder(rgb)): (S, S, 3) uint8 to the same."""
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            y = self.network(x)
        if y.shape != x.shape or not bool(torch.isfinite(y).all()):
            raise ConfigError(
                f"The autoencoder {self.name} answers {tuple(x.shape)} with {tuple(y.shape)} or "
                "with values that are not numbers. Use another."
            )
        levels = ((y[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def ready(
    source: Source,
    photographs: Manifest,
    steps: int,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    device: str,
) -> Reconstruction:
    """Train an autoencoder, or load it.

    Args:
        source: which.
        photographs: to learn from; the training split alone counts, where there is one.
        steps: of training.
        folder: keeps what was trained.
        seed: of training.
        progress: told about the work.
        device: to train on.

    Raises:
        LyditeError: it cannot be trained, loaded, or used on images of these sizes.
    """
    if source.folder is None:
        learn = photographs.select(split="train")
        trained = tiny.train_autoencoder(
            source.name,
            learn if len(learn) else photographs,
            steps,
            folder,
            seed=seed,
            progress=progress,
            device=device,
        )
        return Reconstruction(source.name, trained)
    if (source.folder / tiny.RECORD_NAME).is_file():
        return Reconstruction(source.name, tiny.load_autoencoder(source.folder))
    local = local_autoencoder.LocalAutoencoder(source.folder)
    if UNIT % local.factor:
        raise ConfigError(
            f"The autoencoder {source.name} takes sides that are multiples of {local.factor}; "
            f"crops are multiples of {UNIT}. Use one whose factor is at most {UNIT}."
        )
    return Reconstruction(source.name, local)

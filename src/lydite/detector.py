"""The detector: a card and a network in memory, a folder with the same two things on disk."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lydite import __version__
from lydite.card import (
    CARD_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Architecture,
    Card,
    Preprocess,
    file_entry,
    load_card,
)
from lydite.errors import CardError, FileError, LyditeError
from lydite.files import digest, publish_folder, read_bytes, write_bytes, write_json
from lydite.models import build
from lydite.models.contract import Network
from lydite.models.surgery import replay_

MAX_WEIGHTS_BYTES = 4 * 1024**3


def others_in(folder: Path) -> list[Path]:
    """Return what lies beside a detector's own files where a detector is to be written.

    Raises:
        FileError: the folder holds something, and no detector.
    """
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise FileError(f"Cannot read {folder}: {error.strerror or error}.") from error
    own = {CARD_NAME, WEIGHTS_NAME, ONNX_NAME}
    others = [entry for entry in entries if entry.name not in own]
    if not others:
        return []
    try:
        listed = load_card(folder, verify=False).files
    except LyditeError as error:
        raise FileError(
            f"{folder} is there already and is no detector. Name a new or empty folder."
        ) from error
    return [entry for entry in others if entry.name not in listed]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder as it is."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


@dataclass(frozen=True)
class Detector:
    """A network together with everything that is known about it.

    Attributes:
        card: what is known.
        network: the network, edits applied, on the CPU, in evaluation mode when loaded.
        files: further files that belong beside the card, such as an exported `model.onnx`.
    """

    card: Card
    network: Network
    files: dict[str, bytes] | None = None

    @classmethod
    def start(
        cls,
        architecture: Architecture,
        preprocess: Preprocess | None = None,
        *,
        seed: int = 0,
        name: str | None = None,
    ) -> Detector:
        """Return an untrained detector; equal arguments give equal weights.

        Raises:
            ConfigError: the network is unknown or does not take this input.
        """
        preprocess = preprocess or Preprocess(size=architecture.input_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(architecture)
        key = start_key(architecture, preprocess, seed)
        card = Card(
            name=name or architecture.network,
            architecture=architecture,
            preprocess=preprocess,
            key=key,
            seed=seed,
            versions=versions(),
        )
        return cls(card, network)

    def evolve(self, *, network: Network | None = None, **changes: Any) -> Detector:
        """Return this detector with a new network or card fields; exported files are dropped."""
        # the version is the lowest that can say what the new card says
        kept = self.card.model_dump(exclude={"version"})
        card = Card.model_validate(kept | {"files": {}} | changes)
        return Detector(card, network or self.network)

    def save(self, folder: Path) -> Detector:
        """Write `card.json`, `model.safetensors` and any exported files, all at once or not at all.

        A detector that is there is replaced; what else lies in its folder stays.

        Returns:
            The detector with the file digests in its card.

        Raises:
            FileError: the folder cannot be written, or is one of something else.
        """
        from safetensors.torch import save as to_safetensors

        tensors = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        files = {WEIGHTS_NAME: to_safetensors(tensors)} | (self.files or {})
        entries = {name: file_entry(data) for name, data in files.items()}
        card = self.card.model_copy(update={"files": entries})
        kept = others_in(folder)
        with publish_folder(folder) as temporary:
            for entry in kept:
                _copy(entry, temporary / entry.name)
            for name, data in files.items():
                write_bytes(temporary / name, data)
            write_json(temporary / CARD_NAME, card.to_json())
        return replace(self, card=card)

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """Rebuild a detector from its folder; every digest, name, shape and value is checked.

        Raises:
            CardError: card, digests or weights do not fit together.
            FileError: unreadable.
        """
        card = load_card(folder)
        if WEIGHTS_NAME not in card.files:
            raise CardError(f"{folder} holds no {WEIGHTS_NAME}: it can predict, not be changed.")
        with torch.random.fork_rng(devices=[]):  # the fresh weights are thrown away
            network = build(card.architecture)
        replay_(network, card.edits)
        load_weights_(network, read_bytes(folder / WEIGHTS_NAME, MAX_WEIGHTS_BYTES), str(folder))
        network.eval()
        extra = {
            name: read_bytes(folder / name, MAX_WEIGHTS_BYTES)
            for name in card.files
            if name != WEIGHTS_NAME
        }
        return cls(card, network, extra or None)


def load_weights_(network: Network, data: bytes, where: str) -> None:
    """Load safetensors bytes into a network, in place.

    Raises:
        CardError: not safetensors, or a tensor is missing, extra, of another shape or type, or
            holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_safetensors

    try:
        tensors = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CardError(f"The weights of {where} are not valid safetensors: {error}.") from error
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise CardError(
            f"The weights of {where} do not fit its card: missing {missing[:3]}, extra {extra[:3]}."
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise CardError(
                f"The weights of {where} do not fit its card: {name} is "
                f"{tuple(tensor.shape)} {tensor.dtype}, the network wants "
                f"{tuple(wanted[name].shape)} {wanted[name].dtype}."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CardError(f"The weights of {where} hold NaN or infinity in {name}.")
    network.load_state_dict(tensors)


def start_key(architecture: Architecture, preprocess: Preprocess, seed: int) -> str:
    """Return the cache key of an untrained detector."""
    return digest(
        {
            "architecture": architecture.model_dump(mode="json"),
            "preprocess": preprocess.model_dump(mode="json"),
            "seed": seed,
        }
    )


def versions() -> dict[str, str]:
    """Return the versions that a card or result records."""
    import numpy
    import PIL

    return {
        "lydite": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
    }

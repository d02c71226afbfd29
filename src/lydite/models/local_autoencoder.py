"""Autoencoders of the diffusers library, from a folder on this machine.

Nothing is downloaded and no pickle is read: a folder with `config.json` and safetensors weights,
or nothing. diffusers is no part of Lydite's extras; whoever has such a folder has it already.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lydite.errors import ConfigError, LyditeError
from lydite.files import read_json, sha256_file

#: classes of diffusers whose input and output are images in [-1, 1]
CLASSES = ("AutoencoderTiny", "AutoencoderKL")
CONFIG_NAME = "config.json"
WEIGHTS = "*.safetensors"


class MissingDiffusersError(LyditeError):
    """A local autoencoder needs the library diffusers, which is not installed."""

    code = "missing-extra"

    def __init__(self) -> None:
        super().__init__(
            "An autoencoder from a folder needs diffusers, which is not installed. "
            "Install it with: pip install diffusers"
        )


def describe(folder: Path) -> dict[str, Any]:
    """Return the class and the digests of the files of an autoencoder, without loading it.

    Raises:
        ConfigError: not a diffusers autoencoder, or without safetensors weights.
        FileError: unreadable.
    """
    config_path = folder / CONFIG_NAME
    if not config_path.is_file():
        inner = folder / "vae"
        hint = f" Use {inner}." if (inner / CONFIG_NAME).is_file() else ""
        raise ConfigError(
            f"`autoencoder` {folder} has no {CONFIG_NAME}: it is no diffusers folder.{hint}"
        )
    config = read_json(config_path)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind not in CLASSES:
        raise ConfigError(
            f"`autoencoder` {folder} is of the class {kind!r}. Allowed: {', '.join(CLASSES)}."
        )
    weights = sorted(path for path in folder.glob(WEIGHTS) if path.is_file())
    if not weights:
        raise ConfigError(
            f"`autoencoder` {folder} has no safetensors weights, and pickled ones (.bin, .pt) can "
            "run code when they are read: they are never loaded. Convert them first."
        )
    files = {path.name: sha256_file(path) for path in (config_path, *weights)}
    return {"kind": kind, "files": files}


def require_diffusers() -> Any:
    """Return the library.

    Raises:
        MissingDiffusersError: it is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingDiffusersError from error


class LocalAutoencoder(nn.Module):
    """An autoencoder of diffusers; `forward` takes (N, 3, H, W) in [-1, 1] and returns the same.

    Args:
        folder: with configuration and weights.

    Attributes:
        factor: side of an image over the side of what it is encoded to.

    Raises:
        MissingDiffusersError: diffusers is not installed.
        ConfigError: the folder does not hold what it should.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        kind = describe(folder)["kind"]
        try:
            self.inner = getattr(require_diffusers(), kind).from_pretrained(
                str(folder.resolve()),
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=torch.float32,
            )
        except MissingDiffusersError:
            raise
        except Exception as error:  # whatever diffusers finds wrong
            raise ConfigError(f"`autoencoder` {folder} cannot be loaded: {error}") from error
        self.inner.eval()
        with torch.inference_mode():
            probe = torch.zeros(1, 3, 64, 64)
            self.factor = probe.shape[-1] // self.encode(probe).shape[-1]

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents, the most likely ones where the encoder gives a distribution."""
        encoded = self.inner.encode(x)
        if hasattr(encoded, "latent_dist"):
            return torch.as_tensor(encoded.latent_dist.mode())
        return torch.as_tensor(encoded.latents)

    def forward(self, x: Tensor) -> Tensor:
        """Return decoder(encoder(x))."""
        return torch.as_tensor(self.inner.decode(self.encode(x)).sample)

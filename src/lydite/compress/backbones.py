"""A large frozen network as a teacher: timm's shape, the user's weights, a fitted logistic head.

Linear probes of large pretrained networks tell generated images of generators that they never met
better than what is trained from scratch (Ojha et al. 2023, "UnivFD", arXiv 2302.10174); a small
student can take that over. Nothing is downloaded: the weights are a file of the user's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from lydite.card import Preprocess
from lydite.config import Frozen
from lydite.data.decode import decode
from lydite.data.manifest import Manifest
from lydite.data.preprocess import prepare
from lydite.errors import ConfigError, FileError
from lydite.export.calibration import balanced_sample
from lydite.files import read_bytes, sha256_file
from lydite.models.contract import Network
from lydite.models.timm import import_timm
from lydite.recipe import Context
from lydite.training.device import autocast_for, number_format

WEIGHTS_FILE = "model.safetensors"
MAX_WEIGHTS_BYTES = 16 * 1024**3


class Backbone(Frozen):
    """A teacher made of a pretrained network that stays frozen, and a head fitted on its features.

    Attributes:
        timm: name of the network in timm; CLIP's and DINO's image towers are among them, such as
            "vit_base_patch16_clip_224.openai" or "vit_small_patch14_dinov2". The tag behind the
            point says which checkpoint it is; it is only needed where timm's checkpoints of a
            network want their input normalized in different ways.
        weights: a `.safetensors` file with the names that timm gives the tensors, or a folder that
            holds one called `model.safetensors`, as timm's models on the Hugging Face hub do.
        images: how many training images the head is fitted on, half of each class.
        regularization: inverse strength C of the head's L2 penalty, as in scikit-learn.
    """

    timm: Annotated[str, Field(min_length=1)]
    weights: Path
    images: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    regularization: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    @field_validator("weights")
    @classmethod
    def _no_pickle(cls, value: Path) -> Path:
        if value.suffix and value.suffix != ".safetensors":
            raise ValueError(
                f"weights must be a .safetensors file, which runs no code when read; got {value}"
            )
        return value

    @property
    def file(self) -> Path:
        """The file with the weights."""
        return self.weights / WEIGHTS_FILE if self.weights.is_dir() else self.weights

    @property
    def digest(self) -> str:
        """SHA-256 of the weights.

        Raises:
            FileError: there is no such file.
        """
        if not self.file.is_file():
            raise FileError(
                f"The teacher {self.timm} has no weights at {self.file}. Nothing is downloaded: "
                "put the file there, or name another with `weights`."
            )
        status = self.file.stat()
        return _sha256(self.file, status.st_size, status.st_mtime_ns)

    def require(self) -> None:
        """Refuse a network that timm does not know, or weights that are not there.

        Raises:
            ConfigError: timm has no such network or checkpoint, or it is not clear which is meant.
            FileError: there are no weights.
            MissingExtraError: timm is not installed.
        """
        _described(self.timm)
        _ = self.digest


class Probe(Network):
    """A frozen network that gives features, and a linear head on them.

    Args:
        model: (N, 3, S, S) to features (N, D).
        width: D.
        size: S in pixels; what comes in is scaled to it, bilinear.
        preprocess: what the input of the probe was normalized with.
        mean: what the model wants to be subtracted instead, on the 0..1 scale.
        std: and what to divide by.
    """

    family = "backbone"
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        width: int,
        size: int,
        preprocess: Preprocess,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.linear = nn.Linear(width, 2)
        ours, theirs = torch.tensor(preprocess.std), torch.tensor(std)
        offset = (torch.tensor(preprocess.mean) - torch.tensor(mean)) / theirs
        self.register_buffer("scale", (ours / theirs).view(1, 3, 1, 1))
        self.register_buffer("shift", offset.view(1, 3, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        """Return the model's features (N, D) of (N, 3, s, s)."""
        x = x * self.scale + self.shift
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return self.model(x)  # type: ignore[no-any-return]

    def head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits."""
        return self.linear(features)  # type: ignore[no-any-return]


def probe_of(backbone: Backbone, preprocess: Preprocess, context: Context) -> Probe:
    """Return a teacher whose head is fitted on the training images.

    Args:
        backbone: which network.
        preprocess: of the student.
        context: gives images and seed, and is told about the work.

    Raises:
        ConfigError: timm does not know the network, or the weights are of another.
        DataError: the training images lack a class.
        DecodeError: one of them cannot be read.
        FileError: there are no weights.
        MissingExtraError: timm is not installed.
    """
    probe = load_probe(backbone, preprocess)
    device = torch.device(number_format()[0] if context.device == "auto" else context.device)
    probe.to(device)
    images = balanced_sample(context.train, backbone.images, context.seed)
    features: list[NDArray[np.float64]] = []
    targets: list[int] = []
    for tiles, target in _tiles(images, preprocess, context, backbone.timm):
        with torch.no_grad(), autocast_for(device, probe):
            seen = probe.features(torch.from_numpy(tiles).to(device))
        features.append(seen.double().cpu().numpy())
        targets += [target] * len(tiles)
    fit_head_(probe.linear, np.concatenate(features), np.array(targets), backbone.regularization)
    return probe.cpu()


def load_probe(backbone: Backbone, preprocess: Preprocess) -> Probe:
    """Return a backbone with the user's weights, in evaluation mode, its head not fitted yet.

    Raises:
        ConfigError: see `probe_of`.
        FileError: see `probe_of`.
        MissingExtraError: see `probe_of`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    backbone.require()
    timm = import_timm()
    model = timm.create_model(backbone.timm, pretrained=False, num_classes=0)
    try:
        tensors = load(read_bytes(backbone.file, MAX_WEIGHTS_BYTES))
        missing = model.load_state_dict(tensors, strict=False).missing_keys
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(
            f"{backbone.file} holds no weights of {backbone.timm}: {error}. "
            "Name the file that belongs to this network."
        ) from error
    if missing:
        raise ConfigError(
            f"{backbone.file} lacks {len(missing)} tensors of {backbone.timm}, first "
            f"{missing[0]!r}. It belongs to another network, or is not in timm's own names."
        )
    described = _described(backbone.timm)
    size = int(described.input_size[-1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    width = _width(model.eval(), size, backbone.timm)
    return Probe(model, width, size, preprocess, described.mean, described.std).eval()


def fit_head_(
    linear: nn.Linear, features: NDArray[np.float64], targets: NDArray[Any], regularization: float
) -> None:
    """Fit logistic regression on standardized features, and fold the scaling in, in place.

    Args:
        linear: D to 2.
        features: (N, D).
        targets: (N,), 1 for fake and 0 for real.
        regularization: C of scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(0), features.std(0)
    std[std == 0] = 1
    fitted = LogisticRegression(C=regularization, max_iter=1000)
    fitted.fit((features - mean) / std, targets)
    weight = fitted.coef_[0] / std
    bias = float(fitted.intercept_[0] - weight @ mean)
    with torch.no_grad():
        # half on either side, so that the difference of the logits is the log-odds
        linear.weight.copy_(torch.from_numpy(np.stack([-weight, weight]) / 2))
        linear.bias.copy_(torch.tensor([-bias, bias]) / 2)


def _described(name: str) -> Any:
    """Return what timm knows of a network's checkpoint: its `input_size`, `mean` and `std`.

    Raises:
        ConfigError: timm has no such network or checkpoint, or the name has no tag and the
            network's checkpoints want different normalizations.
        MissingExtraError: timm is not installed.
    """
    timm = import_timm()
    network, _, tag = name.partition(".")
    if network not in timm.list_models():
        raise ConfigError(
            f"The teacher {name!r} is no network of timm {timm.__version__}. "
            "`timm.list_models()` in Python shows all."
        )
    known = {full: timm.get_pretrained_cfg(full) for full in timm.list_pretrained(f"{network}.*")}
    tags = ", ".join(sorted(full.partition(".")[2] for full in known))
    if tag:
        if name not in known:
            raise ConfigError(
                f"timm {timm.__version__} knows no checkpoint {tag!r} of {network}. "
                f"It knows: {tags or 'none'}."
            )
        return known[name]
    if len({(tuple(cfg.mean), tuple(cfg.std)) for cfg in known.values()}) > 1:
        raise ConfigError(
            f"Checkpoints of {network} want their input normalized in different ways. Say which "
            f"one your weights are, as in '{network}.{tags.partition(',')[0]}': {tags}."
        )
    return timm.get_pretrained_cfg(network)


def _width(model: nn.Module, size: int, name: str) -> int:
    """Return how many features a model gives."""
    with torch.no_grad():
        shape = tuple(model(torch.zeros(1, 3, size, size)).shape)
    if len(shape) != 2:
        raise ConfigError(
            f"The teacher {name} gives features of shape {shape}, not one vector an image. "
            "Use another network of timm."
        )
    return int(shape[1])


def _tiles(
    images: Manifest, preprocess: Preprocess, context: Context, name: str
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield the tiles of each image, preprocessed, with its target."""
    for done, row in enumerate(images.rows(), start=1):
        yield prepare(decode(row.file), preprocess), row.target
        context.progress(f"teacher {name}", done, len(images), "fitting its head")


@functools.lru_cache(maxsize=64)
def _sha256(file: Path, _size_bytes: int, _mtime_ns: int) -> str:
    """Return the digest of a file, computed once as long as it stays the same."""
    return sha256_file(file)

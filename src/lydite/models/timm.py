"""Any network of timm by name, behind our contract. It needs the extra `timm`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from types import ModuleType
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lydite.card import Architecture
from lydite.config import Frozen, validate
from lydite.errors import ConfigError, MissingExtraError
from lydite.models.contract import ChannelGroup, Network

#: the schemas that a compiled torchvision registers and its Python half expects
_TORCHVISION_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
#: a definition lives as long as the library object that made it
_definitions: list[torch.library.Library] = []


class TimmConfig(Frozen):
    """Further arguments of a network of timm.

    Attributes:
        drop_rate: dropout before the last layer.
    """

    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TimmNetwork(Network):
    """A network of timm with two classes; its channel groups come out of a trace.

    Args:
        model: from `timm.create_model`.
        size: side of the input in pixels.
    """

    family = "timm"

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model = model
        self.traced_size = size
        # what timm says of the networks whose maps end in their channels (swin, mambaout)
        self._channels_last = getattr(model, "output_fmt", None) == "NHWC"
        # groups of the network with these shapes; other shapes are traced anew
        self._traced: tuple[tuple[torch.Size, ...], tuple[ChannelGroup, ...]] | None = None

    def features(self, x: Tensor) -> Tensor:
        """Return timm's features: (N, C, h, w), for transformers of tokens (N, tokens, C)."""
        features = self._features(x)
        return features.permute(0, 3, 1, 2) if self._is_last(features) else features

    def head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits from the features."""
        return self._head(features.permute(0, 2, 3, 1) if self._is_last(features) else features)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2) logits for (N, 3, S, S) input, without turning a map there and back."""
        return self._head(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        """Return the features in timm's own order of dimensions."""
        return self.model.forward_features(x)  # type: ignore[operator,no-any-return]

    def _head(self, features: Tensor) -> Tensor:
        """Return (N, 2) logits from features in timm's own order."""
        return self.model.forward_head(features)  # type: ignore[operator,no-any-return]

    def _is_last(self, features: Tensor) -> bool:
        """Tell whether the channels of these features are last in timm's own order."""
        return self._channels_last and features.dim() == 4

    def head_modules(self) -> list[str]:
        """Return the layers that timm itself calls the classifier; empty where it names none."""
        if not hasattr(self.model, "get_classifier"):
            return []
        found = self.model.get_classifier()  # type: ignore[operator]
        layers = found if isinstance(found, tuple) else (found,)
        return [name for name, module in self.named_modules() if any(module is m for m in layers)]

    def groups(self) -> list[ChannelGroup]:
        """Return the traced channel groups, called like the layers that make the channels.

        Raises:
            ConfigError: this network cannot be traced, or nothing of it can be cut.
            MissingExtraError: torch-pruning is not installed.
        """
        from lydite.models.dependency import traced_groups

        shapes = tuple(value.shape for value in self.state_dict().values())
        if self._traced is None or self._traced[0] != shapes:
            self._traced = (shapes, tuple(traced_groups(self)))
        return list(self._traced[1])


def build_timm(architecture: Architecture) -> Network:
    """Return a network of timm with fresh weights; nothing is downloaded.

    Args:
        architecture: its `network` is "timm/<name>".

    Raises:
        ConfigError: timm knows no such name, or the network does not take this input.
        MissingExtraError: timm is not installed.
    """
    timm = import_timm()
    name = architecture.network.partition("/")[2]
    config: TimmConfig = validate(
        TimmConfig, architecture.config, f"`config` of {architecture.network}"
    )
    # A name with a colon is an address from which timm would download; the list holds none.
    if name not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise ConfigError(
            f"timm {timm.__version__} has no network '{name}'.{hint} "
            "`timm.list_models()` in Python shows all."
        )
    network = TimmNetwork(
        _create(timm, name, architecture.input_size, config), architecture.input_size
    )
    _require_runs(network, architecture)
    return network


def import_timm() -> ModuleType:
    """Return timm, after mending a torchvision that cannot load its compiled half.

    Raises:
        MissingExtraError: timm is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError("timm", "timm")
    mend_torchvision()
    return importlib.import_module("timm")


def mend_torchvision() -> None:
    """Define the operators that torchvision's Python half expects, if nothing else does.

    A torchvision built for another torch does not load its compiled operators, and its import then
    stops at a missing schema. timm uses none of these operators. Where the import succeeds nothing
    is defined.
    """
    if _definitions or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator, schema in _TORCHVISION_SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, operator):
                library.define(schema)  # type: ignore[no-untyped-call]
        _definitions.append(library)
        importlib.import_module("torchvision")


def _create(timm: ModuleType, name: str, size: int, config: TimmConfig) -> nn.Module:
    """Return timm's module for two classes and color input of this size."""
    arguments: dict[str, Any] = {
        "pretrained": False,
        "num_classes": 2,
        "in_chans": 3,
        "drop_rate": config.drop_rate,
    }
    described = timm.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        arguments["img_size"] = size
    try:
        model: nn.Module = timm.create_model(name, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"timm cannot make '{name}' for {size} px and two classes: {error}. "
            "Use another size or network."
        ) from error
    return model


def _require_runs(network: TimmNetwork, architecture: Architecture) -> None:
    """Refuse a network that does not give two logits for this input."""
    size = architecture.input_size
    network.eval()
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"{architecture.network} does not run on {size} px: {error}. Use another size."
        ) from error
    if shape != (1, 2):
        raise ConfigError(
            f"{architecture.network} gives {shape} instead of two logits. Use another network."
        )
    network.train()

"""What a recipe says of factorizing: which layers, by which methods, to which ranks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from torch import nn

from lydite.compress.prune import require_fraction
from lydite.compress.ranks import Layer
from lydite.config import Frozen
from lydite.errors import ConfigError, unknown_name
from lydite.models.contract import ADAPTERS_NAME, Network
from lydite.models.factorized import Factorized, Method, why_whole

Which = Literal["all", "linear", "conv"] | tuple[str, ...]
Choice = Literal["auto", "svd", "tucker2", "spatial"]
#: in the order of preference where nothing else decides
METHODS: tuple[Method, ...] = ("tucker2", "svd", "spatial")
COLORS, CLASSES = 3, 2


class Energy(Frozen):
    """Of every layer keep this share of the squared singular values, at least."""

    energy: Annotated[float, Field(gt=0, lt=1)]


class LayerRate(Frozen):
    """Of every layer remove this share of the weights, at least."""

    rate: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("factorize", value, "weights of each layer")


def _kind_of_rank(value: Any) -> str | None:
    """Return the tag of a rank's form."""
    if isinstance(value, Energy | LayerRate):
        return "energy" if isinstance(value, Energy) else "rate"
    if isinstance(value, dict):
        return next((key for key in ("energy", "rate") if key in value), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return "number"
    return "vbmf" if value == "vbmf" else None


Rank = Annotated[
    Annotated[Energy, Tag("energy")]
    | Annotated[LayerRate, Tag("rate")]
    | Annotated[Literal["vbmf"], Tag("vbmf")]
    | Annotated[int, Field(ge=1), Tag("number")],
    Discriminator(
        _kind_of_rank,
        custom_error_type="rank",
        custom_error_message="must be a number from 1 up, {energy: 0.9}, {rate: 0.75} or vbmf",
    ),
]


def find_layers(network: Network, which: Which, method: Choice) -> list[Layer]:
    """Return the layers to factorize, each with the methods that it may take.

    Args:
        network: any.
        which: "all", "linear" or "conv" leave alone what reads the three colors and what writes
            the two logits, where little is won and much is lost; names are taken as they are.
        method: for kernels larger than 1x1; linear layers and 1x1 convolutions know "svd" alone.

    Raises:
        ConfigError: a name is unknown or cannot be factorized, or no layer is left.
    """
    found = _named(network, which) if isinstance(which, tuple) else _suitable(network, which)
    if not found:
        raise ConfigError(
            f"`factorize` finds nothing to split in this network of {network.family} "
            f"(`layers`: {which}): it takes ordinary convolutions and linear layers that are not "
            "split yet, do not read the image itself and do not write the logits. "
            "Choose other `layers`, or use `prune`."
        )
    return [Layer(name, module, _methods(module, method)) for name, module in found.items()]


def _whole_layers(network: Network) -> dict[str, nn.Module]:
    """Return every convolution, linear layer and split layer by name, without any factors.

    Adapters are small already and stay whole.
    """
    kinds = (nn.Conv2d, nn.Linear, Factorized)
    named = {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
    split = {name for name, module in named.items() if isinstance(module, Factorized)}
    return {
        name: module
        for name, module in named.items()
        if name.rpartition(".")[0] not in split and not name.startswith(f"{ADAPTERS_NAME}.")
    }


def _suitable(network: Network, which: str) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return what can be split of a kind, but for the first and the last layers."""
    found = {}
    for name, module in _whole_layers(network).items():
        if why_whole(module) is not None:
            continue
        assert isinstance(module, nn.Conv2d | nn.Linear)
        linear = isinstance(module, nn.Linear)
        outputs, inputs = module.weight.shape[:2]
        if outputs == CLASSES or (not linear and inputs == COLORS):
            continue
        if which == "all" or linear == (which == "linear"):
            found[name] = module
    return found


def _named(network: Network, names: tuple[str, ...]) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return layers by name."""
    known, found = _whole_layers(network), {}
    for name in names:
        if name not in known:
            raise ConfigError(f"`layers` of factorize: {unknown_name('layer', name, known)}")
        module = known[name]
        reason = why_whole(module)
        if reason is not None:
            raise ConfigError(f"`layers` of factorize: '{name}' cannot be split: it {reason}.")
        assert isinstance(module, nn.Conv2d | nn.Linear)
        found[name] = module
    return found


def _methods(module: nn.Conv2d | nn.Linear, method: Choice) -> tuple[Method, ...]:
    """Return the methods that a layer may take."""
    if module.weight[0, 0].numel() == 1:
        return ("svd",)
    return METHODS if method == "auto" else (method,)

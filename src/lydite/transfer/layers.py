"""Which parameters a transfer trains: pure functions of a network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lydite.config import Frozen
from lydite.errors import ConfigError
from lydite.models.contract import ADAPTERS_NAME, Network, adapter_key

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
Count = Annotated[int, Field(ge=1)]


class First(Frozen):
    """So many stages from the input side, without the head."""

    first: Count


class Last(Frozen):
    """So many stages before the head, and the head."""

    last: Count


def _form(value: Any) -> str | None:
    """Return the tag of the form in which layers are chosen."""
    if isinstance(value, First | Last):
        return "first" if isinstance(value, First) else "last"
    if isinstance(value, dict):
        return next((key for key in ("first", "last") if key in value), None)
    return "word" if value in ("all", "head", "norms") else None


#: "head": what makes logits of features; "norms": scale and shift of every norm
Layers = Annotated[
    Annotated[Literal["all", "head", "norms"], Tag("word")]
    | Annotated[First, Tag("first")]
    | Annotated[Last, Tag("last")],
    Discriminator(
        _form,
        custom_error_type="layers",
        custom_error_message="must be all, head, norms, {first: 2} or {last: 2}",
    ),
]


def parameters_of(network: Network, layers: Layers) -> frozenset[str]:
    """Return the names of the parameters that belong to chosen layers.

    Args:
        network: any; stays as it is.
        layers: which.

    Raises:
        ConfigError: the network has no such layers.
    """
    if layers == "all":
        return frozenset(name for name, _ in network.named_parameters())
    if isinstance(layers, First | Last):
        return _stages(network, layers)
    owners = network.head_modules() if layers == "head" else _norms(network)
    found = frozenset(
        f"{owner}.{name}"
        for owner in owners
        for name, _ in network.get_submodule(owner).named_parameters()
    )
    if not found:
        raise ConfigError(
            f"This network of {network.family} has no {layers} to train alone. "
            "Use other layers, or `all`."
        )
    return found


def parts_of(network: Network) -> list[frozenset[str]]:
    """Return the names of the parameters of each stage, input side first, and of the head.

    To a stage belongs what lies behind the stage before it, up to its own end and the adapter
    there.
    """
    stages = network.stages()
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    keys = [f"{ADAPTERS_NAME}.{adapter_key(stage)}" for stage in stages]
    parts: list[set[str]] = [set() for _ in (*stages, "head")]
    for parameter, _ in network.named_parameters():
        owner = parameter.rpartition(".")[0]
        ends = keys if owner.startswith(f"{ADAPTERS_NAME}.") else stages
        part = next(
            (
                index
                for index, end in enumerate(ends)
                if f"{owner}.".startswith(f"{end}.")
                or (ends is stages and order[owner] < order[end])
            ),
            len(stages),
        )
        parts[part].add(parameter)
    return [frozenset(part) for part in parts]


def _stages(network: Network, layers: First | Last) -> frozenset[str]:
    """Return the parameters of the first or the last stages."""
    parts = parts_of(network)
    most = len(parts) - 1
    word, count = ("first", layers.first) if isinstance(layers, First) else ("last", layers.last)
    if most == 0:
        raise ConfigError(
            f"Networks of {network.family} do not say what their stages are, so `{word}` cannot "
            "be counted. Use `layers: head`, `norms` or `all`."
        )
    if count > most:
        raise ConfigError(
            f"`{word}` must be 1 to {most}, the number of stages of this network. Got {count}."
        )
    chosen = parts[:count] if word == "first" else parts[most - count :]
    return frozenset().union(*chosen)


def _norms(network: Network) -> list[str]:
    """Return the norms that have something to learn, by name."""
    return [name for name, module in network.named_modules() if isinstance(module, _NORMS)]

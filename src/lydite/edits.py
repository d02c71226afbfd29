"""Structural edits of a network, as data: what a card records and `models.surgery` replays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lydite.config import Frozen


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse channel numbers that are not ascending."""
    if any(b <= a for a, b in zip(value, value[1:], strict=False)):
        raise ValueError("channels to keep must be ascending and different")
    return value


Channels = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_ascending)
]


class KeepChannels(Frozen):
    """A structural edit: of a channel group keep these channels, in this order."""

    op: Literal["keep_channels"] = "keep_channels"
    group: str
    keep: Channels


class Slice(Frozen):
    """Where a group's channels lie in one tensor.

    Attributes:
        tensor: name in the network's state dict.
        dim: which dimension.
        repeat: how many consecutive entries belong to one channel.
        offset: where the group's entries begin along `dim`.
    """

    tensor: str
    dim: Annotated[int, Field(ge=0, le=7)]
    repeat: Annotated[int, Field(ge=1)] = 1
    offset: Annotated[int, Field(ge=0)] = 0


class KeepSlices(Frozen):
    """A structural edit that carries its channel group with it.

    It serves networks whose groups come out of a trace: rebuilding one takes neither the trace nor
    the library that made it.

    Attributes:
        group: the group's name, for people.
        size: how many channels it has before this edit.
        slices: every tensor dimension that runs along them.
        keep: channels to keep, in this order.
    """

    op: Literal["keep_slices"] = "keep_slices"
    group: str
    size: Annotated[int, Field(ge=1)]
    slices: Annotated[tuple[Slice, ...], Field(min_length=1)]
    keep: Channels


class MaskWeights(Frozen):
    """A note that these weights hold zeros which further training must keep (no size changes)."""

    op: Literal["mask_weights"] = "mask_weights"
    parameters: tuple[str, ...]


class FactorizeLinear(Frozen):
    """A structural edit: a linear layer becomes two, "reduce" to `rank` features and "expand".

    Attributes:
        layer: the layer's name in the network, such as "classifier.fc1".
        rank: features between the two.
        bottleneck: what lies between: nothing, or a ReLU and a dropout (the paper's variant).
        dropout: probability of that dropout.
    """

    op: Literal["factorize_linear"] = "factorize_linear"
    layer: str
    rank: Annotated[int, Field(ge=1)]
    bottleneck: Literal["none", "relu-dropout"] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FactorizeConv(Frozen):
    """A structural edit: a convolution becomes two or three smaller ones in a row.

    Attributes:
        layer: the layer's name in the network, such as "body.conv3".
        method: "svd" (the kernel to `ranks[0]` channels, then 1x1), "tucker2" (1x1 to `ranks[0]`
            channels, the kernel to `ranks[1]`, 1x1) or "spatial" (a column of the kernel to
            `ranks[0]` channels, then a row).
        ranks: channels between the factors.
    """

    op: Literal["factorize_conv"] = "factorize_conv"
    layer: str
    method: Literal["svd", "tucker2", "spatial"]
    ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def _as_many_ranks_as_gaps(self) -> FactorizeConv:
        wanted = 2 if self.method == "tucker2" else 1
        if len(self.ranks) != wanted:
            raise ValueError(f"{self.method} has {wanted} rank(s), not {len(self.ranks)}")
        return self


AdapterKind = Literal["separable", "residual-separable", "bottleneck", "lora", "affine", "linear"]
#: kinds that go through fewer channels, `rank` of them
RANKED: frozenset[AdapterKind] = frozenset({"bottleneck", "lora"})


class AddAdapter(Frozen):
    """A structural edit: a small module that takes and gives the channels of one place.

    Attributes:
        after: where it goes, a stage of the network such as "body.relu4".
        kind: which module, see `lydite.models.adapter`.
        channels: how many the place has when the adapter is added.
        rank: channels inside, for the kinds that have fewer there.
    """

    op: Literal["add_adapter"] = "add_adapter"
    after: str
    kind: AdapterKind
    channels: Annotated[int, Field(ge=1)]
    rank: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _rank_where_there_is_one(self) -> AddAdapter:
        if (self.kind in RANKED) != (self.rank is not None):
            has = "needs a `rank`" if self.kind in RANKED else "has no `rank`"
            raise ValueError(f"the adapter {self.kind} {has}")
        if self.rank is not None and self.rank > self.channels:
            raise ValueError(
                f"the `rank` of an adapter must be 1 to its {self.channels} channels. "
                f"Got {self.rank}"
            )
        return self


Factorization = FactorizeLinear | FactorizeConv
Edit = Annotated[
    KeepChannels | KeepSlices | MaskWeights | Factorization | AddAdapter, Field(discriminator="op")
]

"""The step `factorize`: layers become products of smaller ones (the paper's LRF, and more)."""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from lydite.card import ScoreMeaning
from lydite.compress.layers import Choice, Energy, Rank, Which, find_layers
from lydite.compress.prune import WHY_TRAINED, require_fraction
from lydite.compress.ranks import Report
from lydite.compress.splitting import choose_splits, choose_splits_by_rate, edit_of, factorize_
from lydite.detector import Detector
from lydite.edits import Factorization, FactorizeLinear
from lydite.errors import ConfigError
from lydite.models.contract import Network
from lydite.models.cost import count_macs, count_parameters
from lydite.models.factorized import full_ranks
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.train import require_trained

PAPER_RANK = 6
PAPER_DROPOUT = 0.5
#: where neither `rate` nor `rank` is given
DEFAULT_RANK = Energy(energy=0.9)


@STEPS.add("factorize")
class Factorize(Step):
    """Put products of smaller layers in the place of large ones, by singular values.

    The simplest use is `factorize: {rate: 0.6}`; without an option it keeps nine tenths of the
    energy of every layer. A layer whose factors would not be smaller stays as it is, and so do
    depthwise convolutions, the one that reads the three colors and the one that writes the logits.
    Answers change a lot at high rates, so a `finetune` belongs behind it. `prune` may follow: it
    removes channels and lowers ranks alike.

    `variant: paper` is the paper's LRF: the first linear layer by truncated SVD, with a ReLU and a
    dropout between the two factors. Because of the ReLU it does not give the network back even at
    full rank; it is a new bottleneck that starts from the singular vectors.

    Attributes:
        rate: share of the detector's parameters to remove, in (0, 1); at least this much goes, at
            one energy for all layers. Either this or `rank`.
        rank: how the rank of each layer is chosen: {energy: 0.9} keeps this share of the squared
            singular values at least, {rate: 0.75} removes this share of each layer's weights at
            least (layers too small for that stay whole), "vbmf" keeps what stands out of the noise
            (Nakajima et al. 2013), a number is the rank itself (6 by default with `variant:
            paper`).
        method: for kernels larger than 1x1: "tucker2" (1x1, the kernel between fewer channels,
            1x1), "svd" (the kernel to fewer channels, 1x1), "spatial" (a column, a row), or "auto":
            whichever is smallest at the same energy, and tucker2 with "vbmf" or a number.
        layers: "all", "linear", "conv", or names of layers such as "body.conv3".
        sweeps: improvements of a tucker2 by HOOI.
        variant: "plain", or "paper".
        dropout: of the paper's variant, 0.5 by default.
    """

    kind: ClassVar[str] = "factorize"

    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    rank: Rank | None = None
    method: Choice = "auto"
    layers: Which = "all"
    sweeps: Annotated[int, Field(ge=0, le=20)] = 2
    variant: Literal["plain", "paper"] = "plain"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("factorize", value, "parameters")

    @model_validator(mode="after")
    def _one_dial(self) -> Factorize:
        if self.variant == "paper":
            number = self.rank is None or isinstance(self.rank, int)
            if not number or (self.rate, self.method, self.layers) != (None, "auto", "all"):
                raise ValueError(
                    "`variant: paper` splits the first linear layer and takes `rank` as a number "
                    "and `dropout`; leave `rate`, `method` and `layers` out"
                )
        elif self.rate is not None and self.rank is not None:
            raise ValueError(
                "`factorize` takes either `rate` (a share of the detector's parameters) or `rank`, "
                "not both; use {rate: 0.6} to remove six tenths of the parameters"
            )
        elif self.dropout is not None:
            raise ValueError("`dropout` belongs to `variant: paper` alone")
        return self

    def check(self, stage: Stage) -> None:
        """Refuse an untrained network, and say what the plan cannot know.

        Raises:
            ConfigError: nothing was trained before.
        """
        super().check(stage)
        require_trained(self, stage, WHY_TRAINED)
        if self.variant == "paper":
            stage.notes.append(
                "`factorize` in the paper's variant puts a ReLU between the factors: the detector "
                "answers differently until a `finetune` behind it."
            )
        elif self._needs_weights:
            stage.notes.append(
                "`factorize` chooses these ranks from trained weights: the size after it is known "
                "when it runs. This plan shows what the weights at hand give, and the whole "
                "network where they are fresh."
            )

    @property
    def _needs_weights(self) -> bool:
        """Whether the size of the result depends on the weights."""
        by_itself = isinstance(self._rank, Energy) or self._rank == "vbmf"
        return self.variant == "plain" and self.rate is None and by_itself

    @property
    def _rank(self) -> Rank:
        """How the ranks of single layers are chosen."""
        if self.rank is not None:
            return self.rank
        return PAPER_RANK if self.variant == "paper" else DEFAULT_RANK

    def outline(self, detector: Detector) -> Detector:
        """Return the network split as its present weights ask for.

        With `rate`, {rate: ...} or a number the size is the one that trained weights will have, or
        nearly. With {energy: ...} or "vbmf" fresh weights say nothing: the network stays whole,
        which is the most that it can hold.

        Raises:
            ConfigError: the network has no such layers, or `rate` cannot be reached.
        """
        edits = self._edits(detector.network)
        if self._needs_weights and not (edits and detector.card.steps):
            return detector
        return self._split(detector, edits)[0]

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the detector with split layers.

        Raises:
            ConfigError: the network has no such layers, `rate` cannot be reached, or no layer
                becomes smaller.
        """
        context.progress(self.kind, 0, 1, "singular values")
        made, reports = self._split(parent, self._edits(parent.network))
        before, after = (made.card.training[key] for key in ("parameters_before", "parameters"))
        note = f"{len(reports)} layers, {before:,} to {after:,} parameters"
        context.progress(self.kind, 1, 1, note)
        return made

    def _edits(self, network: Network) -> tuple[Factorization, ...]:
        """Return what this step does to a network."""
        if self.variant == "paper":
            return (self._paper_edit(network),)
        layers = find_layers(network, self.layers, self.method)
        if self.rate is not None:
            splits = choose_splits_by_rate(network, layers, self.rate)
        else:
            splits = choose_splits(layers, self._rank)
        return tuple(edit_of(split, network) for split in splits)

    def _paper_edit(self, network: Network) -> FactorizeLinear:
        """Return the paper's edit."""
        rank = self._rank
        assert isinstance(rank, int)
        found = find_layers(network, "linear", "svd")[0]
        first = next(name for name, m in network.named_modules() if isinstance(m, nn.Linear))
        if found.name != first:
            raise ConfigError(
                f"`variant: paper` splits the first linear layer once; '{first}' is a part of it "
                "already. Take the second `factorize` out."
            )
        (full,) = full_ranks(found.module, "svd")
        if rank > full:
            raise ConfigError(
                f"`rank` of factorize must be 1 to {full} for '{found.name}'. Got {rank}."
            )
        dropout = PAPER_DROPOUT if self.dropout is None else self.dropout
        return FactorizeLinear(
            layer=found.name, rank=rank, bottleneck="relu-dropout", dropout=dropout
        )

    def _split(
        self, parent: Detector, edits: tuple[Factorization, ...]
    ) -> tuple[Detector, list[Report]]:
        """Return the detector after these edits, and what each of them did."""
        if not edits:
            raise ConfigError(
                f"`factorize` would make no layer smaller with `rank` {self._rank}. "
                "Use a lower energy or rank, or a higher rate."
            )
        network = copy.deepcopy(parent.network)
        reports = factorize_(network, edits, sweeps=self.sweeps)
        size = parent.card.architecture.input_size
        training = {
            "parameters_before": count_parameters(parent.network),
            "parameters": count_parameters(network),
            "macs_before": count_macs(parent.network, size),
            "macs": _macs_after(network, size),
            "layers": len(reports),
            "largest_error": round(max(item.error for item in reports), 6),
        }
        made = parent.evolve(
            network=network,
            edits=(*parent.card.edits, *edits),
            score=ScoreMeaning(),
            measured=(),
            training=training | {item.split.layer: str(item) for item in reports},
        )
        return made, reports


def _macs_after(network: Network, size: int) -> int:
    """Return the multiply-adds of a network whose layers were split.

    Raises:
        ConfigError: it does not run any more.
    """
    try:
        return count_macs(network, size)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        # networks of other libraries may look into their own layers
        raise ConfigError(
            f"This network of {network.family} does not run with split layers: {error}. "
            "Name the `layers` to split, without those that it needs whole."
        ) from error

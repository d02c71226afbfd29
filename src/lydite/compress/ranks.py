"""Which rank each layer gets: by energy, by parameters, by VBMF, or by number.

Pure functions of weights and shapes. All methods of one layer are compared at the same `energy`:
the share of the squared weights that is certain to be kept. Of "tucker2" each mode may lose half
of the rest, since the errors of its two projections add up at most (De Lathauwer et al. 2000, "A
multilinear singular value decomposition", property 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lydite.compress.lowrank import Floats, compose, relative_error, spectra
from lydite.compress.vbmf import vbmf_rank
from lydite.models.factorized import Method, count_weights, full_ranks, shape_of


@dataclass(frozen=True)
class Split:
    """How one layer is to be split.

    Attributes:
        layer: its name in the network.
        method: into which factors.
        ranks: between the factors.
        full: weights of the layer as it is, without the bias.
        parameters: weights of its factors.
    """

    layer: str
    method: Method
    ranks: tuple[int, ...]
    full: int
    parameters: int

    @property
    def saves(self) -> bool:
        """Whether the factors hold fewer weights than the layer."""
        return self.parameters < self.full


@dataclass(frozen=True)
class Report:
    """What splitting one layer costs and saves.

    Attributes:
        split: which layer, how, and its weights before and after.
        error: norm of the lost part over the norm of the weight.
    """

    split: Split
    error: float

    def __str__(self) -> str:
        """Return one line for cards: method, ranks, weights, error."""
        split = self.split
        ranks = " x ".join(str(rank) for rank in split.ranks)
        return (
            f"{split.method}, rank {ranks}, {split.full} to {split.parameters} weights, "
            f"relative error {self.error:.4f}"
        )


#: the energy at which every rank is 1. A tucker2 loses energy in two modes; what it is sure to keep
#: is 1 less both losses, which is -1 where either may lose everything.
NO_ENERGY = -1.0


class Layer:
    """One layer, and the spectra of every method that may split it.

    Args:
        name: in the network.
        module: an ordinary convolution or linear layer.
        methods: those that are allowed.
    """

    def __init__(self, name: str, module: nn.Conv2d | nn.Linear, methods: Sequence[Method]) -> None:
        self.name, self.module, self.methods = name, module, tuple(methods)
        self._known: dict[Method, tuple[Floats, ...]] = {}

    def _spectra(self, method: Method) -> tuple[Floats, ...]:
        """Return the spectra of a method, computed when they are first asked for."""
        if method not in self._known:
            self._known[method] = spectra(weight_of(self.module), method)
        return self._known[method]

    def split(self, method: Method, ranks: tuple[int, ...]) -> Split:
        """Return the split of a method at these ranks."""
        return split_of(self.name, self.module, method, ranks)

    def at_energy(self, energy: float) -> Split:
        """Return the smallest split, over all methods, that is sure to keep this share of energy.

        Args:
            energy: from `NO_ENERGY` (rank 1) to 1.
        """
        splits = []
        for method in self.methods:
            found = self._spectra(method)
            share = 1 - (1 - energy) / len(found)
            splits.append(self.split(method, tuple(energy_rank(s, share) for s in found)))
        return min(splits, key=lambda split: split.parameters)

    def at_rank(self, rank: int) -> Split:
        """Return the split of the first method at this rank, or at the full one if that is less."""
        method = self.methods[0]
        full = full_ranks(self.module, method)
        return self.split(method, tuple(min(rank, most) for most in full))

    def at_vbmf(self) -> Split:
        """Return the split of the first method at the ranks that VBMF finds, at least 1."""
        method = self.methods[0]
        outputs, inputs, (height, width) = shape_of(self.module)
        sides = {
            "svd": ((outputs, inputs * height * width),),
            "tucker2": ((inputs, outputs * height * width), (outputs, inputs * height * width)),
            "spatial": ((inputs * height, outputs * width),),
        }[method]
        found = zip(self._spectra(method), sides, strict=True)
        return self.split(method, tuple(max(1, vbmf_rank(s, *side)) for s, side in found))


def split_of(
    name: str, module: nn.Conv2d | nn.Linear, method: Method, ranks: tuple[int, ...]
) -> Split:
    """Return a split with its counts."""
    after = count_weights(module, method, ranks)
    return Split(name, method, ranks, module.weight.numel(), after)


def weight_of(module: nn.Conv2d | nn.Linear) -> Floats:
    """Return a layer's weight as float64."""
    values: Floats = module.weight.detach().cpu().numpy().astype(np.float64)
    return values


def energy_rank(squared: Floats, energy: float) -> int:
    """Return the smallest rank, at least 1, that keeps this share of the energy.

    Args:
        squared: squared singular values, descending.
        energy: share of their sum, up to 1; at 0 and below the rank is 1.
    """
    # summed from the small end, where rounding would otherwise swallow them
    lost = np.append(np.cumsum(squared[::-1])[::-1], 0.0)
    allowed = (1 - energy) * lost[0]
    return max(1, int(np.argmax(lost <= allowed)))


def splits_at_energy(layers: Sequence[Layer], energy: float) -> list[Split]:
    """Return the splits that keep this share of every layer's energy and save weights."""
    return [split for layer in layers if (split := layer.at_energy(energy)).saves]


def splits_to_remove(layers: Sequence[Layer], amount: int) -> list[Split] | None:
    """Return splits at one common energy that remove at least so many weights, and hardly more.

    The largest energy that removes enough is found by bisection.

    Args:
        layers: that may be split.
        amount: of weights to remove from all of them together, at least.

    Returns:
        The splits, or None where even rank 1 everywhere does not remove enough.
    """

    def removed(energy: float) -> int:
        return sum(split.full - split.parameters for split in splits_at_energy(layers, energy))

    if removed(NO_ENERGY) < amount:
        return None
    return splits_at_energy(layers, _largest(lambda energy: removed(energy) >= amount))


def _largest(enough: Callable[[float], bool]) -> float:
    """Return the largest energy that is still low enough, to 1e-12."""
    low, high = NO_ENERGY, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def report(weight: Floats, factors: Sequence[Floats], split: Split) -> Report:
    """Return what a split costs and saves.

    Args:
        weight: of the layer, (O, I) or (O, I, h, w).
        factors: that take its place, input side first.
        split: what they are.
    """
    return Report(split, relative_error(weight, compose(factors)))

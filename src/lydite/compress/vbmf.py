"""How many components of a noisy matrix are signal: empirical variational Bayes in closed form.

Nakajima, Sugiyama, Babacan, Tomioka 2013, "Global Analytic Solution of Fully-observed Variational
Bayesian Matrix Factorization", JMLR 14, in the simpler form of Nakajima, Tomioka, Sugiyama, Babacan
2012, "Perfect Dimensionality Recovery by Variational Bayesian PCA", NIPS. Kim et al. 2016 (arXiv
1511.06530) choose the ranks of convolutions by it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: points of each of the searches for the noise variance, and how many narrow it down
GRID, ROUNDS = 400, 5
#: squared singular values under this share of the largest are rounding
NOTHING = 1e-13


def vbmf_rank(squared: Floats, rows: int, columns: int) -> int:
    """Return how many singular values of a matrix rise above its noise; 0 where none does.

    Args:
        squared: squared singular values, descending, min(rows, columns) of them.
        rows: of the matrix.
        columns: of the matrix.
    """
    rank = int((squared > NOTHING * squared[0]).sum()) if squared[0] > 0 else 0
    small, large = min(rows, columns), max(rows, columns)
    # what has fewer components than this bound and no remainder has no noise to estimate
    if rank <= _largest_rank(small, large):
        return rank
    variance = noise_variance(squared, small, large)
    return int((squared > large * variance * threshold(small / large)).sum())


def threshold(alpha: float) -> float:
    """Return how large gamma^2 / (M sigma^2) must be for a component to be kept.

    It is (1 + tau) (1 + alpha / tau) at the zero tau of Phi(tau) + Phi(tau / alpha), where
    Phi(z) = log(z + 1) / z - 1/2: there a component costs as much free energy as it saves.

    Args:
        alpha: rows over columns, in (0, 1].
    """
    tau = _tau_least(alpha)
    return (1 + tau) * (1 + alpha / tau)


@cache
def _tau_least(alpha: float) -> float:
    """Return the zero of a decreasing function, by bisection."""

    def phi(z: float) -> float:
        return float(np.log1p(z)) / z - 0.5

    # phi is positive below 2.5128 and negative above, so the zero lies between those of the terms
    low, high = 2.5 * alpha, 2.6
    for _ in range(100):
        middle = (low + high) / 2
        above = phi(middle) + phi(middle / alpha) > 0
        low, high = (middle, high) if above else (low, middle)
    return low


def noise_variance(squared: Floats, small: int, large: int) -> float:
    """Return the noise variance of the lowest free energy.

    It is searched for between the bounds that Nakajima et al. 2012 prove.

    Args:
        squared: all `small` squared singular values, descending.
        small: the smaller side of the matrix, L.
        large: the larger side, M.
    """
    least = threshold(small / large)
    start = _largest_rank(small, large)
    low = max(squared[start] / (large * least), float(squared[start:].mean()) / large)
    high = float(squared.sum()) / (small * large)
    for _ in range(ROUNDS):
        grid = np.geomspace(low, high, GRID)
        best = int(np.argmin(free_energy(grid, squared, small, large)))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    return float(np.sqrt(low * high))


def free_energy(variance: Floats, squared: Floats, small: int, large: int) -> Floats:
    """Return the free energy as a function of the noise variance, up to a constant and a factor.

    Args:
        variance: (N,) candidates.
        squared: (L,) squared singular values.
        small: L.
        large: M.

    Returns:
        (N,) energies.
    """
    alpha = small / large
    x = np.maximum(squared / (large * variance[:, None]), np.finfo(np.float64).tiny)
    signal = x > threshold(alpha)
    inner = np.where(signal, x, (1 + np.sqrt(alpha)) ** 2) - (1 + alpha)
    tau = (inner + np.sqrt(np.maximum(inner**2 - 4 * alpha, 0.0))) / 2
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    total: Floats = (x - np.log(x) + np.where(signal, gain, 0.0)).sum(axis=1)
    return total


def _largest_rank(small: int, large: int) -> int:
    """Return the most components that the solution can have."""
    return min(int(np.ceil(small / (1 + small / large))) - 1, small)

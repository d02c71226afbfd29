"""Low-rank factors of weights: pure functions on float64 arrays.

Each method returns the weights of the layers that take the place of one, and `compose` multiplies
them together again. The scale of every component is shared evenly between the factors, so that
their norms say how much a component matters and none of them learns faster than the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lydite.models.factorized import Method

Floats = NDArray[np.float64]


def truncated_svd(matrix: Floats, rank: int) -> tuple[Floats, Floats]:
    """Return the best approximation of a matrix of this rank (Eckart and Young 1936).

    Args:
        matrix: (m, n).
        rank: r, from 1 to min(m, n).

    Returns:
        (m, r) and (r, n); both carry the root of the singular values.
    """
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def svd_factors(weight: Floats, rank: int) -> tuple[Floats, Floats]:
    """Return the factors of a linear layer, or of a convolution and a 1x1 convolution.

    For kernels this is the channel decomposition of Zhang et al. 2016 (arXiv 1505.06798), of the
    weights instead of the responses.

    Args:
        weight: (O, I) or (O, I, h, w).
        rank: r.

    Returns:
        (r, I) and (O, r), or (r, I, h, w) and (O, r, 1, 1).
    """
    outputs, *rest = weight.shape
    left, right = truncated_svd(weight.reshape(outputs, -1), rank)
    kernel = (1,) * (weight.ndim - 2)
    return right.reshape(rank, *rest), left.reshape(outputs, rank, *kernel)


def spatial_factors(weight: Floats, rank: int) -> tuple[Floats, Floats]:
    """Return a column kernel and a row kernel whose product is nearest to a convolution.

    Scheme 2 of Jaderberg et al. 2014 (arXiv 1405.3866), solved exactly by the SVD of the
    (I h, O w) matrix, as in Zhang et al. 2016 (arXiv 1505.06798).

    Args:
        weight: (O, I, h, w).
        rank: r.

    Returns:
        (r, I, h, 1) and (O, r, 1, w).
    """
    outputs, inputs, height, width = weight.shape
    left, right = truncated_svd(spatial_matrix(weight), rank)
    column = left.T.reshape(rank, inputs, height, 1)
    row = right.reshape(rank, outputs, 1, width).transpose(1, 0, 2, 3)
    return column, row


def spatial_matrix(weight: Floats) -> Floats:
    """Return the (I h, O w) matrix of (O, I, h, w) weights."""
    outputs, inputs, height, width = weight.shape
    return weight.transpose(1, 2, 0, 3).reshape(inputs * height, outputs * width)


def tucker2_factors(
    weight: Floats, ranks: tuple[int, int], sweeps: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Return the Tucker decomposition along both channel modes (Kim et al. 2016, arXiv 1511.06530).

    The bases are the leading singular vectors of the unfoldings (HOSVD). Each sweep of HOOI
    replaces them by those of the weight already projected on the other mode (De Lathauwer et al.
    2000, "On the best rank-1 and rank-(R1, ..., RN) approximation", algorithm 4.2), which never
    makes the error larger.

    Args:
        weight: (O, I, h, w).
        ranks: of the inputs and of the outputs, each up to its `full_ranks`.
        sweeps: of HOOI.

    Returns:
        (r_in, I, 1, 1), (r_out, r_in, h, w) and (O, r_out, 1, 1).
    """
    first, second = ranks
    into = _basis(weight, 1, first)
    out = _basis(weight, 0, second)
    for _ in range(sweeps):
        into = _basis(np.einsum("oihw,or->rihw", weight, out), 1, first)
        out = _basis(np.einsum("oihw,ir->orhw", weight, into), 0, second)
    core = np.einsum("oihw,or,is->rshw", weight, out, into, optimize=True)
    # the scale of each component to thirds over reduce, core and expand
    read: Floats = _norms(core, 1) ** (1 / 3)
    core /= read[:, None, None]
    write: Floats = _norms(core, 0) ** (1 / 2)
    core /= write[:, None, None, None]
    return (into * read).T[:, :, None, None], core, (out * write)[:, :, None, None]


def _basis(weight: Floats, mode: int, rank: int) -> Floats:
    """Return the leading left singular vectors of an unfolding, as columns.

    Where the unfolding has fewer, which only a projected weight can, unit vectors fill up.
    """
    matrix = unfold(weight, mode)
    vectors = np.linalg.svd(matrix, full_matrices=rank > min(matrix.shape))[0]
    basis: Floats = vectors[:, :rank]
    return basis


def unfold(weight: Floats, mode: int) -> Floats:
    """Return the (C, everything else) matrix of weights whose axis `mode` has C entries."""
    return np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)


def _norms(weight: Floats, mode: int) -> Floats:
    """Return the norm of each slice along a mode, 1 for slices without values."""
    norms = np.linalg.norm(unfold(weight, mode), axis=1)
    whole: Floats = np.where(norms > 0, norms, 1.0)
    return whole


def factors_of(
    weight: Floats, method: Method, ranks: tuple[int, ...], sweeps: int = 0
) -> tuple[Floats, ...]:
    """Return the weights of the layers that take the place of one, input side first.

    Args:
        weight: (O, I) or (O, I, h, w).
        method: how to split it; (O, I) weights know "svd" alone.
        ranks: two for "tucker2", otherwise one.
        sweeps: of HOOI, for "tucker2".
    """
    if method == "tucker2":
        return tucker2_factors(weight, (ranks[0], ranks[1]), sweeps)
    return (spatial_factors if method == "spatial" else svd_factors)(weight, ranks[0])


def compose(factors: Sequence[Floats]) -> Floats:
    """Return the one weight that factors stand for: (O, I) or (O, I, h, w).

    Args:
        factors: two or three weights as from `factors_of`. A kernel side that several factors
            share belongs to one of them; in the others it is 1.
    """
    product = factors[0]
    for factor in factors[1:]:
        if factor.ndim == 2:
            product = factor @ product
        else:  # a matrix product at every position of the kernel
            positions = factor.transpose(2, 3, 0, 1) @ product.transpose(2, 3, 0, 1)
            product = positions.transpose(2, 3, 0, 1)
    return product


def relative_error(weight: Floats, approximation: Floats) -> float:
    """Return the norm of what is lost, as a share of the norm of the weight; 0 for zeros."""
    norm = float(np.linalg.norm(weight))
    return float(np.linalg.norm(weight - approximation)) / norm if norm > 0 else 0.0


def spectra(weight: Floats, method: Method) -> tuple[Floats, ...]:
    """Return the squared singular values that each rank of a method truncates, descending.

    Args:
        weight: (O, I) or (O, I, h, w).
        method: two spectra for "tucker2" (inputs, outputs), otherwise one.
    """
    if method == "tucker2":
        return squared_values(unfold(weight, 1)), squared_values(unfold(weight, 0))
    matrix = spatial_matrix(weight) if method == "spatial" else unfold(weight, 0)
    return (squared_values(matrix),)


def squared_values(matrix: Floats) -> Floats:
    """Return the squared singular values of a matrix, descending.

    They come from the smaller Gram matrix, many times faster than a decomposition, and exact to
    1e-15 of the largest.
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: Floats = np.asarray(np.linalg.eigvalsh(small @ small.T)[::-1], dtype=np.float64)
    return np.maximum(values, 0.0)

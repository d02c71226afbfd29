"""Factors of weights and choice of ranks, against convolutions, exact ranks and planted signals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from lydite.compress.lowrank import (
    Floats,
    compose,
    factors_of,
    relative_error,
    spatial_matrix,
    spectra,
    squared_values,
    truncated_svd,
    tucker2_factors,
)
from lydite.compress.ranks import (
    NO_ENERGY,
    Layer,
    energy_rank,
    splits_at_energy,
    splits_to_remove,
)
from lydite.compress.vbmf import free_energy, noise_variance, threshold, vbmf_rank
from lydite.models.factorized import Method, count_weights, full_ranks

METHODS: tuple[Method, ...] = ("svd", "tucker2", "spatial")


def weight(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


def conv_by_factors(x: torch.Tensor, factors: tuple[Floats, ...]) -> torch.Tensor:
    for factor in factors:
        height, width = factor.shape[2:]
        x = F.conv2d(x, torch.from_numpy(factor), padding=(height // 2, width // 2))
    return x


# ----------------------------------------------------------------------------------- factors


def test_svd_loses_the_smallest_singular_values_and_no_more() -> None:
    matrix = weight(7, 11)
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, 8):
        left, right = truncated_svd(matrix, rank)
        assert left.shape == (7, rank)
        assert right.shape == (rank, 11)
        lost = np.linalg.norm(matrix - left @ right)
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-10)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.sqrt(values[:rank]))
        np.testing.assert_allclose(np.linalg.norm(right, axis=1), np.sqrt(values[:rank]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (2, 16, 3, 3), (20, 1, 3, 5)])
def test_full_rank_is_the_convolution_itself(method: Method, shape: tuple[int, ...]) -> None:
    kernel = weight(*shape)
    layer = nn.Conv2d(shape[1], shape[0], shape[2:])  # type: ignore[arg-type]
    factors = factors_of(kernel, method, full_ranks(layer, method))
    np.testing.assert_allclose(compose(factors), kernel, atol=1e-12)
    x = torch.from_numpy(weight(2, shape[1], 8, 9, seed=1))
    expected = F.conv2d(x, torch.from_numpy(kernel), padding=(shape[2] // 2, shape[3] // 2))
    torch.testing.assert_close(conv_by_factors(x, factors), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_composing_is_running_the_factors_in_a_row(method: Method) -> None:
    factors = factors_of(weight(6, 5, 3, 3), method, (2, 3) if method == "tucker2" else (4,))
    x = torch.from_numpy(weight(1, 5, 7, 7, seed=2))
    composed = F.conv2d(x, torch.from_numpy(compose(factors)), padding=1)
    torch.testing.assert_close(conv_by_factors(x, factors), composed, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_low_rank_are_found_exactly(method: Method) -> None:
    ranks = (2, 3) if method == "tucker2" else (3,)
    kernel = compose(factors_of(weight(8, 6, 3, 3), method, ranks))
    assert relative_error(kernel, compose(factors_of(kernel, method, ranks))) < 1e-12
    less = tuple(rank - 1 for rank in ranks)
    assert relative_error(kernel, compose(factors_of(kernel, method, less))) > 1e-3


def test_spatial_is_the_nearest_of_its_rank() -> None:
    kernel = weight(4, 5, 3, 3)
    values = np.linalg.svd(spatial_matrix(kernel), compute_uv=False)
    for rank in (1, 4, 9):
        lost = np.linalg.norm(kernel - compose(factors_of(kernel, "spatial", (rank,))))
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()))


def test_separable_kernels_have_rank_one() -> None:
    blur = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0])[None, None]
    column, row = factors_of(blur, "spatial", (1,))
    assert column.shape == (1, 1, 3, 1)
    assert row.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(compose((column, row)), blur, atol=1e-12)


def test_sweeps_never_make_tucker_worse_and_here_better() -> None:
    kernel = weight(10, 9, 3, 3)
    errors = [relative_error(kernel, compose(tucker2_factors(kernel, (3, 4), n))) for n in range(6)]
    assert all(after <= before + 1e-12 for before, after in pairwise(errors))
    assert errors[-1] < errors[0] - 1e-4


def test_tucker_loses_at_most_the_sum_of_both_tails() -> None:
    kernel = weight(10, 9, 3, 3)
    inputs, outputs = spectra(kernel, "tucker2")
    for first, second in ((1, 1), (3, 7), (9, 2)):
        error = np.linalg.norm(kernel - compose(tucker2_factors(kernel, (first, second)))) ** 2
        assert error <= inputs[first:].sum() + outputs[second:].sum() + 1e-9


def test_factors_of_tucker_share_the_scale() -> None:
    reduce, core, expand = tucker2_factors(1000 * weight(6, 5, 3, 3), (3, 4))
    norms = [np.linalg.norm(factor) for factor in (reduce, core, expand)]
    assert max(norms) / min(norms) < 3
    assert np.ptp(np.linalg.norm(reduce[:, :, 0, 0], axis=1)) > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_layer_stays_dead(method: Method) -> None:
    kernel = np.zeros((3, 3, 3, 3))
    factors = factors_of(kernel, method, (1, 1) if method == "tucker2" else (1,), sweeps=1)
    assert not compose(factors).any()
    assert all(np.isfinite(factor).all() for factor in factors)
    assert relative_error(kernel, compose(factors)) == 0.0


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_squared_values_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    matrix = weight(*shape)
    expected = np.linalg.svd(matrix, compute_uv=False) ** 2
    np.testing.assert_allclose(squared_values(matrix), expected, rtol=1e-10)


# ------------------------------------------------------------------------------------- ranks


def test_energy_rank_keeps_the_share() -> None:
    squared = np.array([5.0, 3.0, 1.0, 1.0, 0.0])
    energies = (0.0, 0.5, 0.51, 0.79, 0.81, 0.95)
    assert [energy_rank(squared, energy) for energy in energies] == [1, 1, 2, 2, 3, 4]
    assert energy_rank(squared, 1.0) == 4
    assert energy_rank(np.zeros(3), 0.9) == 1


def layers() -> list[Layer]:
    torch.manual_seed(0)
    modules = [nn.Conv2d(8, 16, 3), nn.Conv2d(16, 12, 1), nn.Linear(40, 10)]
    methods: list[tuple[Method, ...]] = [METHODS, ("svd",), ("svd",)]
    pairs = zip(modules, methods, strict=True)
    return [Layer(str(i), m, allowed) for i, (m, allowed) in enumerate(pairs)]  # type: ignore[arg-type]


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9])
def test_every_method_keeps_the_energy_it_promises(energy: float) -> None:
    kernel = weight(8, 6, 3, 3)
    layer = nn.Conv2d(6, 8, 3)
    layer.weight.data = torch.from_numpy(kernel)
    sizes = []
    for method in METHODS:
        split = Layer("x", layer, (method,)).at_energy(energy)
        error = relative_error(kernel, compose(factors_of(kernel, method, split.ranks)))
        assert 1 - error**2 >= energy - 1e-9
        assert split.parameters == count_weights(layer, method, split.ranks)
        sizes.append(split.parameters)
    assert Layer("x", layer, METHODS).at_energy(energy).parameters == min(sizes)


def test_splits_are_left_out_where_they_save_nothing() -> None:
    assert splits_at_energy(layers(), 1.0) == []
    assert len(splits_at_energy(layers(), 0.0)) == 3


@pytest.mark.parametrize("amount", [1, 200, 900, 1300])
def test_the_largest_common_energy_that_removes_enough(amount: int) -> None:
    these = layers()
    found = splits_to_remove(these, amount)
    assert found is not None
    removed = sum(split.full - split.parameters for split in found)
    assert removed >= amount
    # against every energy of a fine grid: none of them removes enough and less
    grid = [splits_at_energy(these, energy) for energy in np.linspace(0, 1, 301)]
    totals = [sum(split.full - split.parameters for split in splits) for splits in grid]
    fewest = min(total for total in totals if total >= amount)
    assert removed <= fewest


def test_rank_one_everywhere_is_the_most_that_goes() -> None:
    these = layers()
    smallest = [
        min(count_weights(x.module, m, (1,) * len(full_ranks(x.module, m))) for m in x.methods)
        for x in these
    ]
    most = sum(x.module.weight.numel() for x in these) - sum(smallest)
    found = splits_to_remove(these, most)
    assert found is not None
    assert sum(split.full - split.parameters for split in found) == most
    assert splits_to_remove(these, most + 1) is None


def test_a_tucker2_alone_goes_down_to_rank_one() -> None:
    layer = Layer("x", nn.Conv2d(16, 24, 3), ("tucker2",))
    assert layer.at_energy(NO_ENERGY).ranks == (1, 1)


def test_a_rank_beyond_the_full_one_is_the_full_one() -> None:
    layer = Layer("x", nn.Conv2d(4, 6, 3), ("tucker2",))
    assert layer.at_rank(5).ranks == (4, 5)
    assert not layer.at_rank(100).saves


# -------------------------------------------------------------------------------------- VBMF


def planted(rows: int, columns: int, rank: int, noise: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    return np.asarray(signal + noise * rng.normal(size=(rows, columns)))


@pytest.mark.parametrize("shape", [(40, 40), (30, 200), (150, 25)])
@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_vbmf_finds_the_planted_rank(shape: tuple[int, int], rank: int, scale: float) -> None:
    matrix = scale * planted(*shape, rank, noise=0.5)
    squared = squared_values(matrix)
    assert vbmf_rank(squared, *shape) == rank
    variance = noise_variance(squared, min(shape), max(shape))
    assert variance == pytest.approx((0.5 * scale) ** 2, rel=0.15)


def test_vbmf_of_no_noise_counts_what_is_there() -> None:
    matrix = planted(30, 50, 3, noise=0.0)
    assert vbmf_rank(squared_values(matrix), 30, 50) == 3
    assert vbmf_rank(np.zeros(5), 5, 9) == 0


def test_vbmf_threshold_is_that_of_the_paper() -> None:
    """For square matrices tau is 2.5129; noise alone stays below, at (1 + sqrt(alpha))^2."""
    assert threshold(1.0) == pytest.approx((1 + 2.5129) * (1 + 1 / 2.5129), abs=1e-3)
    for alpha in (0.01, 0.1, 0.5, 1.0):
        assert threshold(alpha) > (1 + np.sqrt(alpha)) ** 2
        approximation = 2.5129 * np.sqrt(alpha)
        expected = (1 + approximation) * (1 + alpha / approximation)
        assert threshold(alpha) == pytest.approx(expected, rel=0.03)


def test_free_energy_is_continuous_where_a_component_appears() -> None:
    squared = np.array([400.0, 30.0, 20.0, 10.0])
    edge = 400.0 / (8 * threshold(0.5))
    below, above = free_energy(np.array([edge * (1 - 1e-9), edge * (1 + 1e-9)]), squared, 4, 8)
    assert below == pytest.approx(above, abs=1e-6)


def test_noise_variance_is_where_a_bounded_search_ends() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    squared = squared_values(planted(25, 60, 2, noise=1.0))
    found = noise_variance(squared, 25, 60)
    best = optimize.minimize_scalar(
        lambda v: float(free_energy(np.array([v]), squared, 25, 60)[0]),
        bounds=(0.5, 1.5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(best.x, rel=1e-4)

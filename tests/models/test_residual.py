"""Our own family: sizes, costs, the fixed filters, and the vote of the patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from lydite.card import Architecture
from lydite.errors import ConfigError
from lydite.models import build
from lydite.models.cost import count_macs, count_parameters
from lydite.models.residual import Residual, ResidualConfig, ResidualNetwork


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("lydite-large", 450_000, 150e6),
        ("lydite-medium", 120_000, 65e6),
        ("lydite-small", 30_000, 20e6),
    ],
)
def test_sizes_stay_within_their_promise(name: str, parameters: int, macs: float) -> None:
    network = build(Architecture(network=name))
    assert parameters / 2 < count_parameters(network) < parameters
    assert count_macs(network, 64) <= macs


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("residual", ["highpass", "npr", "none"])
def test_options_build_and_run(residual: str, blocks: int) -> None:
    config = {"residual": residual, "widths": [4, 6], "blocks": blocks}
    network = build(Architecture(network="lydite-small", config=config)).eval()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 2)
    assert [g.size for g in network.groups()] == [4] * (1 + blocks) + [6] * (1 + blocks)


def test_highpass_is_the_image_less_its_binomial_blur() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 11)).astype(np.float32)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    blurred = correlate(x, kernel[None, None], mode="nearest")
    found = Residual("highpass")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, x - blurred, atol=1e-6)


def test_highpass_is_blind_to_brightness_and_ramps() -> None:
    ramp = torch.arange(64.0).expand(1, 3, 64, 64) * 0.01 + 0.3
    assert Residual("highpass")(ramp)[..., 1:-1].abs().max() < 1e-5


def test_npr_is_the_difference_to_the_top_left_of_each_cell() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 6)).astype(np.float32)
    corners = x[:, :, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)
    found = Residual("npr")(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, x - corners)


def test_the_filter_is_no_weight() -> None:
    network = build(Architecture(network="lydite-small"))
    assert not [name for name in network.state_dict() if name.startswith("residual")]


def test_first_stage_keeps_the_resolution() -> None:
    network = build(Architecture(network="lydite-medium")).eval()
    assert isinstance(network, ResidualNetwork)
    x = torch.randn(1, 3, 64, 64)
    assert network.body[0](network.residual(x)).shape[2:] == (64, 64)
    assert network.patch_logits(x).shape == (1, 2, 16, 16)


def test_logits_are_the_mean_vote() -> None:
    network = build(Architecture(network="lydite-small")).eval()
    assert isinstance(network, ResidualNetwork)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        votes = network.patch_logits(x).flatten(2).mean(2)
        assert torch.allclose(network(x), votes, atol=1e-6)


def test_any_resolution_runs_once_built() -> None:
    network = build(Architecture(network="lydite-small")).eval()
    assert network(torch.randn(1, 3, 96, 160)).shape == (1, 2)


def test_size_must_halve_evenly() -> None:
    with pytest.raises(ConfigError, match="with 6 stages must be a multiple of 32. Got 48"):
        build(Architecture(network="lydite-small", input_size=48, config={"widths": [4] * 6}))


def test_golden_logits_of_a_tiny_network() -> None:
    network = ResidualNetwork(ResidualConfig(widths=(3, 4))).eval()
    with torch.no_grad():
        for number, tensor in enumerate(network.parameters()):
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) + number).reshape(tensor.shape))
    x = torch.cos(torch.arange(2 * 3 * 8 * 8) * 0.7).reshape(2, 3, 8, 8)
    expected = torch.tensor([[4.455186, -5.878204], [7.146585, -13.292784]])
    assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)

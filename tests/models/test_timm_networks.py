"""Networks of timm behind the contract; skipped where timm is not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lydite.card import Architecture
from lydite.compress.factorize import Factorize
from lydite.compress.teachers import hint_for
from lydite.detector import Detector
from lydite.errors import ConfigError, MissingExtraError
from lydite.models import build
from lydite.models.cost import count_macs, count_parameters
from lydite.models.timm import TimmNetwork
from lydite.training.hints import feature_shape

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed (extra [timm])"
)


@needs_timm
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "vit_tiny_patch16_224"])
def test_forward_is_head_of_features(name: str) -> None:
    network = build(Architecture(network=f"timm/{name}")).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.head(network.features(x)), network(x))
    assert network(x).shape == (2, 2)
    assert count_parameters(network) > 1_000_000
    assert count_macs(network, 64) > 1_000_000


class ChannelsLast(nn.Module):
    """A network as timm's swin: its map is (N, h, w, C), and it says so."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 8, stride=8)
        self.fc = nn.Linear(5, 2)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch(x).permute(0, 2, 3, 1)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((1, 2)))


def test_maps_that_end_in_their_channels_are_turned() -> None:
    network, x = TimmNetwork(ChannelsLast(), 32).eval(), torch.randn(2, 3, 32, 32)
    features = network.features(x)
    assert feature_shape(network, 32) == (5, 4, 4)
    assert torch.equal(features, network.model.patch(x))
    assert torch.equal(network.head(features), network(x))
    student = build(Architecture(network="lydite-small", input_size=32))
    hint = hint_for(student, network, 32)
    assert (hint.channels, hint.grid) == (5, (4, 4))


@needs_timm
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mambaout_femto"])
def test_networks_with_channels_last_give_maps_like_the_others(name: str) -> None:
    network = build(Architecture(network=f"timm/{name}", input_size=64)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = network.features(x)
        assert features.shape[1] == network.model.num_features
        assert features.shape[2:] == (2, 2)
        assert torch.equal(network.head(features), network(x))


@needs_timm
def test_equal_seeds_give_equal_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(build(Architecture(network="timm/mobilenetv4_conv_small")).state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@needs_timm
@pytest.mark.parametrize("name", ["resnet81", "hf-hub:someone/something", "", "../resnet18"])
def test_only_listed_names_are_made(name: str) -> None:
    with pytest.raises(ConfigError, match="has no network"):
        build(Architecture(network=f"timm/{name}"))


@needs_timm
def test_unknown_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="`pretrained`"):
        build(Architecture(network="timm/resnet18", config={"pretrained": True}))


@needs_timm
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "vit_tiny_patch16_224"])
def test_factorizing_reaches_the_rate_and_loads(name: str, tmp_path: Path) -> None:
    start = Detector.start(Architecture(network=f"timm/{name}"))
    made = Factorize(rate=0.4).outline(start)
    assert 0.59 < count_parameters(made.network) / count_parameters(start.network) <= 0.6
    made.save(tmp_path / "made")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(Detector.load(tmp_path / "made").network(x), made.network.eval()(x))


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nowhere)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'lydite\[timm\]'"):
        build(Architecture(network="timm/resnet18"))

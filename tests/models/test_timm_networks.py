"""Networks of timm behind the contract; skipped where timm is not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from lydite.card import Architecture
from lydite.compress.factorize import Factorize
from lydite.detector import Detector
from lydite.errors import ConfigError, MissingExtraError
from lydite.models import build
from lydite.models.cost import count_macs, count_parameters

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

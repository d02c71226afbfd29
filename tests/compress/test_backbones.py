"""Frozen networks as teachers, with a stand-in for timm: loading, the head, and distilling."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from lydite.card import Architecture, Preprocess
from lydite.compress import backbones
from lydite.compress.backbones import Backbone, Probe, fit_head_, load_probe, probe_of
from lydite.compress.distill import Distill
from lydite.data.manifest import Manifest
from lydite.data.preprocess import prepare
from lydite.detector import Detector
from lydite.errors import ConfigError, FileError
from lydite.evaluate.metrics import auc
from lydite.recipe import Context, parse_step

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Tower(nn.Module):
    """A tiny network that gives sixteen features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).abs().mean((2, 3))  # type: ignore[no-any-return]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a network that a stand-in for timm knows, with a classifier besides.

    It knows "tower", whose checkpoints agree, and "spire", whose do not.
    """

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        assert name.partition(".")[0] in ("tower", "spire")
        assert (pretrained, num_classes) == (False, 0)
        return Tower()

    def get_pretrained_cfg(name: str) -> SimpleNamespace:
        mean = (0.5, 0.5, 0.5) if name == "spire.half" else MEAN
        return SimpleNamespace(input_size=(3, 64, 64), mean=mean, std=STD)

    tags = {"tower.*": ["tower.a", "tower.b"], "spire.*": ["spire.half", "spire.own"]}
    timm = SimpleNamespace(
        __version__="0",
        list_models=lambda: ["tower", "spire"],
        list_pretrained=tags.__getitem__,
        create_model=create_model,
        get_pretrained_cfg=get_pretrained_cfg,
    )
    monkeypatch.setattr(backbones, "import_timm", lambda: timm)
    torch.manual_seed(0)
    path, tensors = tmp_path / "model.safetensors", Tower().state_dict()
    # blind to brightness, so that features show grain rather than content
    tensors["conv.weight"] -= tensors["conv.weight"].mean((2, 3), keepdim=True)
    tensors["conv.bias"].zero_()
    save_file({**tensors, "head.weight": torch.zeros(10, 16)}, path)
    return path


def context(manifest: Manifest, folder: Path) -> Context:
    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, device="cpu", precision="float32")


def test_the_head_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(80, 5)) * [1, 10, 0.1, 1, 0] + [0, 50, 0, 1, 3]
    targets = (features[:, 0] + features[:, 1] / 10 + draw.normal(size=80) > 5).astype(int)
    linear = nn.Linear(5, 2)
    fit_head_(linear, features, targets, 0.5)
    mean, std = features.mean(0), np.where(features.std(0) == 0, 1, features.std(0))
    wanted = LogisticRegression(C=0.5, max_iter=1000).fit((features - mean) / std, targets)
    with torch.no_grad():
        found = torch.softmax(linear(torch.from_numpy(features).float()), 1).numpy()
    np.testing.assert_allclose(found, wanted.predict_proba((features - mean) / std), atol=1e-4)


def test_the_model_sees_its_own_normalization_and_size() -> None:
    seen: list[torch.Tensor] = []

    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean((2, 3))

    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    preprocess = Preprocess(size=64, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9))
    Probe(Keeps(), 3, 64, preprocess, MEAN, STD).features(
        torch.from_numpy(prepare(rgb, preprocess))
    )
    wanted = (rgb.transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    np.testing.assert_allclose(seen[0][0].numpy(), wanted, atol=1e-5)
    Probe(Keeps(), 3, 80, preprocess, MEAN, STD).features(torch.zeros(1, 3, 64, 64))
    assert seen[1].shape == (1, 3, 80, 80)


def test_a_probe_learns_what_its_features_show(
    weights: Path, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    preprocess, used = Preprocess(size=64), context(tiny_manifest, tmp_path)
    backbone = Backbone(timm="tower", weights=weights, images=24)
    probe = probe_of(backbone, preprocess, used)
    again = probe_of(Backbone(timm="tower", weights=weights.parent, images=24), preprocess, used)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in probe.state_dict().items())
    rows = list(tiny_manifest.select(split="test").rows())
    from lydite.data.decode import decode

    with torch.no_grad():
        logits = [
            probe(torch.from_numpy(prepare(decode(row.file), preprocess))).mean(0) for row in rows
        ]
    z = np.array([float(one[1] - one[0]) for one in logits])
    value = auc(z, np.array([row.target for row in rows]))
    assert value is not None
    assert value > 0.9


def test_a_student_learns_from_it(weights: Path, tiny_manifest: Manifest, tmp_path: Path) -> None:
    architecture = Architecture(network="lydite-small", config={"widths": [4, 8]})
    parent = Detector.start(architecture, seed=1).evolve(training={"steps": 1})
    options: dict[str, Any] = {"student": "same", "steps": 2, "batch": 8, "lr": 0.01}
    entry = {"timm": "tower", "weights": str(weights), "images": 8}
    step = parse_step({"distill": options | {"teachers": [entry], "parent_teaches": False}})
    assert isinstance(step, Distill)
    assert parse_step(step.spec()) == step
    step.outline(parent)
    made = step.run(parent, context(tiny_manifest, tmp_path / "one"))
    assert made.card.training["backbones"] == f"tower {step.backbones[0].digest}"
    other = parse_step({"distill": options}).run(parent, context(tiny_manifest, tmp_path / "two"))
    assert not torch.equal(
        made.network.get_parameter("patch.weight"), other.network.get_parameter("patch.weight")
    )


def test_the_key_follows_the_weights(weights: Path) -> None:
    step = Distill(student="same", teachers=(Backbone(timm="tower", weights=weights),))
    before = step.key("0" * 64, {}, 0)
    torch.manual_seed(9)
    save_file(Tower().state_dict(), weights)
    assert step.key("0" * 64, {}, 0) != before


def test_a_tag_chooses_the_checkpoint(weights: Path) -> None:
    preprocess = Preprocess(size=64)

    def shift(name: str) -> torch.Tensor:
        return load_probe(Backbone(timm=name, weights=weights), preprocess).shift.flatten()

    ours = torch.tensor(preprocess.mean)
    torch.testing.assert_close(shift("tower"), (ours - torch.tensor(MEAN)) / torch.tensor(STD))
    torch.testing.assert_close(shift("tower.b"), shift("tower"))
    torch.testing.assert_close(shift("spire.own"), shift("tower"))
    torch.testing.assert_close(shift("spire.half"), (ours - 0.5) / torch.tensor(STD))
    with pytest.raises(ConfigError, match=r"different ways.*'spire\.half': half, own"):
        Backbone(timm="spire", weights=weights).require()
    with pytest.raises(ConfigError, match=r"no checkpoint 'c' of tower\. It knows: a, b"):
        Backbone(timm="tower.c", weights=weights).require()


def test_what_cannot_teach_is_refused(weights: Path, tmp_path: Path) -> None:
    preprocess = Preprocess(size=64)
    with pytest.raises(ConfigError, match="no network of timm"):
        Backbone(timm="towel", weights=weights).require()
    with pytest.raises(FileError, match="Nothing is downloaded"):
        Backbone(timm="tower", weights=tmp_path / "gone.safetensors").require()
    with pytest.raises(ValidationError, match="runs no code"):
        Backbone(timm="tower", weights=tmp_path / "model.pth")
    shutil.copy(weights, tmp_path / "lacking.safetensors")
    save_file({"conv.bias": torch.zeros(16)}, tmp_path / "lacking.safetensors")
    with pytest.raises(ConfigError, match=r"lacks 1 tensors of tower, first 'conv.weight'"):
        load_probe(Backbone(timm="tower", weights=tmp_path / "lacking.safetensors"), preprocess)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "lacking.safetensors")
    with pytest.raises(ConfigError, match="holds no weights of tower"):
        load_probe(Backbone(timm="tower", weights=tmp_path / "lacking.safetensors"), preprocess)
    with pytest.raises(ValueError, match="by its logits alone"):
        backbone = Backbone(timm="tower", weights=weights)
        Distill(student="same", method="patches", teachers=(backbone,))

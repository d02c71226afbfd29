"""What networks see in the place of colors: formulas, the learned constraint, every later step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.networks import answer, lived_in, lived_in_detector, picture
from lydite.card import ONNX_NAME, Architecture
from lydite.compress.mask import Mask
from lydite.compress.prune import Prune
from lydite.compress.qat import require_followed
from lydite.compress.quantize import Quantize
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import KeepChannels
from lydite.export.onnx import export
from lydite.export.parity import check_parity, require_parity, synthetic_tiles
from lydite.models import build
from lydite.models.contract import Network
from lydite.models.filters import Constrained, Residual
from lydite.models.surgery import replay_
from lydite.recipe import Context
from lydite.training.train import Train

KINDS = ["highpass", "npr", "wavelet", "bayar", "none"]


def architecture(kind: str, network: str = "lydite-small") -> Architecture:
    config: dict[str, Any] = {"residual": kind}
    if network == "lydite-small":
        config |= {"widths": [4, 8], "blocks": 0}
    return Architecture(network=network, input_size=64, config=config)


def context(manifest: Manifest, folder: Path) -> Context:
    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=2, folder=folder, device="cpu", precision="float32")


def kernels_of(network: Network) -> np.ndarray:
    conv = network.get_submodule("residual.conv")
    assert isinstance(conv.weight, torch.Tensor)
    return conv.weight.detach().numpy().astype(np.float64)


def assert_constrained(kernels: np.ndarray) -> None:
    """The center is -1 and all others add up to 1, for every pair of channels."""
    np.testing.assert_allclose(kernels[:, :, 2, 2], -1, atol=1e-6)
    np.testing.assert_allclose(kernels.sum((2, 3)), 0, atol=1e-5)


def test_wavelet_bands_are_the_haar_transforms_at_every_position() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 6)).astype(np.float32)
    found = Residual("wavelet")(torch.from_numpy(x)).numpy().reshape(2, 3, 3, 8, 6)
    p = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge")
    a, b, c, d = p[..., :-1, :-1], p[..., :-1, 1:], p[..., 1:, :-1], p[..., 1:, 1:]
    wanted = np.stack([a - b + c - d, a + b - c - d, a - b - c + d], axis=2) / 2
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_wavelet_bands_keep_the_energy_that_is_no_mean_of_a_cell() -> None:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    bands = Residual("wavelet")(x)[..., ::2, ::2].square().sum()
    means = torch.nn.functional.avg_pool2d(x, 2).square().sum() * 4
    assert float(bands + means) == pytest.approx(float(x.square().sum()), rel=1e-5)


def test_constrained_kernels_are_the_nearest_ones() -> None:
    free = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = Constrained(5)(free)
    assert_constrained(found.numpy().astype(np.float64))
    shift = (found - free).flatten(2)
    others = torch.arange(25) != 12
    assert torch.allclose(shift[..., others], shift[..., :1].expand(2, 3, 24), atol=1e-6)
    assert torch.allclose(Constrained(5)(found), found, atol=1e-6)


def test_bayar_gives_nothing_of_constant_areas() -> None:
    torch.manual_seed(0)
    assert Residual("bayar")(torch.full((1, 3, 9, 9), 0.7)).abs().max() < 1e-5


@pytest.mark.parametrize("network", ["lydite-small", "paper-student-0.44m"])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_fit_and_one_channel_is_enough(kind: str, network: str) -> None:
    made = lived_in(architecture(kind, network))
    tensors = made.state_dict()
    for group in made.groups():
        for member in group.members:
            assert tensors[member.tensor].shape[member.dim] == group.size * member.repeat
            assert not member.tensor.startswith("residual")
    replay_(made, [KeepChannels(group=g.name, keep=(0,)) for g in made.groups()])
    assert answer(made, picture()).shape == (2, 2)
    made.train()(picture(4)).square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_the_papers_networks_see_colors_unless_told() -> None:
    plain = lived_in("paper-student-0.44m")
    assert torch.equal(
        answer(plain, picture()),
        answer(lived_in(architecture("none", "paper-student-0.44m")), picture()),
    )
    other = build(architecture("wavelet", "paper-student-0.44m"))
    assert other.get_parameter("body.spatial1.weight").shape[1] == 9


@pytest.mark.parametrize(
    ("kind", "network"), [("wavelet", "paper-student-0.44m"), ("bayar", "lydite-small")]
)
def test_the_exported_file_agrees_and_rounding_follows_it(kind: str, network: str) -> None:
    detector = lived_in_detector(architecture(kind, network))
    require_parity(check_parity(detector, export(detector), synthetic_tiles(detector, 4)), 0.0)
    require_followed(detector, float_input=kind == "wavelet")


def test_training_pruning_masks_and_integers_keep_the_constraint(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    start = Detector.start(architecture("bayar"), seed=1)
    used = context(tiny_manifest, tmp_path / "work")
    made = Train(steps=12, batch=8, lr=0.02).run(start, used)
    assert not np.allclose(kernels_of(made.network), kernels_of(start.network), atol=1e-3)
    for number, step in enumerate(
        [Prune(rate=0.3, multiple=1), Mask(rate=0.3), Quantize(images=4)]
    ):
        made = step.run(made, context(tiny_manifest, tmp_path / str(number)))
        assert_constrained(kernels_of(made.network))
    file = export(made)
    Detector(made.card, made.network, {ONNX_NAME: file}).save(tmp_path / "saved")
    loaded = Detector.load(tmp_path / "saved")
    tiles = synthetic_tiles(made, 8)
    with torch.no_grad():
        here, there = (d.network(torch.from_numpy(tiles)) for d in (made, loaded))
    assert torch.equal(here, there)
    require_parity(check_parity(loaded, file, tiles), 0.2)


def test_frozen_kernels_keep_every_bit(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.transfer.finetune import Finetune

    start = Detector.start(architecture("bayar"), seed=1).evolve(training={"steps": 1})
    step = Finetune.model_validate({"steps": 2, "batch": 4, "layers": "head"})
    made = step.run(start, context(tiny_manifest, tmp_path))
    assert np.array_equal(kernels_of(made.network), kernels_of(start.network))

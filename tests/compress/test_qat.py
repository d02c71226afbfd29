"""The step `qat`: training computes what the file computes, learns, resumes, and ends final."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lydite.card import Architecture, WeightBits
from lydite.compress import qat
from lydite.compress.fake_quantize import (
    RANGE_MOMENTUM,
    FakeQuantized,
    folded,
    int8_scales,
    rounded,
    uint8_grid,
)
from lydite.compress.qat import Qat, require_mirrored
from lydite.compress.quantize import Quantize, shape_ranges
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import MaskWeights
from lydite.errors import ConfigError, TrainingError
from lydite.export.calibrate import calibrate
from lydite.export.calibration import balanced_sample
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export, to_onnx
from lydite.export.quantized import quantize_static
from lydite.export.rounding import rounding_of
from lydite.models.contract import Network
from lydite.recipe import Context, Recipe, Stage, parse_step
from lydite.training.settings import TrainSettings
from lydite.training.swad import Swad
from lydite.training.train import Train

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4]})
SMALL = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})
PAPER = Architecture(network="paper-student-0.44m", input_size=64, config={"dropout": 0.0})
NPR = Architecture(
    network="lydite-small", input_size=64, config={"widths": [4], "residual": "npr", "blocks": 0}
)


def tiles(count: int = 8, seed: int = 0) -> np.ndarray:
    """Return tiles of any brightness, contrast and noise."""
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((count, 3, 64, 64), dtype=np.float32)
    slope = np.linspace(-1, 1, 64, dtype=np.float32) * draw.uniform(-1, 1, (count, 3, 1, 1))
    return (noise * draw.uniform(0.01, 0.5, (count, 1, 1, 1)) + slope).astype(np.float32)


def settled(architecture: Architecture) -> Detector:
    """Return a detector whose batch norms have seen data, with signs and scales of all kinds."""
    detector = Detector.start(architecture, seed=0)
    detector.network.train()
    with torch.no_grad():
        for index in range(6):
            detector.network(torch.from_numpy(tiles(8, index)))
        for module in detector.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(0.5, 1.5, module.num_features))
                module.bias.copy_(torch.linspace(-0.3, 0.3, module.num_features))
    detector.network.eval()
    return detector


def mirrored(
    detector: Detector, *, float_input: bool = True, observe: int = 0, weight_bits: WeightBits = 8
) -> tuple[FakeQuantized, bytes]:
    """Return a network under rounding, and the QDQ file that it mirrors."""
    data = to_onnx(detector.network, 64)
    ranges = calibrate(data, [tiles()], float_input=float_input)
    file = quantize_static(data, ranges, weight_bits)
    rounding = rounding_of(file)
    network = FakeQuantized(detector.network, data, rounding, ranges, observe, weight_bits)
    return network, file


def run(data: bytes, batch: np.ndarray) -> np.ndarray:
    """Run a file as it is written, without the runtime's own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": batch})[0])


@pytest.mark.parametrize("float_input", [True, False])
@pytest.mark.parametrize(
    ("architecture", "ties", "weight_bits"),
    [(SMALL, 0.02, 8), (SMALL, 0.02, 7), (PAPER, 0.25, 8), (NPR, 0.02, 8)],
    ids=["small", "narrow", "paper", "npr"],
)
def test_training_computes_what_the_file_computes(
    architecture: Architecture, ties: float, weight_bits: WeightBits, float_input: bool
) -> None:
    detector = settled(architecture)
    network, file = mirrored(detector, float_input=float_input, weight_bits=weight_bits)
    batch = tiles(32, 99)
    with torch.no_grad():
        exact = detector.network(torch.from_numpy(batch)).numpy()
        ours = network.eval()(torch.from_numpy(batch)).numpy()
    theirs = run(file, batch)
    # What is left are ties between two grid points, which fall by the last bit of a float; more of
    # them in a deeper network. One rounding forgotten in any place makes three times as much.
    assert np.abs(ours - theirs).mean() < ties * np.abs(exact - theirs).mean()
    # nothing is normalized by a batch's own statistics: training looks as it does afterwards
    with torch.no_grad():
        assert torch.equal(network.train()(torch.from_numpy(batch)), torch.from_numpy(ours))


def test_grids_by_hand() -> None:
    low, high = torch.tensor([-1.0, 0.5, 0.0]), torch.tensor([1.55, 2.55, 0.0])
    scale, zero = uint8_grid(low, high)
    # zero is always on the grid, and an empty range divides by one
    assert scale.tolist() == pytest.approx([0.01, 0.01, 1.0])
    assert zero.tolist() == [100, 0, 0]
    weight = torch.tensor([[1.27, -0.3], [0.0, 0.0], [-2.54, 1.0]])
    assert int8_scales(weight, 127).tolist() == pytest.approx([0.01, 1.0, 0.02])
    assert int8_scales(weight, 64).tolist() == pytest.approx([1.27 / 64, 1.0, 2.54 / 64])
    values = torch.tensor([0.26, -0.9], requires_grad=True)
    result = rounded(values, torch.tensor([0.1, 0.5]))
    result.sum().backward()
    assert result.tolist() == pytest.approx([0.3, -1.0])
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bias", [True, False])
def test_folding_equals_convolution_and_norm(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(4, generator=generator) + 0.1)
        x = torch.randn(2, 3, 8, 8, generator=generator)
        weight, shift = folded(conv, norm)
        torch.testing.assert_close(nn.functional.conv2d(x, weight, shift), norm(conv(x)))


def test_ranges_follow_the_batches_and_then_stay() -> None:
    network, _ = mirrored(settled(SMALL), observe=12)
    before = network.ranges()
    batch = torch.from_numpy(3 * tiles(8, 5))
    network.eval()(batch)
    assert network.ranges() == before
    network.train()(batch)
    moved = network.ranges()
    first = "relu_0"
    conv = network.get_submodule("body")[0]  # type: ignore[index]
    with torch.no_grad():
        seen = torch.relu(conv.bn.eval()(conv.conv(network.get_submodule("residual")(batch))))
    low, high = before[first]
    assert moved[first][1] == pytest.approx(
        high + RANGE_MOMENTUM * (float(seen.max()) - high), rel=1e-5
    )
    network.train()(batch)
    assert network.ranges() != moved
    stays = network.ranges()
    network.train()(batch)
    assert network.ranges() == stays


def test_it_holds_the_networks_own_weights_by_their_names() -> None:
    detector = settled(SMALL)
    network, _ = mirrored(detector)
    names = dict(network.named_parameters())
    assert names.keys() == dict(detector.network.named_parameters()).keys()
    assert all(p is names[n] for n, p in detector.network.named_parameters())
    extra = network.state_dict().keys() - detector.network.state_dict().keys()
    assert extra == {"low", "high", "images_seen"}
    twin = copy.deepcopy(network)
    batch = torch.from_numpy(tiles(4, 1))
    with torch.no_grad():
        assert torch.equal(twin.eval()(batch), network.eval()(batch))


class Branching(Network):
    """Its way depends on its values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class NormFirst(Network):
    """A batch norm that reads the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x)).mean((2, 3))


class Dropping(Network):
    """Dropout written as a function, as timm's networks have it; or a layer dropped by an if."""

    def __init__(self, skips: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 2)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        if self.skips and self.training:
            x = x * 2
        x = nn.functional.dropout(x, p=0.5, training=False)
        return self.fc(nn.functional.dropout(x, p=0.5, training=self.training))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_written_as_a_function_follows_the_mode(training: bool) -> None:
    torch.manual_seed(0)
    detector = Detector(Detector.start(SMALL).card, Dropping().train(training))
    network, file = mirrored(detector)
    assert detector.network.training == training
    batch = torch.from_numpy(tiles(2, 3))
    with torch.no_grad():
        quiet = network.eval()(batch)
        np.testing.assert_allclose(quiet.numpy(), run(file, tiles(2, 3)), atol=5e-3)
        assert torch.equal(network(batch), quiet)
        # half the features are dropped and the others doubled, so the mean stays
        many = torch.stack([network.train()(batch) for _ in range(400)])
    assert many.std(0).min() > 0.05 * float(quiet.abs().max())
    np.testing.assert_allclose(many.mean(0), quiet, atol=5 * float(many.std(0).max()) / 20)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Branching(), "cannot be written down"),
        (NormFirst(), "'norm' cannot be folded"),
        (Dropping(skips=True), "is another one in training .at 'mul'"),
    ],
)
def test_networks_that_cannot_be_followed_are_refused_in_the_plan(
    network: Network, says: str
) -> None:
    detector = Detector(Detector.start(SMALL).card, network)
    with pytest.raises(ConfigError, match=says):
        Qat().outline(detector)


class LinearOnMap(Network):
    """A linear layer on a map, as transformers have it, becomes two operations of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.wide = nn.Linear(4, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.wide(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_the_plan_refuses_what_the_file_would(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(Detector.start(SMALL).card, LinearOnMap().train())
    with pytest.raises(ConfigError, match="that has Add where the network has ReduceMean"):
        Qat().outline(detector)
    assert detector.network.training

    def unknown(*_args: object) -> bytes:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(qat, "to_onnx", unknown)
    with pytest.raises(ConfigError, match="cannot make an int8 file .*: RuntimeError: no such"):
        Qat().outline(Detector.start(SMALL))


def test_the_plan_s_ranges_are_of_the_tensors_that_run_measures() -> None:
    detector = Detector.start(SMALL)
    assert Qat().outline(detector) is detector
    data = to_onnx(detector.network, 64)
    for float_input in (True, False):
        ranges = shape_ranges(detector, data, float_input=float_input)
        assert ranges.keys() == calibrate(data, [tiles()], float_input=float_input).keys()


def test_a_file_of_other_operations_is_refused() -> None:
    detector, other = settled(SMALL), settled(NPR)
    data = to_onnx(other.network, 64)
    ranges = calibrate(data, [tiles()])
    rounding = rounding_of(quantize_static(data, ranges))
    with pytest.raises(ConfigError, match="Sub where the network has Pad"):
        FakeQuantized(detector.network, data, rounding, ranges)


# ------------------------------------------------------------------------------ the step


class Killed(Exception):
    """Stands for a kill between two steps."""


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    def progress(what: str, done: int, total: int, note: str) -> None:
        if note.startswith("loss") and done == kill_at:
            raise Killed

    train, val = manifest.select(split="train"), manifest.select(split="val")
    return Context(train, val, seed=5, folder=folder, progress=progress, device="cpu")


@pytest.fixture(scope="module")
def trained(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A detector that has learned the easy artifact."""
    start = Detector.start(TINY, seed=1)
    folder = tmp_path_factory.mktemp("trained")
    return Train(steps=30, batch=16, lr=5e-3).run(start, context(tiny_manifest, folder))


@pytest.mark.parametrize("weight_bits", [8, 7])
def test_the_step_ends_like_quantize(
    trained: Detector, tiny_manifest: Manifest, tmp_path: Path, weight_bits: WeightBits
) -> None:
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    step = Qat(steps=6, batch=8, lr=1e-3, images=6, weight_bits=weight_bits)
    base = context(tiny_manifest, tmp_path / "run")
    made = step.run(trained, base)
    quantization = made.card.quantization
    assert quantization is not None
    assert (quantization.scheme, quantization.weight_bits) == ("static-int8", weight_bits)
    chosen = balanced_sample(base.train, 6, base.seed)
    assert (quantization.n, quantization.calibration) == (6, chosen.digest)
    assert made.card.score.fitted_on is None
    assert made.card.training["steps"] == 6
    assert float(made.card.training["rounding_gap"] or 0) < 0.01
    data = export(made)
    layers = inspect_quantized(data).layers
    assert [layer.integer for layer in layers] == [False, False] + [True] * (len(layers) - 2)
    after = made.network.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[n], before[n]) for n in before if n.endswith("weight"))
    # the statistics of batch norm are the parent's, and the parent itself is as it was
    assert all(torch.equal(after[n], before[n]) for n in before if "running" in n)
    assert all(torch.equal(v, before[n]) for n, v in trained.network.state_dict().items())

    made.save(tmp_path / "made")
    code = (
        "import sys, pathlib\n"
        "from lydite.detector import Detector\n"
        "from lydite.export.onnx import export\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'again.onnx').write_bytes(export(Detector.load(folder)))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "made")], check=True)
    assert (tmp_path / "made" / "again.onnx").read_bytes() == data


@pytest.mark.parametrize(("kill_at", "ema"), [(1, 0.0), (4, 0.9)])
def test_a_killed_run_ends_with_the_same_weights_and_ranges(
    trained: Detector, tiny_manifest: Manifest, tmp_path: Path, kill_at: int, ema: float
) -> None:
    step = Qat(steps=6, batch=8, lr=1e-3, images=4, observe=0.7, checkpoint_s=0.0, ema=ema)
    whole = step.run(trained, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(trained, context(tiny_manifest, tmp_path / "cut", kill_at))
    resumed = step.run(trained, context(tiny_manifest, tmp_path / "cut"))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert resumed.card.quantization == whole.card.quantization


def test_rounding_as_a_regularizer_leaves_a_float_detector(
    trained: Detector, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    options = {"steps": 4, "batch": 8, "images": 4, "swa": 0.5}
    final, plain = (
        Qat.model_validate(options | {"result": result}).run(
            trained, context(tiny_manifest, tmp_path / result)
        )
        for result in ("int8", "float32")
    )
    assert final.card.quantization is not None
    assert plain.card.quantization is None
    for name, value in final.network.state_dict().items():
        assert torch.equal(value, plain.network.state_dict()[name]), name
    assert not any(layer.integer for layer in inspect_quantized(export(plain)).layers)
    stage = Stage("lydite-small", trained=True)
    Qat(result="float32").check(stage)
    Quantize().check(stage)  # which follows, or not: a float detector is one like any other
    assert stage.quantized


def test_training_under_rounding_repairs_what_rounding_broke() -> None:
    detector = settled(SMALL)
    network, _ = mirrored(detector)
    # ranges cut to a half stand for coarse rounding
    network.low.div_(2)
    network.high.div_(2)
    batch = torch.from_numpy(tiles(32, 3))
    targets = (batch.std((1, 2, 3)) > batch.std((1, 2, 3)).median()).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network.train()(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    untouched = [n for n, p in network.named_parameters() if p.grad is None]
    assert untouched == []


def test_masked_weights_stay_zero(
    trained: Detector, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    network = copy.deepcopy(trained.network)
    name = "body.0.blocks.0.conv1.weight"
    with torch.no_grad():
        network.get_parameter(name)[:, 0] = 0
    edits = (MaskWeights(parameters=(name,)),)
    masked = trained.evolve(network=network, edits=edits)
    made = Qat(steps=2, batch=4, images=2).run(masked, context(tiny_manifest, tmp_path))
    after = made.network.get_parameter(name)
    assert torch.count_nonzero(after[:, 0]) == 0
    assert torch.count_nonzero(after[:, 1]) > 0


def test_a_file_that_is_not_what_was_trained_is_refused(trained: Detector) -> None:
    network, file = mirrored(trained)
    assert require_mirrored(network, trained, file, tiles(8, 1)) < 0.01
    squeezed = {name: (low / 4, high / 4) for name, (low, high) in network.ranges().items()}
    other = quantize_static(to_onnx(trained.network, 64), squeezed)
    with pytest.raises(TrainingError, match="does not compute what `qat` trains"):
        require_mirrored(network, trained, other, tiles(8, 1))


def test_a_recipe_fits_the_meaning_of_int8_scores(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.evaluate.calibrate import meaning_of
    from lydite.evaluate.score import score_detector
    from lydite.study.cache import Cache
    from lydite.study.execute import Learning, Options, execute

    steps = [{"train": {"steps": 12, "batch": 8, "lr": 5e-3}}, {"qat": {"steps": 2, "batch": 4}}]
    start = {"network": "lydite-small", "size": 64, "config": {"widths": [4], "blocks": 0}}
    recipe = Recipe.model_validate({"name": "it", "start": start, "steps": steps})
    val = tiny_manifest.select(split="val")
    data = Learning(tiny_manifest.select(split="train"), val)
    made = execute(recipe, data, Cache(tmp_path), Options(device="cpu")).detector
    assert made.card.quantization is not None
    scores = score_detector(made, val, runtime="onnxruntime")
    # the threshold follows the float detector's; the rest is fitted on what the file answers
    kept = made.card.score.threshold
    assert made.card.score == meaning_of(scores, val.digest, threshold=kept)
    assert made.card.score.fitted_on == val.digest
    assert [figure.metric for figure in made.card.measured] == ["accuracy", "auc"]


def test_rounding_is_learned_on_clean_and_degraded_copies(
    trained: Detector, tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Qat(steps=4, batch=8, lr=1e-3, images=4, observe=0.5)
    degrade = {"jpeg": 1.0, "scale": 1.0, "scale_factor": (0.6, 0.8)}
    both = Qat.model_validate(plain.model_dump() | {"degrade": degrade, "consistency": 4.0})
    networks: list[FakeQuantized] = []

    def kept(network: FakeQuantized, *rest: Any) -> float:
        networks.append(network)
        return require_mirrored(network, *rest)

    monkeypatch.setattr(qat, "require_mirrored", kept)
    for name, step in (("plain", plain), ("both", both)):
        step.run(trained, context(tiny_manifest, tmp_path / name))
    # the ranges follow 2 of 4 steps: 8 crops each, or 8 crops and their 8 copies
    assert [int(network.images_seen) for network in networks[1::2]] == [16, 32]
    assert networks[1].ranges() != networks[3].ranges()
    stage = Stage("lydite-small", trained=True)
    both.check(stage)
    assert stage.images == 2 * 2 * 4 * 8
    watched = Qat(steps=200, batch=32, swad=Swad(every=10, crops=512))
    assert watched.learned_images == 200 * 32  # looks move no range, and are no training
    assert watched.pushed_images > watched.learned_images


def test_order_is_checked() -> None:
    with pytest.raises(ConfigError, match="`qat` needs a trained network"):
        Qat().check(Stage("lydite-small"))
    stage = Stage("lydite-small", trained=True)
    Qat(steps=10, batch=4).check(stage)
    assert (stage.quantized, stage.images) == (True, 80)
    with pytest.raises(ConfigError, match="`finetune` cannot follow `quantize` or `qat`"):
        parse_step("finetune").check(stage)
    after_quantize = Stage("lydite-small", trained=True)
    Quantize().check(after_quantize)
    with pytest.raises(ConfigError, match="`qat` cannot follow `quantize`"):
        Qat().check(after_quantize)


def test_recipes_know_the_step() -> None:
    step = parse_step({"qat": {"steps": 50, "float_input": False}})
    assert step == Qat(steps=50, float_input=False)
    assert isinstance(step, TrainSettings)
    assert (Qat().steps, Qat().lr) == (200, 1e-4)
    with pytest.raises(ConfigError, match="`observe`"):
        parse_step({"qat": {"observe": 2}})


def test_only_a_rounded_result_keeps_its_parents_threshold() -> None:
    assert Qat().copies
    assert not Qat(result="float32").copies

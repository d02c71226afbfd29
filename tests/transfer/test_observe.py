"""What is observed at places: gradients against real adapters, maps by hand, nothing changed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from helpers.networks import picture
from helpers.transfer import changed, trained
from lydite.card import Architecture, Quantization
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.data.preprocess import normalize
from lydite.detector import Detector
from lydite.edits import AddAdapter
from lydite.errors import ConfigError, DataError
from lydite.models.surgery import add_adapter_
from lydite.models.timm import TimmNetwork
from lydite.training.batches import Batches
from lydite.training.settings import TrainSettings
from lydite.transfer.adapt import Adapt
from lydite.transfer.observe import free_places, observe, place_gradients, pooled_maps

LYDITE = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6, 5]})
PAPER = Architecture(network="paper-student-0.44m", input_size=64, config={"width": 0.1})


@pytest.fixture(scope="module")
def train(tiny_manifest: Manifest) -> Manifest:
    return tiny_manifest.select(split="train", domain="two")


def frozen(architecture: Architecture) -> Detector:
    detector = trained(architecture)
    detector.network.eval().requires_grad_(False)
    return detector


@pytest.mark.parametrize("architecture", [LYDITE, PAPER], ids=["lydite", "paper"])
def test_gradients_are_those_of_a_linear_adapter_as_it_starts(architecture: Architecture) -> None:
    network = frozen(architecture).network
    images, targets = picture(3, architecture.input_size), torch.tensor([0, 1, 1])
    places = network.stages()
    gradients, _ = place_gradients(network, places, images, targets, 0.1)
    for place in places:
        adapted = copy.deepcopy(network)
        channels = network.channels_after(place)
        add_adapter_(adapted, AddAdapter(after=place, kind="linear", channels=channels))
        weight = adapted.adapters[place.replace(".", "_")].get_parameter("pointwise.weight")
        for number in range(3):
            one = slice(number, number + 1)
            loss = F.cross_entropy(adapted(images[one]), targets[one], label_smoothing=0.1)
            (wanted,) = torch.autograd.grad(loss, weight)
            torch.testing.assert_close(
                gradients[place][number], wanted[:, :, 0, 0], rtol=1e-4, atol=1e-6
            )


def test_a_gradient_is_the_slope_of_the_loss() -> None:
    network = frozen(LYDITE).network.double()
    images, targets = picture(1, 32).double(), torch.tensor([1])
    (gradient,) = place_gradients(network, ["body.1"], images, targets)[0].values()
    add_adapter_(network, AddAdapter(after="body.1", kind="linear", channels=6))
    network.double().requires_grad_(False)
    weight = network.adapters["body_1"].get_parameter("pointwise.weight")
    for out, into in ((0, 0), (2, 4), (5, 1)):
        losses = []
        for step in (1e-6, -2e-6):
            weight[out, into] += step
            losses.append(float(F.cross_entropy(network(images), targets)))
        weight[out, into] += 1e-6
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx(float(gradient[0, out, into]), rel=1e-3, abs=1e-7)


def test_scaling_a_map_and_undoing_it_in_the_next_layer_changes_no_gradient() -> None:
    network = frozen(PAPER).network
    images, targets = picture(2, 64), torch.tensor([0, 1])
    place = network.stages()[1]
    before = place_gradients(network, [place], images, targets)[0][place]
    scaled = copy.deepcopy(network)
    scaled.get_parameter("body.bn2.weight").mul_(8.0)
    scaled.get_parameter("body.bn2.bias").mul_(8.0)
    scaled.get_parameter("body.spatial3.weight").div_(8.0)
    gradients, maps = place_gradients(scaled, [place], images, targets)
    torch.testing.assert_close(gradients[place], before)
    torch.testing.assert_close(maps[place], 8 * pooled_maps(network, [place], images)[place])


def test_maps_are_means_over_positions() -> None:
    network = frozen(LYDITE).network
    images = picture(2, 32)
    first = network.get_submodule("body.0")(network.get_submodule("residual")(images))
    found = pooled_maps(network, ["body.0", "body.2"], images)
    torch.testing.assert_close(found["body.0"], first.mean((2, 3)))
    torch.testing.assert_close(found["body.2"], network.features(images).mean((2, 3)))


def test_crops_are_those_that_training_draws(train: Manifest, tiny_manifest: Manifest) -> None:
    detector = frozen(LYDITE)
    settings = TrainSettings(flip=False, jpeg=1.0)
    known = tiny_manifest.select(split="train", domain="one")
    seen = observe(detector, train, known, crops=35, seed=4, settings=settings)
    batches = Batches(train, detector.card.preprocess, settings, 4, ImageStore())
    pixels, targets = batches.load(range(35))
    images = torch.from_numpy(normalize(pixels, detector.card.preprocess))
    places = detector.network.stages()
    gradients, maps = place_gradients(detector.network, places, images, torch.from_numpy(targets))
    pixels, _ = Batches(known, detector.card.preprocess, settings, 4, ImageStore()).load(range(35))
    images = torch.from_numpy(normalize(pixels, detector.card.preprocess))
    known_maps = pooled_maps(detector.network, places, images)
    assert [place.stage for place in seen] == places
    for place in seen:
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(place.gradients, gradients[place.stage], **close)
        np.testing.assert_allclose(place.maps, maps[place.stage], **close)
        np.testing.assert_allclose(place.known, known_maps[place.stage], **close)
        np.testing.assert_array_equal(place.targets, targets)
        assert place.groups.tolist() == [batches.row_at(p).group for p in range(35)]


def test_equal_seeds_see_the_same_and_the_detector_keeps_every_bit(train: Manifest) -> None:
    detector = trained(LYDITE)
    detector.network.train()
    before = detector.evolve(network=copy.deepcopy(detector.network))
    one, again, other = (observe(detector, train, crops=8, seed=seed) for seed in (1, 1, 2))
    for first, second, third in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(first.gradients, second.gradients)
        np.testing.assert_array_equal(first.maps, second.maps)
        assert not np.array_equal(first.maps, third.maps)
    assert changed(before, detector) == set()
    assert all(p.requires_grad and p.grad is None for p in detector.network.parameters())
    assert all(m.training and not m._forward_hooks for m in detector.network.modules())


def test_hooks_are_gone_after_an_error() -> None:
    network = frozen(LYDITE).network
    with pytest.raises(RuntimeError):
        pooled_maps(network, ["body.0"], torch.zeros(1, 5, 32, 32))
    assert not network.get_submodule("body.0")._forward_hooks


def test_places_with_an_adapter_are_left_out(train: Manifest) -> None:
    once = Adapt(place="middle").outline(trained(LYDITE))
    assert free_places(once.network) == ["body.0", "body.2"]
    # what comes behind an adapter is seen through it
    places = {place.stage: place for place in observe(once, train, crops=2)}
    plain = {place.stage: place for place in observe(trained(LYDITE), train, crops=2)}
    np.testing.assert_array_equal(places["body.0"].maps, plain["body.0"].maps)
    assert not np.allclose(places["body.2"].maps, plain["body.2"].maps)


def test_networks_without_a_free_place_are_refused() -> None:
    full = trained(LYDITE)
    for place in range(3):
        full = Adapt(place=place).outline(full)
    with pytest.raises(ConfigError, match="already behind each stage"):
        free_places(full.network)
    with pytest.raises(ConfigError, match="Networks of timm.*`finetune` with `layers: head`"):
        free_places(TimmNetwork(torch.nn.Conv2d(3, 2, 1), 64))


def test_what_cannot_be_observed_is_refused(train: Manifest, tmp_path: Path) -> None:
    quantized = trained(LYDITE).evolve(quantization=Quantization(scheme="linear-int8"))
    with pytest.raises(ConfigError, match="is quantized, and places are asked of a float detector"):
        observe(quantized, train)
    with pytest.raises(DataError, match="both classes"):
        observe(trained(LYDITE), train.select(label="real"))


def test_crops_are_degraded_as_training_would(tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    detector = trained(LYDITE)
    plain, worn = (
        observe(detector, train, crops=8, settings=Adapt(place="auto", degrade=degrade))
        for degrade in (None, {"jpeg": 1.0, "jpeg_quality": (40, 50)})
    )
    assert not np.array_equal(plain[0].gradients, worn[0].gradients)

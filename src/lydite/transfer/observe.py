"""What labeled images say of the places where an adapter could sit, before any training.

Everything is asked of one adapter: y(p) = W x(p) at every position p of the map behind a stage,
with W the identity (the adapter `linear` as it starts). Nothing changes the detector then, so one
pass forward and one back through the untouched network give the gradient by W at every place at
once: for one image, the sum over positions of dL/dx(p) x(p)^T.

W has no unit: it says by what share of itself the map changes. So where a network multiplies a map
by a constant and divides by it in the next layer, which changes nothing, this gradient stays the
same, while that by the map itself, or by a bias, does not. That is why depths compare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.data.preprocess import normalize
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.models.contract import Network, adapter_key
from lydite.training.batches import Batches
from lydite.training.labels import FromLabels
from lydite.training.mixed import MixedBatches
from lydite.training.settings import TrainSettings

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
#: images per pass
BATCH = 32


@dataclass(frozen=True)
class Observed:
    """What N images say at one place.

    Attributes:
        stage: of the network, behind which the adapter would sit.
        gradients: (N, C, C) of each image's cross-entropy by the adapter's weight, outputs first.
        maps: (N, C) means of each image's map over positions.
        targets: (N,) 1 for fake.
        groups: (N,) what images belong together.
        known: (M, C) the same of images that the detector knows; None: there are none.
    """

    stage: str
    gradients: Float32
    maps: Float64
    targets: NDArray[np.int64]
    groups: NDArray[np.str_]
    known: Float64 | None = None

    @property
    def channels(self) -> int:
        """How many channels the map has."""
        return int(self.maps.shape[1])


def free_places(network: Network) -> list[str]:
    """Return the stages that have no adapter yet, input side first.

    Raises:
        ConfigError: there are none.
    """
    stages = network.stages()
    if not stages:
        raise ConfigError(
            f"Networks of {network.family} name no place for an adapter: only those of "
            "`lydite models` do. Use `finetune` with `layers: head`."
        )
    free = [stage for stage in stages if adapter_key(stage) not in network.adapters]
    if not free:
        raise ConfigError(
            f"There is an adapter already behind each stage of this network: {', '.join(stages)}. "
            "Use `finetune`, or start from the detector without them."
        )
    return free


def places_of(detector: Detector) -> list[str]:
    """Return the places of a detector that can be asked, input side first.

    Raises:
        ConfigError: none is free, or the detector is quantized.
    """
    if detector.card.quantization is not None:
        raise ConfigError(
            f"{detector.card.name} is quantized, and places are asked of a float detector. "
            "Use the one that it was made from."
        )
    return free_places(detector.network)


def observe(
    detector: Detector,
    images: Manifest,
    known: Manifest | None = None,
    *,
    crops: int = 128,
    seed: int = 0,
    settings: TrainSettings | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Observed]:
    """Return what crops of images say at every free place, input side first.

    Crops are drawn, cut and degraded as training with these settings would. The gradients take 4
    C^2 bytes for each crop and place. Equal arguments give equal numbers on the same machine.

    Args:
        detector: trained; stays as it is.
        images: of what it is to learn, labeled.
        known: images of what it knows already.
        crops: how many, of each of the two.
        seed: of the draw.
        settings: of the training that is to come.
        device: where to compute.
        progress: told (crops done, crops in all).

    Raises:
        ConfigError: no place is free, or the detector is quantized.
        DataError: a class is missing, or an image cannot be read.
    """
    places = places_of(detector)
    settings, store = settings or TrainSettings(), ImageStore()
    network = copy.deepcopy(detector.network).to(device).eval().requires_grad_(False)

    def batches(manifest: Manifest) -> Batches:
        given = manifest.readable(), detector.card.preprocess, settings, seed, store
        degrade = settings.degrade if isinstance(settings, FromLabels) else None
        return Batches(*given) if degrade is None else MixedBatches(*given, degrade=degrade)

    drawn, others = batches(images), None if known is None else batches(known)
    total = crops * (1 if others is None else 2)
    progress(0, total)
    gradients, maps = _collect(
        _passes(drawn, crops, device),
        lambda x, y: place_gradients(network, places, x, y, settings.label_smoothing),
        lambda done: progress(done, total),
    )
    known_maps: Mapping[str, Tensor] = {}
    if others is not None:
        (known_maps,) = _collect(
            _passes(others, crops, device),
            lambda x, _: (pooled_maps(network, places, x),),
            lambda done: progress(crops + done, total),
        )
    rows = [drawn.row_at(position) for position in range(crops)]
    return [
        Observed(
            stage=place,
            gradients=gradients[place].numpy(),
            maps=maps[place].double().numpy(),
            targets=np.array([row.target for row in rows], dtype=np.int64),
            groups=np.array([row.group for row in rows], dtype=np.str_),
            known=known_maps[place].double().numpy() if known_maps else None,
        )
        for place in places
    ]


def place_gradients(
    network: Network,
    places: Sequence[str],
    images: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return each image's gradient by a linear adapter at the identity, and its pooled map.

    Images do not mix in evaluation mode, so the gradient of their summed loss by one image's map
    is that of its own loss.

    Args:
        network: in evaluation mode, its parameters without gradients; stays as it is.
        places: stages of it.
        images: (N, 3, S, S) normalized.
        targets: (N,) class indices.
        label_smoothing: of the loss.

    Returns:
        (N, C, C) gradients, outputs first, and (N, C) means of the maps, by place.
    """
    with _tapped(network, places) as maps, torch.enable_grad():
        loss = F.cross_entropy(
            network(images), targets, reduction="sum", label_smoothing=label_smoothing
        )
        by_map = torch.autograd.grad(loss, [maps[place] for place in places])
    gradients, pooled = {}, {}
    for place, gradient in zip(places, by_map, strict=True):
        values = maps[place].detach()
        gradients[place] = gradient.flatten(2) @ values.flatten(2).transpose(1, 2)
        pooled[place] = values.mean((2, 3))
    return gradients, pooled


@torch.no_grad()
def pooled_maps(network: Network, places: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return the means over positions of the maps behind stages, (N, C) by place."""
    with _tapped(network, places) as maps:
        network(images)
    return {place: maps[place].detach().mean((2, 3)) for place in places}


@contextmanager
def _tapped(network: Network, places: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Keep the maps behind stages as the network runs, as long as the block does."""
    maps: dict[str, Tensor] = {}

    def tap(place: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def keep(_stage: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            # gradients begin at the first map, where nothing before it asks for any
            maps[place] = output if output.requires_grad else output.detach().requires_grad_()
            return maps[place]

        return keep

    handles = [network.get_submodule(p).register_forward_hook(tap(p)) for p in places]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _passes(batches: Batches, crops: int, device: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (crops so far, normalized images, targets) of the first crops that training draws."""
    for first in range(0, crops, BATCH):
        positions = range(first, min(first + BATCH, crops))
        loaded = batches.fetch(positions)
        inputs = torch.from_numpy(normalize(loaded.crops, batches.preprocess)).to(device)
        yield positions.stop, inputs, torch.from_numpy(loaded.targets).to(device)


def _collect(
    passes: Iterable[tuple[int, Tensor, Tensor]],
    look: Callable[[Tensor, Tensor], Sequence[Mapping[str, Tensor]]],
    progress: Callable[[int], None],
) -> list[dict[str, Tensor]]:
    """Return what `look` gives of all passes, one after the other along images, on the CPU."""
    found = []
    for done, images, targets in passes:
        found.append([{k: v.cpu() for k, v in part.items()} for part in look(images, targets)])
        progress(done)
    return [
        {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*found, strict=True)
    ]

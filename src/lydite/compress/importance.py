"""Which channels matter, asked of training images: scores from the gradients of gates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lydite.card import Preprocess
from lydite.compress.channels import Floats, WeightScore, group_scores
from lydite.compress.gates import gate_gradients
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.data.preprocess import normalize
from lydite.errors import DataError
from lydite.models.contract import Network
from lydite.training.batches import Batches
from lydite.training.settings import TrainSettings

DataScore = Literal["taylor", "fisher", "domains"]
Score = Literal[WeightScore, DataScore]
DATA_SCORES: tuple[str, ...] = get_args(DataScore)
#: images per batch
BATCH = 32


def taylor_scores(gradients: Floats) -> Floats:
    """Return the mean over images of |gate gradient|: how far the loss moves, to first order.

    Molchanov et al. 2017 (arXiv 1611.06440), equation 8, for the gate of a whole channel. The
    magnitude is taken of each image: over a batch, gradients of opposite sign would cancel.

    Args:
        gradients: (N, C) of each image's loss by each channel's gate.

    Returns:
        (C,) scores, larger is more important.
    """
    scores: Floats = np.abs(gradients).mean(axis=0)
    return scores


def fisher_scores(gradients: Floats) -> Floats:
    """Return half the mean over images of the squared gate gradient, (C,) for (N, C).

    It estimates by how much the loss grows at a minimum, where the first order vanishes and the
    Fisher information stands for the second: Theis et al. 2018 (arXiv 1801.05787), equation 6;
    summed over coupled layers as in Liu et al. 2021, "Group Fisher Pruning" (arXiv 2108.00708).
    """
    scores: Floats = 0.5 * np.square(gradients).mean(axis=0)
    return scores


def domain_scores(growth: Floats) -> Floats:
    """Return how much channels matter to all domains alike: mean^3 / (mean^2 + variance).

    With D domains and d_c the growth of domain d's loss without channel c, m and v their mean and
    (population) variance over domains, the score is m * m^2 / (m^2 + v). The factor is the share
    of the domains that the channel effectively serves: 1 where all feel its loss alike, 1/D where
    a single one does. So a channel that one generator alone needs goes before one that all need,
    although the mean loss is the same.

    After Cai, Li, Kot 2022, "Toward domain generalized pruning by scoring out-of-distribution
    importance" (arXiv 2210.13810), who estimate importance by the variance of domain-level risks
    in order to keep the domain-general filters. What departs: variance enters as a discount
    without a weight to tune, which never turns negative, and risks are Fisher estimates
    (`fisher_scores`) of the growth.

    Args:
        growth: (D, C) growth of each domain's loss, not negative.

    Returns:
        (C,) scores, larger is more important.
    """
    mean = growth.mean(axis=0)
    square = np.square(growth).mean(axis=0)  # mean^2 + variance
    scores: Floats = mean**3 / np.where(square > 0, square, 1.0)
    return scores


@dataclass(frozen=True)
class Gates:
    """What training images say of a network's channels.

    Attributes:
        gradients: (N, C) of each image's loss by each channel's gate, by group name.
        targets: (N,) 1 for fake.
        sources: (N,) the domain of each image.
        generators: (N,) what made it.
    """

    gradients: dict[str, Floats]
    targets: NDArray[np.int64]
    sources: NDArray[np.str_]
    generators: NDArray[np.str_]

    def scores(self, score: DataScore) -> dict[str, Floats]:
        """Return the score of every channel by group name, of mean 1 over the whole network.

        Losses compare between layers, so groups are not brought to one mean.

        Raises:
            DataError: "domains", and there is one domain only; or a gradient is not finite.
        """
        if score == "domains":
            strata = self.strata()
            found = {n: domain_scores(self.growth(g, strata)) for n, g in self.gradients.items()}
        else:
            rule = taylor_scores if score == "taylor" else fisher_scores
            found = {name: rule(gradients) for name, gradients in self.gradients.items()}
        if not all(np.isfinite(values).all() for values in found.values()):
            raise DataError(
                f"`score: {score}`: a gradient of the loss is not finite, and would rank nothing. "
                "The detector's weights are damaged, or its answers overflow."
            )
        mean = float(np.concatenate(list(found.values())).mean())
        return {n: v / mean if mean > 0 else np.ones_like(v) for n, v in found.items()}

    def strata(self) -> list[tuple[str, str]]:
        """Return the domains: every pair of source and generator that fakes are of.

        Raises:
            DataError: there are fewer than two.
        """
        fake = self.targets == 1
        pairs = zip(self.sources[fake].tolist(), self.generators[fake].tolist(), strict=True)
        found = sorted(set(pairs))
        if len(found) < 2:
            raise DataError(
                "`score: domains` compares domains, and needs fakes of two generators or sources. "
                f"Got {', '.join(map(' of '.join, (pair[::-1] for pair in found)))} alone among "
                f"{int(fake.sum())} fakes. Use `score: fisher`."
            )
        return found

    def growth(self, gradients: Floats, strata: Sequence[tuple[str, str]]) -> Floats:
        """Return the Fisher estimate of each domain's growth of loss, (D, C) for (N, C).

        A domain is a generator's fakes and the real images of the same source (all of them where
        the source has none), both classes counting one half.
        """
        real, rows = self.targets == 0, []
        for source, generator in strata:
            fake = (self.targets == 1) & (self.sources == source) & (self.generators == generator)
            beside = real & (self.sources == source)
            beside = beside if beside.any() else real
            rows.append((fisher_scores(gradients[fake]) + fisher_scores(gradients[beside])) / 2)
        return np.stack(rows)


def watch_gates(
    network: Network,
    preprocess: Preprocess,
    train: Manifest,
    count: int,
    seed: int,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Gates:
    """Return the gate gradients of `count` crops of training images.

    Real and fake are drawn by turns, and within a class every pair of source and generator by
    turns; images are cropped and mirrored as for training. The same seed draws the same crops.

    Args:
        network: whose channels are scored; stays as it is.
        preprocess: of its detector.
        train: training images.
        count: how many crops.
        seed: of the draw.
        device: where to compute.
        progress: told (images done, images in all).

    Raises:
        DataError: a class is missing, or an image cannot be read.
        ConfigError: the network cannot be pruned, or not scored this way.
    """
    groups = network.groups()
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    drawn = _by_generator(train)
    batches = Batches(drawn, preprocess, TrainSettings(batch=BATCH), seed, ImageStore())
    parts: dict[str, list[Floats]] = {group.name: [] for group in groups}
    rows = [batches.row_at(position) for position in range(count)]
    progress(0, count)
    for first in range(0, count, BATCH):
        positions = range(first, min(first + BATCH, count))
        crops, targets = batches.load(positions)
        images = torch.from_numpy(normalize(crops, preprocess)).to(device)
        wanted = torch.from_numpy(targets).to(device)
        for name, gradients in gate_gradients(network, groups, images, wanted).items():
            parts[name].append(gradients)
        progress(positions.stop, count)
    return Gates(
        {name: np.concatenate(gradients) for name, gradients in parts.items()},
        np.array([row.target for row in rows], dtype=np.int64),
        np.array([row.domain.removesuffix(f"/{row.generator}") for row in rows], dtype=np.str_),
        np.array([row.generator for row in rows], dtype=np.str_),
    )


def _by_generator(manifest: Manifest) -> Manifest:
    """Return the manifest with every pair of domain and generator as a domain of its own."""
    pairs = zip(manifest.column("domain"), manifest.column("generator"), strict=True)
    names = pa.array([f"{domain}/{generator}" for domain, generator in pairs], pa.string())
    place = manifest.table.schema.get_field_index("domain")
    field = manifest.table.schema.field("domain")
    return Manifest(manifest.table.set_column(place, field, names), manifest.root)


def channel_scores(
    network: Network, score: Score, seed: int, watch: Callable[[], Gates] | None = None
) -> dict[str, Floats]:
    """Return the score of every channel of every group, whatever kind of score it is.

    Args:
        network: whose channels are scored.
        score: how.
        seed: of random scores.
        watch: gives the gate gradients that a score from images is made of; None, where there are
            no images (in an outline), lets "l1" stand for it.
    """
    if score == "taylor" or score == "fisher" or score == "domains":
        return group_scores(network, "l1", seed) if watch is None else watch().scores(score)
    return group_scores(network, score, seed)

"""How much a detector suffers when one of its channel groups is pruned, group by group.

Li et al. 2017 (arXiv 1608.08710), section 3.2: each layer is pruned alone, without fine-tuning, and
the detector is measured. What falls steeply is a group to spare in `prune` (its option `rates`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lydite.compress.channels import Floats, top_channels
from lydite.compress.importance import DATA_SCORES, Gates, Score, channel_scores, watch_gates
from lydite.compress.sensitivity_result import Measures, Point, Sensitivity
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector, versions
from lydite.errors import ConfigError, DataError
from lydite.evaluate.metrics import accuracy, auc
from lydite.evaluate.score import score_detector
from lydite.files import digest
from lydite.models.contract import ChannelGroup
from lydite.models.cost import count_parameters
from lydite.models.surgery import edit_for, replay_
from lydite.recipe import Progress, silent
from lydite.training.device import number_format

SHARES = (0.25, 0.5, 0.75, 0.9)


def measure_sensitivity(
    detector: Detector,
    images: Manifest,
    *,
    score: Score = "l1",
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    train: Manifest | None = None,
    crops: int = 256,
    progress: Progress = silent,
) -> Sensitivity:
    """Prune every channel group alone, by every share, and measure the detector each time.

    Images are decoded once. Nothing is fine-tuned, and the detector stays as it is.

    Args:
        detector: trained, not quantized.
        images: to measure on; of the validation split, as a rule.
        score: how channels are ranked, see `channel_scores`.
        shares: of a group's channels to remove, in (0, 1); one channel at least is kept.
        seed: of random scores and of the crops that scores from images are made of.
        train: images that "taylor", "fisher" and "domains" are made of.
        crops: how many crops of them.
        progress: told how many measurements are done.

    Raises:
        ConfigError: a share is not in (0, 1), the network cannot be pruned, or it is quantized.
        DataError: the score needs training images that are not there.
    """
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong or not shares:
        raise ConfigError(
            "`shares` must be in (0, 1). "
            f"Got {wrong[0] if wrong else 'none'}. Use 0.5 to remove half of a group's channels."
        )
    if detector.card.quantization is not None:
        raise ConfigError(
            f"{detector.card.name} is quantized, and channels are pruned in a float detector. "
            "Use the one that it was made from."
        )
    groups = detector.network.groups()
    if not groups:
        raise ConfigError(
            f"Networks of {detector.network.family} have no channel groups to prune. "
            "Use one of `lydite models`."
        )
    scores = _scores(detector, score, seed, train, crops, progress)
    store, done, total = ImageStore(), 0, 1 + len(groups) * len(shares)
    progress("sensitivity", 0, total, detector.card.name)
    table = _score(detector, images, store)
    whole, failed = _measures(table), table["z"].null_count
    progress("sensitivity", 1, total, detector.card.name)
    points: list[Point] = []
    for group in groups:
        for share in shares:
            point = _point(detector, group, scores[group.name], share, points, images, store)
            points.append(point)
            done += 1
            progress("sensitivity", 1 + done, total, f"{group.name} -{share:.0%}")
    return Sensitivity(
        detector=detector.card.name,
        card_digest=detector.card.digest,
        score=score,
        seed=seed,
        images=images.digest,
        n=len(images) - failed,
        unreadable=failed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        parameters=count_parameters(detector.network),
        whole=whole,
        points=tuple(points),
    )


def choose_images(manifest: Manifest, count: int, seed: int) -> Manifest:
    """Return at most `count` readable images, half of them of each class, chosen by the seed alone.

    Raises:
        DataError: a class is missing.
    """
    readable = manifest.readable()
    targets = readable.targets
    names = readable.column("sha256")
    # which images it are does not depend on the order of the manifest's rows
    order = sorted(range(len(names)), key=lambda row: digest([seed, names[row]]))
    real, fake = ([row for row in order if targets[row] == target] for target in (0, 1))
    if not real or not fake:
        raise DataError(
            "Sensitivity needs images of both classes. "
            f"Got {len(real)} real and {len(fake)} fake in this split."
        )
    chosen = real[: count // 2] + fake[: count - count // 2]
    return Manifest(readable.table.take(sorted(chosen)), readable.root)


def _scores(
    detector: Detector,
    score: Score,
    seed: int,
    train: Manifest | None,
    crops: int,
    progress: Progress,
) -> dict[str, Floats]:
    """Return the score of every channel, from training images where it is made of them."""
    if score in DATA_SCORES and (train is None or not len(train)):
        raise DataError(
            f"`score: {score}` is made of training images, and there are none. Use `score: l1`."
        )

    def watch() -> Gates:
        assert train is not None, "checked above"
        return watch_gates(
            detector.network,
            detector.card.preprocess,
            train,
            crops,
            seed,
            device=number_format()[0],
            progress=lambda done, total: progress("score channels", done, total, score),
        )

    return channel_scores(detector.network, score, seed, watch)


def _point(
    detector: Detector,
    group: ChannelGroup,
    scores: Floats,
    share: float,
    known: Sequence[Point],
    images: Manifest,
    store: ImageStore,
) -> Point:
    """Prune one group and measure; equal counts of channels are measured once."""
    kept = max(1, group.size - round(share * group.size))
    for point in known:
        if (point.group, point.kept) == (group.name, kept):
            return point.model_copy(update={"share": share})
    network = copy.deepcopy(detector.network)
    replay_(network, [edit_for(network, group, top_channels(scores, kept))])
    return Point(
        group=group.name,
        size=group.size,
        share=share,
        kept=kept,
        parameters=count_parameters(network),
        measures=_measures(_score(detector.evolve(network=network), images, store)),
    )


def _score(detector: Detector, images: Manifest, store: ImageStore) -> pa.Table:
    """Return the detector's scores, computed where this machine computes fastest."""
    network = copy.deepcopy(detector.network).to(torch.device(number_format()[0]))
    return score_detector(detector.evolve(network=network), images, runtime="torch", images=store)


def _measures(scores: pa.Table) -> Measures:
    """Return what scores say, failures left out."""
    usable = scores.filter(pc.is_valid(scores["z"]))
    z, targets = usable["z"].to_numpy(), usable["target"].to_numpy()
    loss = float(np.logaddexp(0, np.where(targets == 1, -z, z)).mean()) if len(z) else None
    return Measures(
        auc=auc(z, targets),
        accuracy=accuracy(usable["p_fake"].to_numpy(), targets),
        loss=loss,
    )

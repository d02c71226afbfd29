"""Leakage probes: what can be told without any trace of a generator.

A detector is worth what it knows beyond these. They learn from the images that detectors learn
from and are scored on the same test images, into the same table of scores, so that every figure
and interval is made in the same way.

| probe | sees | a high AUC means |
|---|---|---|
| `format-size` | the header: format, size, bytes, JPEG tables, metadata; no pixel | classes were saved in different ways |
| `low-frequency` | 8 by 8 means of the pixels and their colors | classes show different things, or in other light |
| `shuffled-labels` | the same 8 by 8 means, under labels drawn at random | pictures stand in several splits, or the measuring is wrong |

Shuffling the labels of the training images alone would prove nothing: on a test set whose classes
differ in brightness, a model of pure noise is right or wrong about nearly all images, as chance has
it, and one trained on copies of test images learns labels that these do not have. So each
*picture* is given a label at random, that all rows of the same bytes or the same group share, in
training and in test (see `shuffle`), and the learner is one that can only remember: the label of the
nearest training image, the surer the nearer. Nothing lifts that above chance but having met the
same picture before. With a share d of copies among the test images the AUC is near 0.5 + d.
It finds copies byte by byte and groups that span splits; copies that were saved again under
another group have other labels here, and `lydite data check` finds them.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from lydite.data.audit.confound import thin
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.evaluate.probes.learners import Float64, from_header, from_memory, from_thumbnail
from lydite.evaluate.probes.looks import Looks, look_at
from lydite.evaluate.probes.shuffle import Int64, shuffled
from lydite.evaluate.score import scores_table
from lydite.recipe import Progress, silent

#: raised when the same images would give other scores than before
VERSION = 1
#: a probe learns from this many training images at most, drawn group by group
MOST_IMAGES = 4000
SHUFFLED = "shuffled-labels"
#: in the order of tables
PROBES: dict[str, Callable[[Looks, Int64, Looks], Float64]] = {
    "format-size": from_header,
    "low-frequency": from_thumbnail,
    SHUFFLED: from_memory,
}


@dataclass(frozen=True)
class Probe:
    """A probe's scores.

    Attributes:
        name: of the probe.
        images: how many training images it learned from.
        scores: one row a test image; None where there was nothing to learn from.
        note: why not.
    """

    name: str
    images: int
    scores: pa.Table | None
    note: str = ""


def run_probes(
    train: Manifest,
    test: Manifest,
    *,
    key: str,
    labels: tuple[str, str] = ("real", "fake"),
    seed: int = 0,
    images: ImageStore | None = None,
    progress: Progress = silent,
) -> list[Probe]:
    """Let every probe learn from training images and score test images.

    Args:
        train: what detectors learn from.
        test: what they are measured on.
        key: goes into the tables' `key`.
        labels: of the task, the positive one last.
        seed: of the choice of training images and of shuffled labels.
        images: decoded test images that are kept; training images are looked at once.
        progress: told about the work.

    Returns:
        One entry a probe, in the order of `PROBES`. The scores of `shuffled-labels` are filed
        under the labels that it was asked for, not the true ones.
    """
    if images is None:  # a store that is still empty is one to fill
        images = ImageStore(0)
    known_rows = _some(train, seed)
    rows = list(test.rows())
    known = look_at(known_rows, ImageStore(0), progress, "training images")
    new = look_at(rows, images, progress, "test images")
    others = shuffled([*known_rows, *rows], labels, seed)
    found = []
    with threadpool_limits(1):
        for name, learner in PROBES.items():
            pair = (known_rows, rows)
            if name == SHUFFLED:
                pair = (others[: len(known_rows)], others[len(known_rows) :])
            found.append(_probe(name, learner, pair, (known, new), key))
    return found


def _some(train: Manifest, seed: int) -> list[Row]:
    """Return up to `MOST_IMAGES` rows."""
    rows = list(train.rows())
    _, groups = np.unique(np.array([row.group for row in rows]), return_inverse=True)
    return [rows[i] for i in thin(groups.astype(np.int64), seed, MOST_IMAGES)]


def _probe(
    name: str,
    learner: Callable[[Looks, Int64, Looks], Float64],
    rows: tuple[list[Row], list[Row]],
    looks: tuple[Looks, Looks],
    key: str,
) -> Probe:
    """Run one probe; `rows` and `looks` are of training and test images."""
    (known_rows, new_rows), (known, new) = rows, looks
    targets = np.array([row.target for row in known_rows], dtype=np.int64)[known.usable]
    if np.unique(targets).size < 2:
        return Probe(name, targets.size, None, "the training images are not of two classes")
    z = np.full(len(new_rows), np.nan)
    if new.usable.any():
        z[new.usable] = learner(known.take(known.usable), targets, new.take(new.usable))
    constant = {"key": key, "detector": f"probe:{name}", "runtime": "sklearn"}
    p_fake = 0.5 * (1.0 + np.tanh(0.5 * z))
    return Probe(name, targets.size, scores_table(constant, new_rows, z, p_fake, new.errors))

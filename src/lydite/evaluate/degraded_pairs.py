"""Images scored twice, as they are and degraded: every metric of both, and what lies between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lydite.evaluate import kernels
from lydite.evaluate.auc_gain import AUC_GAIN
from lydite.evaluate.compare import FLIPPED, GAIN
from lydite.evaluate.kernels import Float64, Int64, Kernel
from lydite.evaluate.photographs import FALSE_ALARMS
from lydite.evaluate.unseen import Mask, Names, Roles, places

#: how many more photographs, and fakes, are called fake; for photographs above 0 is a loss
FALSE_ALARM_GAIN, RECALL_GAIN = "false_alarm_gain", "recall_gain"
#: metrics of the degraded images, and the gain that each may be compared by
METRICS: dict[str, tuple[Kernel, str | None]] = {
    "accuracy": (kernels.accuracy, GAIN),
    "balanced_accuracy": (kernels.balanced_accuracy, None),
    "auc": (kernels.auc, AUC_GAIN),
    FALSE_ALARMS: (kernels.false_alarm_rate, FALSE_ALARM_GAIN),
    "recall": (kernels.recall, RECALL_GAIN),
}
GAINS = tuple(gain for _, gain in METRICS.values() if gain is not None)


@dataclass(frozen=True)
class Pairs:
    """Images that have a score both ways, all (N,).

    Attributes:
        z: of the degraded image.
        p_fake: its probability.
        clean_z: of the image as it is.
        clean_p_fake: its probability.
        targets: 1 for fake.
        domain: where the image is from.
        place: the same, held-out fakes apart.
        group: what it must be drawn together with.
    """

    z: Float64
    p_fake: Float64
    clean_z: Float64
    clean_p_fake: Float64
    targets: Int64
    domain: Names
    place: Names
    group: Names

    def take(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(**{name: values[keep] for name, values in vars(self).items()})

    def measure(self, weights: Float64) -> dict[str, Float64]:
        """Return every metric for weights (B, N): (B,) each."""
        found = {}
        for name, (kernel, gain) in METRICS.items():
            ranked = name in kernels.RANKED
            value = kernel(self.z if ranked else self.p_fake, self.targets, weights)
            found[name] = value
            if gain is not None:
                before = self.clean_z if ranked else self.clean_p_fake
                found[gain] = value - kernel(before, self.targets, weights)
        half = kernels.DECISION
        differ = ((self.p_fake > half) != (self.clean_p_fake > half)).astype(np.float64)
        found[FLIPPED] = kernels.ratio(weights @ differ, weights.sum(axis=1))
        return found


def pairs_of(rows: pa.Table, clean: pa.Table, roles: Roles) -> Pairs:
    """Return two tables of the same images, in the same order, as arrays."""

    def numbers(table: pa.Table, name: str) -> Float64:
        return np.asarray(table[name].to_numpy(), dtype=np.float64)

    domain, generator, targets, held = columns_of(rows, roles)
    return Pairs(
        numbers(rows, "z"),
        numbers(rows, "p_fake"),
        numbers(clean, "z"),
        numbers(clean, "p_fake"),
        targets,
        domain,
        np.array(places(domain, generator, held), dtype=np.str_),
        np.array(rows["group"].to_pylist(), dtype=np.str_),
    )


def columns_of(rows: pa.Table, roles: Roles) -> tuple[Names, Names, Int64, Mask]:
    """Return domain, generator, target, and whether it is a fake held out, all (N,)."""
    domain, generator = (
        np.array(rows[name].to_pylist(), dtype=np.str_) for name in ("domain", "generator")
    )
    targets = rows["target"].to_numpy().astype(np.int64)
    return domain, generator, targets, roles.held(targets, generator)

"""Which images count as unseen: domains that were not learned, and generators that were held out.

A detector may learn a domain without one of its generators. That generator's fakes are unseen
although their domain is not, and are measured against the domain's real images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lydite.evaluate.kernels import Int64

Names = NDArray[np.str_]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Roles:
    """What domains and generators are to a detector, and so to the figures of it.

    Attributes:
        seen: domains that it was trained on.
        source: domains that it was trained on before those; neither seen nor unseen.
        unseen_generators: generators whose fakes it did not learn in these domains either.
    """

    seen: Sequence[str]
    source: Sequence[str] = ()
    unseen_generators: Sequence[str] = ()

    @property
    def groups(self) -> tuple[tuple[str, Sequence[str]], ...]:
        """The groups that images of learned domains are averaged in, with these domains."""
        return ("seen", self.seen), ("source", self.source)

    def held(self, targets: Int64, generator: Names) -> Mask:
        """Return which images are fakes that were held out of their domain: (N,) of booleans."""
        return held_fakes(targets, generator, self.unseen_generators)

    def units(self, scores: pa.Table) -> list[dict[str, str]]:
        """Return what a mean over unseen images is taken over, each counting the same.

        Args:
            scores: as in `SCORES_SCHEMA`; rows without a score count too, so that a domain that
                could not be scored at all leaves the mean undefined, not flattered.

        Returns:
            {"domain": d} for every domain that was not learned, in the study or before it, then
            {"domain": d, "generator": g} for every generator held out of a seen one; what the
            starting detector learned of the source's is not known here.
        """
        known = {*self.seen, *self.source}
        units = [{"domain": d} for d in sorted(set(scores["domain"].to_pylist()) - known)]
        rows = scores.select(["domain", "generator", "target"]).to_pylist()
        pairs = {
            (row["domain"], row["generator"])
            for row in rows
            if row["target"] == 1
            and row["domain"] in self.seen
            and row["generator"] in self.unseen_generators
        }
        return units + [{"domain": d, "generator": g} for d, g in sorted(pairs)]


def held_fakes(targets: Int64, generator: Names, unseen_generators: Sequence[str]) -> Mask:
    """Return which images are fakes of held-out generators: (N,) of booleans."""
    held: Mask = (targets == 1) & np.isin(generator, list(unseen_generators))
    return held


def members(unit: Mapping[str, str], domain: Names, generator: Names, targets: Int64) -> Mask:
    """Return which images a unit holds: a domain's, or its real ones and one generator's fakes."""
    here: Mask = domain == unit["domain"]
    if "generator" in unit:
        here = here & ((targets == 0) | (generator == unit["generator"]))
    return here


def places(domain: Names, generator: Names, held: Mask) -> list[str]:
    """Return each image's stratum beside its class: fakes that are held out are drawn apart."""
    return [
        f"{d}/{g}" if apart else d
        for d, g, apart in zip(domain.tolist(), generator.tolist(), held.tolist(), strict=True)
    ]

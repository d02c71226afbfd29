"""Which fake stands beside a photograph in a batch: one made from it, where there is one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lydite.data.manifest import Row
from lydite.training.strata import Stratum

Numbers = NDArray[np.int64]
#: of the photographs that have a fake of their own, at most so many see another one beside them
_MOST = 0.9


class Pairs:
    """The fakes of every photograph, and those that would never come up because they have none.

    A fake without a photograph comes where the photograph before it has no fake. Where the turns of
    its domain never meet such a one, it takes the place of a paired fake now and then: so often
    that its domain has its share of the fakes. Of several fakes of a photograph each comes as often
    as the others; with `shared`, those of a domain as often as it has turns.

    Args:
        rows: all images.
        real: the photographs and their turns.
        fake: the fakes and theirs.
        shared: some domains have shares of their own.
    """

    def __init__(
        self, rows: Sequence[Row], real: Stratum, fake: Stratum, *, shared: bool = False
    ) -> None:
        self.partners = _partners(rows)
        self._odds = _odds(self.partners, fake) if shared else {}
        self._lone = _unreached(rows, real, fake, self.partners)
        paired = [
            np.mean([rows[n].group in self.partners for n in real.domains[d]]) for d in real.cycle
        ]
        shares = [
            lone.size / fake.domains[d].size * (_turns(fake, d) if shared else 1)
            for d, lone in self._lone.items()
        ]
        self._weights = np.array(shares) / sum(shares) if shares else np.empty(0)
        wanted = sum(shares) / (1 if shared else len(fake.domains))
        self.chance = min(_MOST, wanted / max(np.mean(paired), 1e-9))

    def __bool__(self) -> bool:
        """Tell whether any photograph has a fake."""
        return bool(self.partners)

    def mate(self, photograph: Row, seed: int, position: int) -> int | None:
        """Return the row number of the fake at a position, None where it comes by turns."""
        partners = self.partners.get(photograph.group)
        if partners is None:
            return None
        if self._lone:
            rng = np.random.default_rng([seed, 9, position])
            if rng.random() < self.chance:
                domain = list(self._lone)[int(rng.choice(len(self._lone), p=self._weights))]
                return int(rng.choice(self._lone[domain]))
        odds = self._odds.get(photograph.group)
        return int(np.random.default_rng([seed, 3, position]).choice(partners, p=odds))


def _turns(fake: Stratum, domain: int) -> float:
    """Return the share of the turns that a domain has."""
    return fake.cycle.count(domain) / len(fake.cycle)


def _odds(partners: Mapping[str, Numbers], fake: Stratum) -> dict[str, NDArray[np.float64]]:
    """Return how likely each fake of a photograph is, where these are of several domains."""
    domain_of = {int(n): d for d, members in enumerate(fake.domains) for n in members}
    found = {}
    for group, numbers in partners.items():
        domains = [domain_of[int(n)] for n in numbers]
        if len(set(domains)) > 1:
            odds = np.array([_turns(fake, d) / domains.count(d) for d in domains])
            found[group] = odds / odds.sum()
    return found


def _partners(rows: Sequence[Row]) -> dict[str, Numbers]:
    """Return the fakes of every group that holds a photograph too."""
    real = {row.group for row in rows if row.target == 0}
    found: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.target == 1 and row.group in real:
            found[row.group].append(number)
    return {group: np.array(numbers) for group, numbers in found.items()}


def _unreached(
    rows: Sequence[Row], real: Stratum, fake: Stratum, partners: Mapping[str, Numbers]
) -> dict[int, Numbers]:
    """Return, by domain of the fakes, those that have no photograph and never come by turns."""
    if not partners:
        return {}
    open_ = [any(rows[n].group not in partners for n in members) for members in real.domains]
    reached = {
        fake.cycle[turn % len(fake.cycle)]
        for turn in range(math.lcm(len(real.cycle), len(fake.cycle)))
        if open_[real.cycle[turn % len(real.cycle)]]
    }
    found = {}
    for domain, members in enumerate(fake.domains):
        lone = np.array([n for n in members if rows[n].group not in partners], dtype=np.int64)
        if lone.size and domain not in reached:
            found[domain] = lone
    return found

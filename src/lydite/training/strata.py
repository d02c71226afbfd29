"""Whose turn it is: the images of each class by domain, and the order of the domains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lydite.data.manifest import Row
from lydite.training.settings import TrainSettings

#: turns after which shares of domains begin anew, or more where a share is that small
CYCLE = 100
#: turns that every domain has in them, at least
FEWEST_TURNS = 10


@dataclass(frozen=True)
class Stratum:
    """The images of one class, and whose turn it is.

    Attributes:
        domains: numbers of its rows, by domain.
        cycle: the domains whose turns follow each other, again and again.
    """

    domains: tuple[NDArray[np.int64], ...]
    cycle: tuple[int, ...]

    def turn(self, number: int) -> tuple[int, int]:
        """Return which domain has turn `number`, and how many turns it had before."""
        round_, place = divmod(number, len(self.cycle))
        domain = self.cycle[place]
        return domain, round_ * self.cycle.count(domain) + self.cycle[:place].count(domain)


def strata_of(rows: list[Row], settings: TrainSettings) -> list[Stratum]:
    """Group row numbers by class, then domain; for "none" all in one."""
    if settings.balance == "none":
        return [Stratum((np.arange(len(rows)),), (0,))]
    groups: dict[int, dict[str, list[int]]] = {0: defaultdict(list), 1: defaultdict(list)}
    for number, row in enumerate(rows):
        groups[row.target][row.domain].append(number)
    return [
        Stratum(
            tuple(np.array(groups[target][domain]) for domain in sorted(groups[target])),
            _cycle(sorted(groups[target]), settings.domain_shares),
        )
        for target in (0, 1)
    ]


def _cycle(domains: Sequence[str], shares: Mapping[str, float]) -> tuple[int, ...]:
    """Return the order of turns in which every domain has its share, spread as evenly as it can be.

    Domains without a share of their own divide what is left; shares of domains that are not there,
    or that would leave nothing to the others, do not count.
    """
    wanted = [shares.get(domain) for domain in domains]
    given = sum(share for share in wanted if share is not None)
    free = wanted.count(None)
    if not given or not free:
        return tuple(range(len(domains)))
    weights = [(1 - given) / free if share is None else share for share in wanted]
    due, turns = [0.0] * len(domains), []
    for _ in range(max(CYCLE, math.ceil(FEWEST_TURNS / min(weights)))):
        due = [waited + weight for waited, weight in zip(due, weights, strict=True)]
        turns.append(max(range(len(domains)), key=due.__getitem__))
        due[turns[-1]] -= 1
    return tuple(turns)

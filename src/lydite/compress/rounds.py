"""Pruning in several rounds: how far each one goes, and how a killed run finds its way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lydite.card import CARD_NAME
from lydite.compress.channels import Floats
from lydite.compress.widths import ParameterCount, Scope, plan_channels
from lydite.detector import Detector
from lydite.errors import CardError, FileError
from lydite.models.contract import Network
from lydite.training.team import Team


def rate_until(rate: float, number: int, rounds: int) -> float:
    """Return the share removed when `number` of `rounds` rounds are done.

    Every round keeps the same share of what it finds, so that the last one ends at `rate`: a
    geometric schedule, 1 - (1 - rate)^(number / rounds).

    >>> [round(rate_until(0.875, number, 3), 3) for number in (1, 2, 3)]
    [0.5, 0.75, 0.875]
    """
    if number == rounds:
        return rate
    return float(1 - (1 - rate) ** (number / rounds))


@dataclass(frozen=True)
class Widths:
    """How wide a network is to be after each round.

    Attributes:
        start: the network before the first round.
        rate: share of its parameters to remove in all.
        scope: see `plan_channels`.
        multiple: see `plan_channels`.
        rates: of single groups, in all.
        rounds: how many rounds.
    """

    start: Network
    rate: float
    scope: Scope
    multiple: int
    rates: Mapping[str, float]
    rounds: int = 1

    def after(self, number: int, network: Network, scores: Mapping[str, Floats]) -> dict[str, int]:
        """Return how many channels each group keeps after round `number`, from 1.

        With "uniform", where scores do not matter, the last round ends at exactly the widths of a
        single one. With "global" every round ranks what is left.

        Args:
            number: of the round, from 1.
            network: as the round before left it.
            scores: of its channels.

        Raises:
            ConfigError: see `plan_channels`.
        """
        if self.rounds == 1:
            return self._plan(network, scores, self.rate, self.rates)
        sizes = ParameterCount(network).sizes
        if self.scope == "uniform":
            now, last = (self._from_start(n, scores) for n in (number, self.rounds))
            return {n: min(size, max(now[n], last[n])) for n, size in sizes.items()}
        goal = ParameterCount(self.start).total * (1 - rate_until(self.rate, number, self.rounds))
        rate = 1 - goal / ParameterCount(network).total
        return sizes if rate <= 0 else self._plan(network, scores, rate, self._rates(number))

    def _from_start(self, number: int, scores: Mapping[str, Floats]) -> dict[str, int]:
        """Return the widths after a round, of the network before any."""
        rate = rate_until(self.rate, number, self.rounds)
        return self._plan(self.start, scores, rate, self._rates(number))

    def _rates(self, number: int) -> dict[str, float]:
        """Return the rates of single groups after a round."""
        return {n: rate_until(rate, number, self.rounds) for n, rate in self.rates.items()}

    def _plan(
        self,
        network: Network,
        scores: Mapping[str, Floats],
        rate: float,
        rates: Mapping[str, float],
    ) -> dict[str, int]:
        """Return the widths of a network that is `rate` smaller."""
        return plan_channels(
            network,
            scores,
            rate,
            self.scope,
            self.multiple,
            rates=rates,
            sizes=ParameterCount(self.start).sizes,
        )


def staged(folder: Path, make: Callable[[], Detector], *, together: bool = False) -> Detector:
    """Return the detector that a folder keeps, made and kept there first if it is not.

    What a round gave is read back and never made twice, so that a run that was killed and one that
    was not go the same way.

    Args:
        folder: of this stage alone.
        make: makes the detector.
        together: under `torchrun` every process makes it; otherwise the leader alone does.

    Raises:
        CardError: what was just written cannot be read back.
        FileError: the folder cannot be written.
    """
    team = Team.current()
    if not team.agree(team.leads and _is_kept(folder)):
        made = make() if together or team.leads else None
        if team.leads and made is not None:
            made.save(folder)
        team.agree(True)  # from here on the others can read it
    return Detector.load(folder)


def _is_kept(folder: Path) -> bool:
    """Tell whether a folder holds a sound detector."""
    if not (folder / CARD_NAME).is_file():
        return False
    try:
        Detector.load(folder)
    except (CardError, FileError):
        return False
    return True

"""How a detector's probabilities are spread, and whether they mean what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from numpy.typing import NDArray

from lydite.evaluate.unseen import Roles, members
from lydite.report.svg import COLORS, draw, look_of

BINS = 20
#: an interval of probability with fewer images than this says nothing about calibration
_FEWEST = 10
_ACROSS = 5


@dataclass(frozen=True)
class Spread:
    """Probabilities of one detector on one kind of images.

    Attributes:
        name: of the detector.
        p_fake: (N,) probabilities.
        targets: (N,) 1 for fake.
    """

    name: str
    p_fake: NDArray[np.float64]
    targets: NDArray[np.int64]


def spread_of(
    name: str,
    scores: pa.Table,
    roles: Roles,
    *,
    unseen: bool,
) -> Spread:
    """Return the probabilities of a detector's test scores on seen or unseen images.

    Domains of the source, which were learned before, are neither. Fakes of generators that were
    held out are unseen, beside the real images of their domain.
    """
    usable = pc.and_(pc.is_valid(scores["p_fake"]), pc.equal(scores["split"], "test"))
    rows = scores.filter(usable)
    domain, generator = (
        np.array(rows[column].to_pylist(), dtype=np.str_) for column in ("domain", "generator")
    )
    targets = rows["target"].to_numpy().astype(np.int64)
    kept = np.isin(domain, list(roles.seen)) & ~roles.held(targets, generator)
    if unseen:
        kept = np.zeros(targets.size, dtype=bool)
        for unit in roles.units(rows):
            kept |= members(unit, domain, generator, targets)
    return Spread(name, rows["p_fake"].to_numpy().astype(np.float64)[kept], targets[kept])


def histograms(seen: Sequence[Spread], unseen: Sequence[Spread]) -> str:
    """Return one small panel a detector: seen domains above the line, unseen ones beneath it.

    Each of the four distributions adds up to one, so classes of different size compare; heights
    are square roots, so that a few images in the middle stay visible beside many at the ends.
    """
    across = min(_ACROSS, max(1, len(seen)))
    down = max(1, math.ceil(len(seen) / across))

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for panel in grid.flat[len(seen) :]:
            panel.set_visible(False)
        for panel, known, new in zip(grid.flat, seen, unseen, strict=False):
            _panel(panel, known, new)
        for place, word, side in ((0.98, "seen", "top"), (0.02, "unseen", "bottom")):
            first = grid[0, 0]
            first.text(0.54, place, word, transform=first.transAxes, va=side, color=COLORS["soft"])
        for column in range(across):
            lowest = grid[(len(seen) - 1 - column) // across, column]
            lowest.tick_params(labelbottom=True)
        canvas.supxlabel("p(fake)", fontsize=9, color=COLORS["soft"])
        handles = [
            Patch(color=COLORS[label], alpha=0.6, lw=0, label=label) for label in ("real", "fake")
        ]
        canvas.legend(handles=handles, loc="outside upper left", ncols=2)

    names = ", ".join(spread.name for spread in seen)
    words = f"Histograms of p(fake) of real and fake test images for {names}."
    size = (1.9 * across, 1.55 * down + 0.6)
    return draw("histograms", "How the scores are spread", words, size, paint)


def reliability(seen: Sequence[Spread], unseen: Sequence[Spread]) -> str:
    """Return how often images of a predicted probability are fakes, against that probability.

    Both classes weigh the same, as they do where the temperature is fitted.
    """

    def paint(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, sharex=True, sharey=True)
        for axes, spreads, title in ((left, seen, "seen domains"), (right, unseen, "unseen")):
            axes.plot([0, 1], [0, 1], color=COLORS["rule"], lw=1.0)
            for number, spread in enumerate(spreads):
                x, y = calibration_curve(spread.p_fake, spread.targets)
                # by place, not by approach: two of them may be of one
                color, marker = look_of(number)
                axes.plot(
                    x,
                    y,
                    color=color,
                    marker=marker,
                    ms=4,
                    lw=1.2,
                    label=spread.name,
                    zorder=3 + number,
                )
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_title(title, loc="left")
            axes.set_xlabel("predicted p(fake)")
        left.set_ylabel("share of fakes")
        handles = left.get_legend_handles_labels()
        canvas.legend(*handles, loc="outside lower center", ncols=4)

    names = ", ".join(spread.name for spread in seen)
    words = f"Calibration curves of {names}; the diagonal is a perfectly calibrated detector."
    return draw("reliability", "Do the probabilities mean what they say?", words, (7.4, 4.3), paint)


def calibration_curve(
    p_fake: NDArray[np.float64], targets: NDArray[np.int64], bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (mean p, share of fakes), class-balanced, of each interval with enough images.

    Args:
        p_fake: (N,) probabilities.
        targets: (N,) 1 for fake.
        bins: number of equal intervals of p.
    """
    fakes = int((targets == 1).sum())
    reals = targets.size - fakes
    if not fakes or not reals:
        return np.empty(0), np.empty(0)
    weight = np.where(targets == 1, 0.5 / fakes, 0.5 / reals)
    at = np.minimum((p_fake * bins).astype(np.int64), bins - 1)
    total = np.bincount(at, weight, bins)
    enough = np.bincount(at, minlength=bins) >= _FEWEST
    mean = np.bincount(at, weight * p_fake, bins)[enough] / total[enough]
    share = np.bincount(at, weight * targets, bins)[enough] / total[enough]
    return mean, share


def _panel(axes: Axes, known: Spread, new: Spread) -> None:
    """Draw one detector's four distributions."""
    edges = np.linspace(0, 1, BINS + 1)
    for spread, sign in ((known, 1.0), (new, -1.0)):
        for target, label in ((0, "real"), (1, "fake")):
            values = spread.p_fake[spread.targets == target]
            if values.size:
                share = np.histogram(values, edges)[0] / values.size
                height = sign * np.sqrt(share)
                axes.stairs(height, edges, fill=True, color=COLORS[label], alpha=0.6, lw=0)
    axes.axhline(0, color=COLORS["ink"], lw=0.7)
    axes.axvline(0.5, color=COLORS["rule"], lw=0.8)
    axes.set_title(known.name, loc="left")
    axes.set(xlim=(0, 1), ylim=(-1.02, 1.02), yticks=[], xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", ".5", "1"])

"""The figure of mean spectra: real, fake, their difference, and the profiles, a row a domain."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from lydite.data.reasons import printable
from lydite.evaluate.spectra import MeanSpectrum, Pair, Spectra
from lydite.report.svg import COLORS, draw

#: less fake than real is blue, more is orange, as in patch maps
_DIVERGING = LinearSegmentedColormap.from_list(
    "lydite", ["#0f3b66", "#2166ac", "#9dc3de", "#f4f2ee", "#e8b07c", "#c85a06", "#6e2f02"]
)
#: the scale of differences reaches this many dB at least, so that noise stays pale
_LEAST_DB = 1.0
#: longest label of a row
_LONGEST = 34


def spectra_figure(found: Spectra, name: str = "spectra") -> str:
    """Return mean spectra as an inline SVG element.

    Args:
        found: what was measured.
        name: id of the drawing.
    """
    pairs = found.pairs
    both = np.concatenate([m.power_db.ravel() for p in pairs for m in (p.real, p.fake)])
    low, high = (float(v) for v in np.quantile(both, (0.01, 0.998)))
    apart = np.concatenate([p.difference_db.ravel() for p in pairs])
    limit = max(_LEAST_DB, float(np.quantile(np.abs(apart), 0.998)))

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(
            len(pairs), 4, squeeze=False, gridspec_kw={"width_ratios": (1, 1, 1, 1.5)}
        )
        for row, pair in enumerate(pairs):
            power = [
                _show(grid[row, column], values, (low, high), "cividis")
                for column, values in enumerate((pair.real.power_db, pair.fake.power_db))
            ]
            gap = _show(grid[row, 2], pair.difference_db, (-limit, limit), _DIVERGING)
            grid[row, 0].set_ylabel(_short(pair.label), color=COLORS["ink"])
            _profiles(grid[row, 3], found, pair)
        titles = (*found.labels, f"{found.labels[1]} minus {found.labels[0]}", "by frequency, dB")
        # the first two titles are the legend of the profiles as well
        for column, title in enumerate(titles):
            color = COLORS[("real", "fake", "ink", "ink")[column]]
            grid[0, column].set_title(title, loc="left", color=color)
        grid[-1, 3].set_xlabel("cycles a pixel")
        _scale(canvas, power[0], list(grid[:, :2].ravel()), 40)
        _scale(canvas, gap, list(grid[:, 2]), 20)

    size = (8.6, 0.9 + 1.75 * len(pairs))
    words = (
        f"Mean log power of the noise residual of {found.size} pixel center crops, zero frequency "
        f"in the middle, half a cycle a pixel at the edges. {_said(found)}"
    )
    title = f"Mean spectra of {found.labels[0]} and {found.labels[1]} images"
    return draw(name, title, words, size, paint)


def _show(
    axes: Axes,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    colors: str | LinearSegmentedColormap,
) -> AxesImage:
    """Draw one spectrum, pixel by pixel."""
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(values, cmap=colors, vmin=limits[0], vmax=limits[1], interpolation="none")


def _profiles(axes: Axes, found: Spectra, pair: Pair) -> None:
    """Draw the two radial profiles with bands of 95 %."""
    for name, mean in (("real", pair.real), ("fake", pair.fake)):
        _profile(axes, found.frequencies, mean, COLORS[name])
    numbers = f"n = {pair.real.n} {found.labels[0]}, {pair.fake.n} {found.labels[1]}"
    axes.text(0.03, 0.05, numbers, transform=axes.transAxes, fontsize=7, color=COLORS["soft"])
    axes.tick_params(labelsize=7)
    axes.set_xlim(0, float(found.frequencies[-1]))


def _profile(axes: Axes, frequencies: NDArray[np.float64], mean: MeanSpectrum, color: str) -> None:
    # zero frequency was subtracted
    x, y, around = frequencies[1:], mean.radial_db[1:], 1.96 * mean.radial_error_db[1:]
    axes.fill_between(x, y - around, y + around, color=color, alpha=0.25, lw=0)
    axes.plot(x, y, color=color, lw=1.2)


def _scale(canvas: Canvas, image: AxesImage, above: list[Axes], aspect: float) -> None:
    """Draw what the colors of some spectra mean beneath them."""
    bar = canvas.colorbar(image, ax=above, location="bottom", shrink=0.75, aspect=aspect)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("dB", fontsize=7)


def _short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _said(found: Spectra) -> str:
    """Return the largest differences in words, for readers who do not see the figure."""
    parts = []
    for pair in found.pairs:
        down, across, height = pair.largest()
        parts.append(f"{printable(pair.label)} {height:+.1f} dB at ({down:.2f}, {across:.2f})")
    return "Largest differences: " + "; ".join(parts) + "."

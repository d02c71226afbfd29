"""Drawing with matplotlib into SVG that takes its colors from the page around it.

The same drawing gives the same text on every run: no dates, no random ids. Colors are named after
the page's CSS variables, so that one drawing serves the light, the dark and the printed page, and
letters stay text.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

#: CSS variables and their light values; matplotlib draws with the values, the page sees the names
COLORS: dict[str, str] = {
    "ink": "#1e1d1b",
    "soft": "#6c6962",
    "rule": "#d9d5cb",
    "paper": "#fffdf8",
    "gold": "#a87a1b",
    "real": "#3f7fae",
    "fake": "#c2632f",
    "good": "#6aa9cf",
    "bad": "#e0946a",
    "s0": "#1e1d1c",
    "s1": "#2f78b0",
    "s2": "#2c8c74",
    "s3": "#8a5fb0",
    "s4": "#c1592f",
    "s5": "#b08a1e",
    "s6": "#ad4f78",
    "s7": "#5f7d3a",
}
SERIES = tuple(value for name, value in COLORS.items() if re.fullmatch(r"s\d", name))
MARKERS = ("o", "s", "^", "D", "v", "h", "<", "p")


def look(number: int) -> tuple[str, str]:
    """Return color and marker of a series; those of the first 56 all differ.

    >>> look(0) == (SERIES[1], MARKERS[1]), len({look(number) for number in range(56)})
    (True, 56)
    """
    turn, place = divmod(number, len(SERIES) - 1)
    return SERIES[1 + place], MARKERS[(1 + place + turn) % len(MARKERS)]


def look_of(color: int) -> tuple[str, str]:
    """Return color and marker of a line's number: 0 is the reference's, see `look` for others."""
    return look(color - 1) if color else (SERIES[0], MARKERS[0])


_RULES: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLORS["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLORS["soft"],
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLORS["ink"],
    "axes.titlesize": 9.5,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": COLORS["rule"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": COLORS["ink"],
    "lines.linewidth": 1.4,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "text.color": COLORS["ink"],
    "text.parse_math": False,
    "xtick.color": COLORS["soft"],
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": COLORS["soft"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def draw(
    name: str,
    title: str,
    description: str,
    size: tuple[float, float],
    paint: Callable[[Canvas], None],
) -> str:
    """Return a drawing as an inline SVG element.

    Args:
        name: unique on the page; ids inside the drawing begin with it.
        title: what readers who do not see it are told first.
        description: what it shows, in a sentence or two.
        size: width and height in inches; the page scales it down where it is narrow.
        paint: draws on the empty canvas.
    """
    assert re.fullmatch(r"[a-z][a-z0-9-]*", name), f"{name!r} cannot be an id"
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_RULES, "svg.hashsalt": f"lydite {name}"})
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas)
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        canvas.savefig(buffer, format="svg", dpi=72, metadata=nothing)
    return _inline(buffer.getvalue(), name, title, description, size)


def _inline(text: str, name: str, title: str, description: str, size: tuple[float, float]) -> str:
    """Make a standalone SVG file part of a page: own ids, the page's colors, a title."""
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    # pixels inside the drawing: the prefix is declared nowhere on the page
    body = body.replace('xlink:href="data:', 'href="data:')
    names = {value: key for key, value in COLORS.items()}
    body = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda m: f"var(--{names[m[0]]}, {m[0]})" if m[0] in names else m[0],
        body,
    )
    # one family for all letters; sizes stay as drawn
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    # letters of 9 pt are 12 px high on the page
    width, height = (f"{72 * side:g}" for side in size)
    shown, tall = (f"{96 * side:g}" for side in size)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{shown}" '
        f'height="{tall}" role="img" aria-labelledby="{name}-title {name}-desc" '
        'font-family="system-ui, sans-serif" stroke-linejoin="round" stroke-linecap="butt">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>' + body.strip()
    )

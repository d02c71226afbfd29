"""Placing the names of points so that they do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

#: average width of a letter and height of a line, per point of font size
_LETTER, _LINE = 0.56, 1.25
#: where a label may stand: direction of its near edge from the point, and its alignment
_PLACES = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (1, 1, "left", "bottom"),
    (1, -1, "left", "top"),
    (-1, 1, "right", "bottom"),
    (-1, -1, "right", "top"),
)
_DISTANCES = (6.0, 11.0, 18.0, 27.0, 38.0)

Box = tuple[float, float, float, float]
Place = tuple[float, float, str, str]


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    font_pt: float,
    point_pt: float = 4.0,
    obstacles: Sequence[Box] = (),
) -> list[Place]:
    """Return for each point where its label goes: (dx, dy, horizontal, vertical alignment).

    Greedy: points from left to right, each takes the free place nearest to it, or the one that
    covers least where none is free.

    Args:
        points: positions, in typographic points (1/72 inch).
        texts: their labels.
        frame: (left, bottom, right, top) that labels stay in.
        font_pt: size of the letters.
        point_pt: half the size of a point's mark.
        obstacles: further boxes to keep clear of.
    """
    taken: list[Box] = [(x - point_pt, y - point_pt, x + point_pt, y + point_pt) for x, y in points]
    result: list[Place] = [(0.0, 0.0, "left", "center")] * len(points)
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        x, y = points[index]
        width, height = _LETTER * font_pt * len(texts[index]), _LINE * font_pt
        best: tuple[float, Place, Box] | None = None
        for distance in _DISTANCES:
            for side, up, horizontal, vertical in _PLACES:
                dx, dy = side * distance, up * distance
                box = _box(x + dx, y + dy, width, height, side, up)
                others = [*taken[:index], *taken[index + 1 :], *obstacles]
                cost = sum(_overlap(box, other) for other in others)
                cost += 2 * (width * height - _overlap(box, frame)) + distance * 1e-3
                if best is None or cost < best[0]:
                    best = (cost, (dx, dy, horizontal, vertical), box)
            if best is not None and best[0] < 1:
                break
        assert best is not None, "there are places to try"
        result[index] = best[1]
        taken.append(best[2])
    return result


def _box(x: float, y: float, width: float, height: float, side: int, up: int) -> Box:
    """Return the box of a label whose near edge (or middle) is at a point."""
    left = x if side > 0 else x - width if side < 0 else x - width / 2
    bottom = y if up > 0 else y - height if up < 0 else y - height / 2
    return left, bottom, left + width, bottom + height


def _overlap(a: Box, b: Box) -> float:
    """Return the common area of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)

"""Degradations by name: what an image may go through before a detector meets it.

A degradation is written as a kind and an amount, or as several of them in a row:

| written | what is done |
|---|---|
| `jpeg-75` | compressed as JPEG of this quality, 1 to 100, color at half resolution |
| `webp-80` | compressed as lossy WebP of this quality, 1 to 100 |
| `resize-0.75` | both sides times this factor, 0.1 to 4, bicubic; the image stays that size |
| `fit-1080` | scaled down until the longest side has this many pixels, if it has more |
| `blur-1` | Gaussian blur of this standard deviation in pixels, 0.1 to 20 |
| `noise-5` | plus Gaussian noise of this standard deviation, 0.1 to 128 of 255 levels |
| `crop-0.8` | the middle of the image, with this share of each side, 0.1 to 1 |
| `resize-0.5+jpeg-75` | one after the other |

and three chains have names of their own (`CHAINS`): a `screenshot`, an image sent through a
`social` network, and a `repost`, the screenshot of a post that is posted again. They are like what
such services do, not what one of them does.

The same image, name and key give the same pixels in every process, with the same versions of numpy
and Pillow.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lydite.config import Frozen
from lydite.data.distort import UInt8, blurred, cropped, fitted, noisy, recompressed, scaled
from lydite.errors import ConfigError, unknown_name

#: of an image to which nothing was done
NONE = "none"


@dataclass(frozen=True)
class Kind:
    """One kind of degradation.

    Attributes:
        apply: (pixels, amount, generator of random numbers) -> pixels.
        amount: what its number is, in words.
        low: smallest amount.
        high: largest amount.
        example: an amount for messages.
        whole: the amount is a whole number.
    """

    apply: Callable[[UInt8, float, np.random.Generator], UInt8]
    amount: str
    low: float
    high: float
    example: float
    whole: bool = False


KINDS: dict[str, Kind] = {
    "jpeg": Kind(lambda rgb, q, _: recompressed(rgb, int(q)), "quality", 1, 100, 75, whole=True),
    "webp": Kind(
        lambda rgb, q, _: recompressed(rgb, int(q), "WEBP"), "quality", 1, 100, 80, whole=True
    ),
    "resize": Kind(lambda rgb, factor, _: scaled(rgb, factor), "factor", 0.1, 4, 0.75),
    "fit": Kind(
        lambda rgb, most, _: fitted(rgb, int(most)), "longest side", 16, 16384, 1080, whole=True
    ),
    "blur": Kind(lambda rgb, sigma, _: blurred(rgb, sigma), "standard deviation", 0.1, 20, 1),
    "noise": Kind(noisy, "standard deviation", 0.1, 128, 5),
    "crop": Kind(lambda rgb, share, _: cropped(rgb, share), "share of each side", 0.1, 1, 0.8),
}
#: chains with names
CHAINS: dict[str, str] = {
    # shown a little smaller than it is, softened by that; saved without loss, which changes nothing
    "screenshot": "resize-0.85+blur-0.5",
    # scaled for the screen of a phone, compressed by the app and once more by the server
    "social": "fit-1080+jpeg-85+jpeg-70",
    # a screenshot of a post, posted
    "repost": "social+screenshot+social",
}
#: lists with names
#: how an amount is written
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")

GRIDS: dict[str, tuple[str, ...]] = {
    "quick": ("jpeg-75", "resize-0.75", "blur-1", "social"),
    "standard": (
        *("jpeg-95", "jpeg-75", "jpeg-60", "jpeg-40", "webp-80"),
        *("resize-0.5", "resize-0.75", "resize-1.5", "resize-2"),
        *("blur-1", "noise-5", "crop-0.8"),
        *("screenshot", "social", "repost"),
    ),
}


class Operation(Frozen):
    """One thing that is done to an image: a name in `KINDS`, and how much of it."""

    kind: str
    amount: float


class Degradation(Frozen):
    """What is done to an image, in order.

    Attributes:
        name: as it stands in scores and figures.
        operations: none for an image that is left as it is.
    """

    name: str
    operations: tuple[Operation, ...]


@functools.cache
def parse(name: str) -> Degradation:
    """Return the degradation that a name stands for.

    >>> parse("blur-1.0+jpeg-75").name
    'blur-1+jpeg-75'

    Raises:
        ConfigError: an unknown name, or an amount out of range.
    """
    if name == NONE:
        return Degradation(name=NONE, operations=())
    parts = [_part(word.strip()) for word in name.split("+")]
    return Degradation(
        name="+".join(part.name for part in parts),
        operations=tuple(operation for part in parts for operation in part.operations),
    )


def named(names: Iterable[str]) -> tuple[str, ...]:
    """Return degradations by their plain names: lists written out, none twice, and not `NONE`.

    >>> named(["quick", "jpeg-75", "blur-2.0"])
    ('jpeg-75', 'resize-0.75', 'blur-1', 'social', 'blur-2')

    Raises:
        ConfigError: see `parse`.
    """
    full = [parse(one).name for name in names for one in GRIDS.get(name, (name,))]
    return tuple(dict.fromkeys(name for name in full if name != NONE))


def degrade(rgb: UInt8, name: str, key: str) -> UInt8:
    """Return a degraded image; the same arguments always give the same pixels.

    Args:
        rgb: (H, W, 3) uint8; not changed.
        name: of the degradation, see `parse`.
        key: what noise is drawn by, beside the name: the SHA-256 of the image's file.

    Returns:
        (H', W', 3) uint8; the image itself where nothing is to be done.

    Raises:
        ConfigError: an unknown name.
        DecodeError: code "too-many-pixels": the result is too large to be made.
    """
    chosen = parse(name)
    for place, operation in enumerate(chosen.operations):
        seed = hashlib.sha256(f"{chosen.name}\n{place}\n{key}".encode()).digest()[:8]
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        rgb = KINDS[operation.kind].apply(rgb, operation.amount, rng)
    return rgb


def _part(word: str) -> Degradation:
    """Return what one word of a name stands for."""
    if word in CHAINS:
        return Degradation(name=word, operations=parse(CHAINS[word]).operations)
    kind, _, amount = word.partition("-")
    if kind not in KINDS:
        if word in GRIDS:
            raise ConfigError(f"'{word}' is a list of degradations, and no part of a single one.")
        known = [f"{name}-{k.example:g}" for name, k in KINDS.items()]
        raise ConfigError(
            unknown_name("degradation", word, [*known, *CHAINS, *GRIDS])
            + " Other amounts are allowed, and + puts one after the other."
        )
    value = _amount(word, KINDS[kind], amount)
    return Degradation(name=f"{kind}-{value:g}", operations=(Operation(kind=kind, amount=value),))


def _amount(word: str, kind: Kind, text: str) -> float:
    """Return the number in a word.

    Raises:
        ConfigError: not a number, or not one that is allowed.
    """
    value = float(text) if _AMOUNT.fullmatch(text) else float("nan")
    if not kind.low <= value <= kind.high or (kind.whole and not value.is_integer()):
        what = "a whole number" if kind.whole else "a number"
        start = word.partition("-")[0]
        raise ConfigError(
            f"The degradation '{word}' needs {what} from {kind.low:g} to {kind.high:g}, its "
            f"{kind.amount}. Write for instance {start}-{kind.example:g}."
        )
    return float(f"{value:g}")  # as it is written: two amounts never share a name

"""From a folder of images to a manifest: labels are decided here, once, and never by sorting.

A layout (one of `LAYOUTS`) says what each file is; splits come from the layout or from a hash of
group and seed; then every file's header and digest are read. No file is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lydite.data.manifest import Manifest
from lydite.data.scan import folders, pets, table  # noqa: F401  (they register their layouts)
from lydite.data.scan.entries import LAYOUTS, Entry, Layout, Source
from lydite.data.scan.read import read_entries
from lydite.data.scan.splits import Fractions, assign_splits, parse_split, with_validation
from lydite.data.scan.walk import find_images
from lydite.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from lydite.recipe import Progress

__all__ = ["LAYOUTS", "Entry", "Layout", "ScanPlan", "parse_split", "plan_scan", "scan"]

AUTO = "auto"
TABLE = "csv"


@dataclass(frozen=True)
class ScanPlan:
    """What a scan will put in the manifest, before any file is read.

    Attributes:
        root: the folder that paths are relative to.
        layout: the layout that was used.
        reason: why `auto` chose it, or that it was named.
        entries: one an image, each with a split.
        left_out: images in the folder that the layout says nothing about.
    """

    root: Path
    layout: str
    reason: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]

    def count(self, attribute: str) -> dict[str, int]:
        """Return how many entries have each value of an attribute, by falling count."""
        return dict(Counter(getattr(entry, attribute) for entry in self.entries).most_common())


def plan_scan(
    root: Path,
    layout: str = AUTO,
    *,
    real: Sequence[str | Path] = (),
    fake: Sequence[str | Path] = (),
    split: str | Fractions | None = None,
    seed: int = 0,
) -> ScanPlan:
    """Decide label, generator, domain, split and group of every image below a folder.

    Args:
        root: the folder, or a CSV table in it.
        layout: a name in `LAYOUTS`, or "auto" where exactly one fits.
        real: folders of photographs, for `folders` and `synthbuster`, relative to the root.
        fake: folders of generated images, for `folders`.
        split: a split's name for all images, fractions for train, val and test where the layout
            has no splits, or None for 70, 10 and 20 %. Where folders are called train and test
            alone, the share of val is divided off train.
        seed: of the division into splits.

    Raises:
        ConfigError: no such layout.
        DataError: no folder, no layout fits or several do, or the layout finds no image.
    """
    if layout != AUTO and layout not in LAYOUTS:
        raise ConfigError(unknown_name("layout", layout, [*LAYOUTS, AUTO]))
    source = _source(root, layout, real, fake)
    name, reason = (layout, "named") if layout != AUTO else detect_layout(source)
    chosen = LAYOUTS.get(name)
    entries = assign_splits(chosen.entries(source), split, seed)
    if name != TABLE:  # what a table says of splits is meant so
        entries = with_validation(entries, split, seed)
    if not entries:
        raise DataError(
            f"{root} holds no image in the layout {name}, which expects {chosen.expects}. "
            f"{len(source.images)} images lie there in another order."
        )
    used = {entry.path for entry in entries}
    left_out = tuple(path for path in map(str, source.images) if path not in used)
    return ScanPlan(source.root, name, reason, tuple(entries), left_out)


def scan(
    root: Path,
    layout: str = AUTO,
    *,
    real: Sequence[str | Path] = (),
    fake: Sequence[str | Path] = (),
    split: str | Fractions | None = None,
    seed: int = 0,
    verify: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Turn a folder into a manifest; unreadable files stay in it, with a reason code.

    Args:
        root: the folder, or a CSV table in it.
        layout: a name in `LAYOUTS`, or "auto" where exactly one fits.
        real: folders of photographs, see `plan_scan`.
        fake: folders of generated images, see `plan_scan`.
        split: a split's name, fractions, or None, see `plan_scan`.
        seed: of the division into splits.
        verify: decode every pixel, not only the headers.
        progress: told about the work.

    Raises:
        ConfigError: no such layout.
        DataError: no folder, no layout fits or several do, or the layout finds no image.

    >>> manifest = scan(Path("photos"), "folders", real=["mine"], fake=["sd"])  # doctest: +SKIP
    """
    plan = plan_scan(root, layout, real=real, fake=fake, split=split, seed=seed)
    return read_entries(plan.entries, plan.root, verify=verify, progress=progress)


def detect_layout(source: Source) -> tuple[str, str]:
    """Return the one layout that fits a folder, and why.

    Raises:
        DataError: none fits, or several do; the message lists them with their reasons.
    """
    reasons = {name: LAYOUTS.get(name).evidence(source) for name in LAYOUTS}
    fitting = {name: reason for name, reason in reasons.items() if reason}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    if fitting:
        found = "; ".join(f"{name} ({reason})" for name, reason in fitting.items())
        raise DataError(f"{source.root} fits several layouts: {found}. Name one with --layout.")
    shapes = "; ".join(f"{name}: {LAYOUTS.get(name).expects}" for name in LAYOUTS)
    raise DataError(
        f"{source.root} fits no layout that Lydite knows ({shapes}). "
        "Say what its folders are: --layout folders --real A --fake B."
    )


def _source(
    root: Path, layout: str, real: Sequence[str | Path], fake: Sequence[str | Path]
) -> Source:
    """Look at the disk and check the folders that the user named."""
    given = root
    try:
        root = Path(root).expanduser().resolve()
        is_folder, is_file = root.is_dir(), root.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"The folder {given} cannot be read: {reason}.") from error
    if is_file and (layout == TABLE or (root.suffix.lower() == ".csv" and layout == AUTO)):
        return Source(root.parent, find_images(root.parent), table=root)
    if is_file:
        raise DataError(
            f"{given} is a file. Name a folder, or a CSV table: one called .csv, or --layout csv."
        )
    if not is_folder:
        raise DataError(f"There is no folder {given}.")
    named_real = tuple(_below(root, folder, "real") for folder in real)
    named_fake = tuple(_below(root, folder, "fake") for folder in fake)
    return Source(root, find_images(root), real=named_real, fake=named_fake)


def _below(root: Path, folder: str | Path, option: str) -> PurePosixPath:
    """Return a folder that the user named, relative to the root."""
    path = Path(folder) if Path(folder).is_absolute() else root / folder
    if not path.is_dir():
        raise DataError(f"`{option}` names {str(folder)!r}, but there is no such folder in {root}.")
    try:
        relative = path.resolve().relative_to(root)
    except ValueError:
        try:  # a link inside the root that leads elsewhere keeps the path it has here
            relative = path.relative_to(root)
        except ValueError:
            raise DataError(
                f"`{option}` must name a folder below {root}. Got {str(folder)!r}."
            ) from None
    if ".." in relative.parts:
        raise DataError(f"`{option}` must name a folder below {root}. Got {str(folder)!r}.")
    return PurePosixPath(relative.as_posix())

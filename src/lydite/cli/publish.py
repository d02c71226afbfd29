"""`lydite publish`: a study's detector as a folder to give away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command."""
    app.command(publish)


def publish(
    study: Path,
    detector: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    title: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a study's detector, exported, with the study's test figures in its card.

    Parameters
    ----------
    study
        Folder of a finished study.
    detector
        Name of the recipe whose detector it is.
    out
        Folder to write; an older detector there is replaced.
    title
        Name in the card.
    json
        Print the card as JSON.
    """
    from lydite.study.publish import publish as write

    made = write(study, detector, out, title=title)
    size = sum(entry.size_bytes for entry in made.card.files.values())
    emit(made.card.to_json(), json, f"{out}: {made.card.name}, {size / 1e3:.0f} kB in all")

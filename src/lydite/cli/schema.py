"""`lydite schema`: the JSON schema of the files that people write, for editors and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lydite.cli.output import emit

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command."""
    app.command(schema)


def schema(of: Literal["recipe", "study", "card"] = "recipe") -> None:
    """Print the JSON schema of a recipe, a study or a detector's card.

    Parameters
    ----------
    of
        recipe, study or card.
    """
    from lydite.study.schema import json_schema

    emit(json_schema(of), True, "")

"""The plan of a study's folder, as far as its page quotes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lydite.errors import DataError
from lydite.files import read_json
from lydite.study.results import STUDY_FILE, Result


def read_plan(folder: Path) -> dict[str, Any]:
    """Return the study as data, empty where the folder does not tell.

    Raises:
        DataError: it is none that was written here.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        return {}
    value = read_json(path)
    inner = value.get("study", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not _is_study(inner):
        raise DataError(f"{path} is not the plan of a study. Run the study again.")
    return inner


def _is_study(value: dict[str, Any]) -> bool:
    """Tell whether a JSON value has the parts of a study that a page quotes, of their kinds."""
    recipes, data = value.get("recipes", []), value.get("data") or {}
    texts = [value.get("title"), value.get("name")]
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a character, which no page can hold
        return False
    return (
        isinstance(recipes, list)
        and all(isinstance(recipe, dict) for recipe in recipes)
        and isinstance(data, dict)
        and all(text is None or isinstance(text, str) for text in [*texts, data.get("manifest")])
    )


def in_order(results: Sequence[Result], study: Mapping[str, Any]) -> list[Result]:
    """Return results in the order in which the study names its recipes."""
    names = [entry.get("name") for entry in study.get("recipes", [])]
    place = {name: number for number, name in enumerate(names)}
    return sorted(results, key=lambda r: (place.get(r.recipe, len(place)), r.seed))

"""Studies and recipes from their YAML files, and the studies inside the package."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lydite.config import validate
from lydite.errors import ConfigError, FileError
from lydite.recipe import Recipe
from lydite.study.spec import Study


def builtin_studies() -> list[str]:
    """Return the names of the studies inside the package."""
    folder = resources.files("lydite.study") / "builtin"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def read_study(source: str) -> Study:
    """Read a study from a YAML file, or a built-in one by name ("demo").

    Raises:
        FileError: no such file and no such built-in study.
        ConfigError: not a valid study; the message says where and why.
    """
    if source in builtin_studies():
        text = (resources.files("lydite.study") / "builtin" / f"{source}.yaml").read_text("utf-8")
        return validate(Study, parse_yaml(text, source), f"Study {source}")
    path = Path(source)
    if path.is_dir():
        path = path / "study.yaml"
    value = parse_yaml(
        _read_text(path, f"built-in studies: {', '.join(builtin_studies())}"), source
    )
    return validate(Study, value, f"Study {path}")


def read_recipe(path: Path) -> Recipe:
    """Read one recipe from a YAML file.

    Raises:
        FileError: no such file.
        ConfigError: not a valid recipe.
    """
    value = parse_yaml(_read_text(path, "a recipe is a YAML file"), str(path))
    return validate(Recipe, value, f"Recipe {path}")


def parse_yaml(text: str, where: str) -> Any:
    """Return the value in a YAML text, `${NAME}` in strings replaced from the environment.

    Raises:
        ConfigError: not YAML, or a variable is not set.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    return _expand(value, where)


def _read_text(path: Path, hint: str) -> str:
    """Read a text file of at most a megabyte."""
    from lydite.files import read_bytes

    if not path.is_file():
        raise FileError(f"There is no file {path} ({hint}).")
    try:
        return read_bytes(path, 1024 * 1024).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a UTF-8 text file.") from error


def _expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` in every string of a JSON-like value."""
    if isinstance(value, dict):
        return {k: _expand(v, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, where) for v in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(
                f"{where} uses ${{{match[1]}}}, but the environment variable {match[1]} is not "
                f"set. Set it to the folder it stands for: export {match[1]}=/path"
            )
        return found

    return re.sub(r"\$\{([A-Z_][A-Z0-9_]*)\}", variable, value)

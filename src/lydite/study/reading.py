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

#: values in a study at most, those that references repeat counted each time
MAX_VALUES = 100_000


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
    loader = None
    try:
        loader = yaml.SafeLoader(text)  # which refuses control characters
        node = loader.get_single_node()
        if node is not None:
            _require_plain(node, where)
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply.") from None
    finally:
        if loader is not None:
            loader.dispose()
    return _expand(value, where)


def _require_plain(root: yaml.Node, where: str) -> None:
    """Refuse keys that come twice, of which YAML's own reader drops one without a word.

    And values that hold themselves, or are repeated by references without end.

    Raises:
        ConfigError: with the line.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        """Return how many values a node becomes, those behind references counted each time."""
        if id(node) in open_nodes:
            raise ConfigError(f"{where}, line {node.start_mark.line + 1}: a value holds itself.")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            parts = []
            if isinstance(node, yaml.MappingNode):
                _require_single(node, where)
                parts = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                parts = node.value
            sizes[id(node)] = 1 + sum(map(size_of, parts))
            open_nodes.remove(id(node))
        return sizes[id(node)]

    if size_of(root) > MAX_VALUES:
        raise ConfigError(f"{where} holds more than {MAX_VALUES:,} values.")


def _require_single(node: yaml.MappingNode, where: str) -> None:
    """Refuse a mapping in which a key comes twice."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in seen:
            raise ConfigError(
                f"{where}: {key.value!r} stands twice in one place, in lines {seen[key.value]} "
                f"and {line}. Keep one."
            )
        seen[key.value] = line


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

"""JSON schemas of recipes, studies and cards, with every registered step written out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lydite.card import Card
from lydite.errors import ConfigError, unknown_name
from lydite.recipe import STEPS, Recipe, load_steps
from lydite.study.spec import Study

_MODELS: dict[str, type[BaseModel]] = {"recipe": Recipe, "study": Study, "card": Card}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(of: str) -> dict[str, Any]:
    """Return the schema of a "recipe", "study" or "card".

    Raises:
        ConfigError: there is no schema of that name.
    """
    if of not in _MODELS:
        raise ConfigError(unknown_name("schema", of, _MODELS))
    load_steps()
    schema = _MODELS[of].model_json_schema(mode="validation")
    definitions = schema.setdefault("$defs", {})
    if "Step" in definitions:
        for name in STEPS:
            step = STEPS.get(name).model_json_schema(mode="validation")
            definitions |= step.pop("$defs", {})
            definitions[f"step-{name}"] = step
        definitions["Step"] = {"title": "Step", "oneOf": [_entry(name) for name in STEPS]}
    return {"$schema": _DIALECT, **schema}


def _entry(name: str) -> dict[str, Any]:
    """Return the schema of one step's entry: its bare name, or its name with options."""
    return {
        "anyOf": [
            {"const": name},
            {
                "type": "object",
                "properties": {name: {"$ref": f"#/$defs/step-{name}"}},
                "required": [name],
                "additionalProperties": False,
            },
        ]
    }

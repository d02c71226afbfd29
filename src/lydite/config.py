"""What all configuration has in common: it is frozen, checked, and says what is wrong with it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Hashable
from typing import Annotated, Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lydite.errors import ConfigError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]
_ATTRIBUTE = re.compile(r" {4}(\w+): (.*)")


def attributes_of(model: type) -> dict[str, str]:
    """Return what docstrings say of a class's attributes, those of its bases included.

    Reads the section `Attributes:`, to its end or the next section; a name stands at its first
    level of indentation, and its text goes on below, indented further.

    Args:
        model: the class; what it says itself goes before what its bases say.
    """
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        _, there, text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
        name = None
        for line in text.splitlines() if there else ():
            if line and not line.startswith(" "):
                break
            entry = _ATTRIBUTE.fullmatch(line)
            if entry:
                name = entry[1]
                found[name] = entry[2]
            elif name is not None and line.strip():
                found[name] += f" {line.strip()}"
    return found


def _describe(schema: dict[str, Any], model: type) -> None:
    """Put what docstrings say into a JSON schema: each property's text at the property."""
    texts = attributes_of(model)
    for name, value in schema.get("properties", {}).items():
        if name in texts:
            value.setdefault("description", texts[name])
    if "description" in schema:
        schema["description"] = schema["description"].partition("\n\nAttributes:")[0]


@functools.cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the classes that an annotation lets through, those inside unions and so on too."""
    parts = get_args(annotation)
    if not parts:
        return frozenset({annotation if isinstance(annotation, type) else type(annotation)})
    return frozenset().union(*map(_kinds, parts))


class Frozen(BaseModel):
    """Base of all configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=_describe
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Refuse true and false where a number is wanted; they would count as 1 and 0."""
        for name, given in value.items() if isinstance(value, dict) else ():
            field = cls.model_fields.get(name)
            kinds = frozenset() if field is None else _kinds(cast("Hashable", field.annotation))
            if isinstance(given, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"`{name}` is a number, and {str(given).lower()} is none")
        return value


def validation_sentence(error: ValidationError) -> str:
    """Return pydantic's findings as one sentence each: where, what, and the value."""
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(str(p) for p in item["loc"]) or "value"
        got = repr(item.get("input"))
        got = got if len(got) <= 80 else got[:77] + "..."
        parts.append(f"`{where}`: {item['msg']}. Got {got}.")
    return " ".join(parts)


def validate(model: type[Model], value: Any, what: str) -> Model:
    """Return `value` as an instance of `model`, or raise our own error.

    Raises:
        ConfigError: the value does not fit; the message says where and why.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{what} is not valid. {validation_sentence(error)}") from error

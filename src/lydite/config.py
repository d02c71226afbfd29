"""What all configuration has in common: it is frozen, checked, and says what is wrong with it."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lydite.errors import ConfigError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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

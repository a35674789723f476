"""What all option sets share: strict pydantic models, errors that a user can act on, and metadata of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sd_search_verl.errors import UserError, without_credentials, without_key


class ConfigError(UserError):
    """A configuration value is wrong. The message names section, field, value, rule and fix."""


@dataclass(frozen=True)
class Unit:
    """Metadata of a number: its unit, which help texts and the configuration page show."""

    name: str


class Affects(Enum):
    """Metadata of a field that an evaluation's ``protocol_hash`` leaves out; the hash covers every unmarked field."""

    SAMPLING = "which questions are asked and how tokens are drawn, under one protocol"
    OPERATION = "addresses, time limits and devices, on which no answer depends; may change on a restart"


def _around_one(ends: list[float]) -> list[float]:
    if len(ends) != 2 or not 0 <= ends[0] < 1 < ends[1]:
        raise ValueError("must be [low, high] with 0 <= low < 1 < high")
    return ends


def _json_object(value: Any) -> str:
    if isinstance(value, dict):  # as YAML and --set read it
        return json.dumps(value, sort_keys=True)
    try:
        found = json.loads(value)
    except (TypeError, json.JSONDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return str(value)


Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=1), Unit("tokens")]
Seed = Annotated[int, Field(ge=0), Unit("seed")]
Share = Annotated[float, Field(ge=0, le=1), Unit("share")]
RangeAroundOne = Annotated[list[float], AfterValidator(_around_one)]
JsonObject = Annotated[str, BeforeValidator(_json_object)]
"""An object as JSON."""


A_RUN = "a run"
"""Validation context of :func:`read_config`, for rules that hold for runs but not for options set in code."""


class ConfigModel(BaseModel):
    """Base of every option set: immutable, no unknown fields, no conversion between types, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})


Model = TypeVar("Model", bound=ConfigModel)


def read_config(model: type[Model], values: Any, section: str) -> Model:
    """Validate plain values, as ``OmegaConf.to_container`` gives them; fields left out take their defaults.

    Args:
        model: the option set.
        values: mapping of field names to values.
        section: dotted name of the section, for messages; "" where fields are given by their own names.

    Raises:
        ConfigError: unknown fields or values that are not allowed, every one of them.
    """
    try:
        return model.model_validate(values, context=A_RUN)
    except ValidationError as error:
        lines = [_message(one, model, section) for one in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield name and metadata of every field that is not a section of its own."""
    for name, field in model.model_fields.items():
        if section_model(field) is None:
            yield name, field


def section_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def affects(model: type[BaseModel], effect: Affects) -> set[str]:
    """Return the names of the fields that are marked with ``effect``."""
    return {name for name, field in model.model_fields.items() if effect in field.metadata}


def unit(field: FieldInfo) -> str:
    """Return the unit of a number, or an empty string."""
    return next((part.name for part in field.metadata if isinstance(part, Unit)), "")


def default_text(field: FieldInfo) -> str:
    """Return the default as a config file writes it, without quotes."""
    value = field.get_default(call_default_factory=True)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"['\"]", "", text)


def description(field: FieldInfo) -> str:
    """Return the field's docstring on one line."""
    return " ".join((field.description or "").split())


def _message(error: ErrorDetails, model: type[BaseModel], section: str) -> str:
    """Return one of pydantic's errors as ``section.field=value must be RULE. Fix: ...``."""
    path, owner, field = section, model, None
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        if isinstance(part, str):
            field = owner.model_fields.get(part)
            owner = (field and section_model(field)) or owner
    if error["type"] == "extra_forbidden":
        return _unknown(path, error["input"], owner)
    rule = re.sub(r"^\w+ should ", "must ", error["msg"].removeprefix("Value error, "))
    if error["type"] == "model_type":
        fields = ", ".join(owner.model_fields)
        return f"{path}={_shown(error['input'])} must be a section. Fix: give it fields: {fields}"
    # A rule about several fields names them itself.
    if field is None or section_model(field) is not None:
        return f"{path}.{rule}" if path else rule
    rule += ", or null" if isinstance(part, str) and type(None) in get_args(field.annotation) else ""
    fix = f"set {path.partition('[')[0]}, default {default_text(field)}: {description(field)}"
    if error["type"] == "list_type" and isinstance(error["input"], str):
        fix = f"set {path}=[{_without_key(error['input'])}]"
    return f"{path}={_shown(error['input'])} {rule}. Fix: {fix}"


def _shown(value: Any) -> str:
    """Return a value for a message, without the keys of its addresses."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(_without_key(value)) if isinstance(value, str) else without_credentials(repr(value))


def _without_key(text: str) -> str:
    """Return a text that is an address, well formed or not, without its key, and another as it is."""
    return without_key(text) if re.match(r"\w+:/|[^/@]*:[^@]*@", text) else text


def _unknown(path: str, value: Any, owner: type[BaseModel]) -> str:
    parent, dot, name = path.rpartition(".")
    near = get_close_matches(name, owner.model_fields, 1)
    fix = f"write {parent}{dot}{near[0]}" if near else "remove it"
    return f"{path}={_shown(value)} is not a field. Fix: {fix}; the fields are {', '.join(sorted(owner.model_fields))}"

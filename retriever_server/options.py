"""Option models: pydantic models whose fields are command-line options, checked and documented in one place."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from .errors import RetrieverError


class SettingsError(RetrieverError):
    """An option is missing, unknown or out of range. The message names it, its value and the rule."""


class Options(BaseModel):
    """Base of the option models: strict types, no unknown names, help texts from the docstrings of the fields."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def from_strings(cls, values: Mapping[str, Any]) -> Self:
        """Return the options of ``values``, strings as a command line gives them.

        Raises:
            SettingsError: naming every option that is missing, unknown or wrong.
        """
        try:
            return cls.model_validate_strings({name: str(value) for name, value in values.items()})
        except ValidationError as error:
            raise SettingsError("\n".join(map(_explain, error.errors()))) from None


def _explain(error: Any) -> str:
    if error["type"] == "value_error":  # raised by a validator of several options
        return str(error["ctx"]["error"])
    option = flag(str(error["loc"][0]))
    if error["type"] == "missing":
        return f"{option} is missing."
    if error["type"] == "extra_forbidden":
        return f"{option} is not an option."
    rule = error["msg"].replace("Input should", "it must").partition(", unable to parse")[0]
    return f"{option} is {error['input']}; {rule}."


def flag(name: str) -> str:
    """Return the command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, model: type[Options]) -> None:
    """Add every field of ``model`` to ``parser`` as an option, required ones first. Help is docstring and default.

    Values stay strings, and options that are not given stay out of the namespace: :meth:`Options.from_strings` reads
    both.
    """
    fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
    for name, field in fields:
        kind: dict[str, Any] = {"metavar": name.rpartition("_")[2].upper()}
        if field.annotation is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        alias = field.validation_alias
        names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name]
        parser.add_argument(
            *map(flag, names), dest=name, default=argparse.SUPPRESS, required=field.is_required(),
            help=_help(field), **kind,
        )  # fmt: skip


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).rstrip(".")
    if field.is_required():
        return f"{text} (required)"
    default = "none" if field.default in (None, "") else field.default
    return f"{text} (default: {default})".replace("%", "%%")

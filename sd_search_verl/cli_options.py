"""Command line options made from option sets: one source for names, types, help texts and defaults."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd_search_verl.config_base import (
    ConfigError,
    Model,
    default_text,
    description,
    fields_of,
    read_config,
    section_model,
    unit,
)


def add_options(parser: Any, model: type[BaseModel], only: Collection[str] | None = None) -> None:
    """Add ``--field-name`` for every field of ``model``, or for those in ``only``.

    An option that is not given leaves no attribute in argparse's namespace: see :func:`given_options`.

    Args:
        parser: argparse's parser or argument group.
        model: the option set; its sections are left out.
        only: names of the fields wanted.
    """
    for name, field in fields_of(model):
        if only is None or name in only:
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                dest=name,
                default=argparse.SUPPRESS,
                help=_help(field),
                **_kind(name, field),
            )


def given_options(
    arguments: argparse.Namespace, model: type[BaseModel], only: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the values that the command line gives for the fields of ``model``, or for those in ``only``."""
    wanted = model.model_fields if only is None else only
    given = {name: value for name, value in vars(arguments).items() if name in wanted}
    return {name: None if value == [None] else value for name, value in given.items()}  # null for a list


def read_options(
    arguments: argparse.Namespace,
    model: type[Model],
    only: Collection[str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Model:
    """Return the option set that the command line gives over the values of ``base``.

    Raises:
        ConfigError: values that are not allowed; it names options as they are typed.
    """
    given = given_options(arguments, model, only)
    try:
        return read_config(model, {**(base or {}), **given}, section="-")
    except ConfigError as error:
        typed = re.sub(r"(?<!\S)-\.(\w+)", lambda found: f"--{found[1].replace('_', '-')}", str(error))
        raise ConfigError(typed) from None


def add_set(command: Any, model: type[BaseModel], example: str, default: str) -> None:
    """Add ``--set OPTION=VALUE ...``, which may be repeated, for the fields of ``model``, which the epilog lists.

    The values come as ``overrides``.
    """
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = f"options of --set, with unit and default:\n{listing(model)}"
    text = f"such as {example} (default: {default})"
    command.add_argument(
        "--set", dest="overrides", action="extend", nargs="+", default=[], metavar="OPTION=VALUE", help=text
    )


def read_set(overrides: Sequence[str], below: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of ``--set``, with those ``below`` where it gives none.

    Raises:
        ConfigError: they cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        merged = OmegaConf.merge(dict(below or {}), OmegaConf.from_dotlist(list(overrides)))
        values: Any = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"overrides {' '.join(overrides)!r} cannot be read: {error}") from None
    return dict(values)


def listing(model: type[BaseModel], prefix: str = "") -> str:
    """Return one line per field, sections included: ``name  help``, for the epilog of a parser."""
    lines = []
    for name, field in model.model_fields.items():
        section = section_model(field)
        text = f"  {prefix + name:30} {_help(field)}".replace("%%", "%")
        lines.append(text if section is None else listing(section, f"{prefix}{name}."))
    return "\n".join(lines)


def _help(field: FieldInfo) -> str:
    about = ", ".join(filter(None, (unit(field), f"default: {default_text(field)}")))
    return f"{description(field).rstrip('.')} ({about})".replace("%", "%%").replace("``", "")


def _kind(name: str, field: FieldInfo) -> dict[str, Any]:
    """Return argparse's keywords for a field's type."""
    kind: Any = field.annotation
    nullable = type(None) in get_args(kind)
    if nullable:
        kind = next(inner for inner in get_args(kind) if inner is not type(None))
    if hasattr(kind, "__metadata__"):  # Annotated
        kind = kind.__origin__
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:  # checked by the model, whose message says more
        choices = [*get_args(kind), *["null"] * nullable]
        return {"type": _or_null(str) if nullable else str, "metavar": "{" + ",".join(choices) + "}"}
    many = {}
    if get_origin(kind) is list:
        (kind,), many = get_args(kind), {"nargs": "*"}
        kind = getattr(kind, "__origin__", kind)
    metavar = (unit(field) or name).upper().replace(" ", "")
    return {"type": _or_null(kind) if nullable else kind, "metavar": metavar, **many}


def _or_null(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of texts that takes ``null`` as a config file does."""

    def read(text: str) -> Any:
        return None if text == "null" else kind(text)

    read.__name__ = f"{kind.__name__} or null"  # argparse's message names the type by it
    return read

"""Options of both commands: every one documented, and every error with option, value and rule."""

import argparse
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from retriever_server.__main__ import main
from retriever_server.backends.registry import RANKERS, REMOTE_ENGINES
from retriever_server.build_index import BuildCommand
from retriever_server.build_index import main as build_index
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import BUILDERS, BuilderName
from retriever_server.options import Options, SettingsError, add_arguments
from retriever_server.settings import BackendName, Settings

UNITS = re.compile(
    r"seconds|bytes|MiB|characters|queries|documents|processes|threads|port|0 to 1|at least 0|lists",
    re.IGNORECASE,
)


@pytest.mark.parametrize("model", [Settings, BuildCommand])
def test_every_option_says_what_it_is_its_unit_and_its_default(model: type[Options]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, model)
    helps = {action.dest: str(action.help) for action in parser._actions if action.dest != "help"}
    assert set(helps) == set(model.model_fields)
    for name, text in helps.items():
        assert re.match(r"\S.{14,} \((required|default: .+)\)$", text), (name, text)
        if "int" in str(model.model_fields[name].annotation) or "float" in str(
            model.model_fields[name].annotation
        ):
            assert UNITS.search(text), f"--{name} has no unit: {text}"


@pytest.mark.parametrize("command", [main, build_index])
def test_help_is_printed(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["--help"])  # type: ignore[operator]
    assert caught.value.code == 0
    assert "(default: 0.9)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topk": "0"}, "--topk is 0; it must be greater than 0."),
        ({"topk": "x"}, "--topk is x; it must be a valid integer."),
        ({"deadline_s": "soon"}, "--deadline-s is soon; it must be a valid number."),
        ({"backend": "bm26"}, "--backend is bm26; it must be 'bm25', "),
        ({"port": "65536"}, "--port is 65536; it must be less than or equal to 65535."),
        ({"topkk": "1"}, "--topkk is not an option."),
        ({"k1": "nan"}, "--k1 is nan; it must be a finite number."),
        ({"deadline_s": "inf"}, "--deadline-s is inf; it must be a finite number."),
        ({"topk": "200"}, "--topk 200 is above --max-topk 100."),
        ({"topk": "0", "drain_s": "-1"}, "--drain-s is -1; it must be greater than or equal to 0."),
    ],
)
def test_errors_name_option_value_and_rule(values: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_strings({"backend": "bm25", **values})
    assert message in str(caught.value)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(SettingsError, match="--backend is missing"):
        Settings.from_strings({})


def test_strings_become_the_types_of_the_fields(tmp_path: Path) -> None:
    given = {"backend": "bm25", "index": str(tmp_path), "k1": "1", "effort": "7", "threads": "2"}
    settings = Settings.from_strings(given)
    assert settings == Settings(backend="bm25", index=tmp_path, k1=1.0, search_effort=7, threads=2)
    built = BuildCommand.from_strings({"corpus": "c", "index": "i", "one_segment": False})
    assert (built.backend, built.corpus, built.one_segment) == ("bm25", Path("c"), False)


def test_values_in_code_are_not_converted() -> None:
    with pytest.raises(ValidationError):
        Settings(backend="bm25", topk=True)
    with pytest.raises(ValidationError):
        BuildOptions(heap_mb="512")  # type: ignore[arg-type]


def test_every_name_of_a_back_end_can_be_opened_or_built() -> None:
    assert {*RANKERS, *REMOTE_ENGINES} == set(get_args(BackendName))
    assert set(BUILDERS) == set(get_args(BuilderName)) == set(RANKERS)


def test_help_and_manifest_name_every_back_end() -> None:
    for model, names in ((Settings, BackendName), (BuildCommand, BuilderName)):
        described = str(model.model_fields["backend"].description)
        assert all(re.search(rf"\b{name}\b", described) for name in get_args(names)), described

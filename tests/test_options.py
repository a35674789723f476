"""Every option of every program has a help text, with unit and default where it has them."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl import cli
from sd_search_verl.cli_options import add_options, given_options, listing
from sd_search_verl.config import HealthConfig, SDSearchConfig, SearchConfig, read_config
from sd_search_verl.config_base import ConfigModel

REPO = Path(__file__).resolve().parents[1]
PROGRAMS = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__main__")
    for path in (REPO / "benchmarks").rglob("*.py")
    if ".parse_args(" in path.read_text()
)


def every_option(parser: argparse.ArgumentParser, program: str) -> Iterator[tuple[str, argparse.Action]]:
    """Yield program and option, those of sub-commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from every_option(command, f"{program} {name}")
        elif action.dest not in ("help", "version"):
            yield f"{program} {'/'.join(action.option_strings) or action.dest}", action


def faults(parser: argparse.ArgumentParser, program: str) -> list[str]:
    """Return what the help texts lack, a line each."""
    found = []
    for name, action in every_option(parser, program):
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        if not text:
            found.append(f"{name}: no help text")
        if action.option_strings and not action.required and action.nargs != 0 and "default" not in text:
            found.append(f"{name}: no default in {text!r}")
        if action.type in (int, float) and action.metavar in (None, "N"):
            found.append(f"{name}: no unit as its metavar")
    return found


def test_options_of_sd_search_are_described() -> None:
    assert faults(cli.parser(), "sd-search") == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_of_benchmarks_are_described(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    def parse_args(self: argparse.ArgumentParser, *_: object) -> None:
        raise Parsed(self)

    name = program if (REPO / f"{program.replace('.', '/')}.py").exists() else f"{program}.__main__"
    module = importlib.import_module(name)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Parsed) as caught:
        module.main()
    assert faults(caught.value.args[0], program) == []


def test_the_walk_finds_what_is_missing() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--a", type=int, help="a number (default: 1)")
    parser.add_argument("--b")
    assert faults(parser, "p") == [
        "p --a: no unit as its metavar",
        "p --b: no help text",
        "p --b: no default in ''",
    ]


def test_options_come_from_the_fields_and_back() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, SearchConfig, ["top_k", "timeout_s", "retriever_urls", "sampling_seed", "protocol"])
    text = " ".join(parser.format_help().split())
    assert "--timeout-s S Total time one search may take, retries included (s, default: 30.0)" in text
    assert "--protocol {search_r1,autorefine,tool_call}" in text
    line = ["--top-k", "5", "--retriever-urls", "http://a", "http://b", "--sampling-seed", "3"]
    given = given_options(parser.parse_args(line), SearchConfig)
    assert given == {"top_k": 5, "retriever_urls": ["http://a", "http://b"], "sampling_seed": 3}
    assert read_config(SearchConfig, given, "search").top_k == 5
    assert "hindsight.max_tokens" in listing(SDSearchConfig)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        (SearchConfig, "sampling_seed", 3),
        (SearchConfig, "max_failure_rate", 0.5),
        (HealthConfig, "response_length_range", [0.5, 2.0]),
    ],
)
def test_null_is_given_as_the_messages_say(
    model: type[ConfigModel], field: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, model, [field])
    option = f"--{field.replace('_', '-')}"
    for words, expected in ((["null"], None), (str(value).strip("[]").replace(",", "").split(), value)):
        given = given_options(parser.parse_args([option, *words]), model)
        assert given == {field: expected}
        assert getattr(read_config(model, given, "s"), field) == expected
    with pytest.raises(SystemExit):
        parser.parse_args([option, "some"])
    assert re.search(r"invalid (int|float) or null value: 'some'", capsys.readouterr().err)


def test_null_is_a_word_where_a_field_has_to_have_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, SearchConfig, ["top_k"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--top-k", "null"])
    assert "invalid int value: 'null'" in capsys.readouterr().err

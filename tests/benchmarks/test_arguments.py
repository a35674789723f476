"""Options of the benchmarks: type, number of values and help follow from the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arguments import add_option, command_parser


@pytest.mark.parametrize(
    ("default", "words", "value"),
    [
        (5, ["7"], 7),
        (0.5, ["7"], 7.0),
        ("a", ["b"], "b"),
        (Path("a"), ["b"], Path("b")),
        ([1, 2], ["3", "4", "5"], [3, 4, 5]),
        ((1.0,), ["3"], [3.0]),
    ],
)
def test_a_value_has_the_type_of_the_default(default: object, words: list[str], value: object) -> None:
    parser = command_parser("About.")
    add_option(parser, "--option", default, "what it is", "UNIT")  # type: ignore[arg-type]
    assert parser.parse_args([]).option == default
    found = parser.parse_args(["--option", *words]).option
    assert found == value
    assert type(found) is type(value)
    assert f"what it is (default: {default})" in " ".join(parser.format_help().split())

"""What the command line prints when a command fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sd_search_verl import cli
from sd_search_verl.errors import UserError


def test_an_error_the_user_can_fix_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"sd-search: {tmp_path / 'metrics.jsonl'} is missing: ")
    assert message.count("\n") == 1


def test_traceback_shows_where_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        cli.main(["--traceback", "report", str(tmp_path)])


def test_an_error_of_the_program_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):  # a ValueError
        cli.main(["compare", str(tmp_path), str(tmp_path)])

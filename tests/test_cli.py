"""The command line: what a failed command prints, and help that is complete and fast."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import sd_search

from sd_search_verl import cli
from sd_search_verl.command_line import _parsed, run_command
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


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    parser = argparse.ArgumentParser()
    parser.set_defaults(action=lambda arguments: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):  # a ValueError
        run_command(parser, [])


def test_a_fork_of_a_command_ends_by_sigterm_as_any_process() -> None:
    """A pool's workers are ended so; Ctrl-C's traceback would stand in the terminal once for each."""
    statuses = []

    def action(_: argparse.Namespace) -> int:
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(tell, b"x")  # Python forgets signals that come while it forks
                time.sleep(30)
            finally:
                os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return 0

    parser = argparse.ArgumentParser()
    parser.set_defaults(action=action)
    assert run_command(parser, []) == 0
    assert statuses == [-signal.SIGTERM]


def commands(
    parser: argparse.ArgumentParser, *path: str
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield every command, groups included, with its name in words."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from commands(command, *path, name)


COMMANDS = dict(commands(cli.parser()))


WAITING = """
import argparse, asyncio, signal, sys
from sd_search_verl.command_line import run_command

async def wait():
    try:
        print("waiting", flush=True)
        await asyncio.sleep(60)
    finally:
        print("closed", flush=True)

signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.default_int_handler)
parser = argparse.ArgumentParser()
parser.set_defaults(action=lambda _: asyncio.run(wait()))
sys.exit(run_command(parser, []))
"""


@pytest.mark.parametrize("ctrl_c", ["default", "ignored"])
def test_sigterm_ends_a_command_in_order(ctrl_c: str) -> None:
    """In a shell's foreground, and in its background, where Ctrl-C is ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, ctrl_c], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "closed\n")
    assert said == "interrupted; nothing is left running\n"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_description_and_every_option_a_help_text(path: tuple[str, ...]) -> None:
    assert COMMANDS[path].description
    for action in COMMANDS[path]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action.dest


def test_check_answers_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: sd-search check")


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["corpus", "chekc"])
    assert "did you mean 'check'?" in capsys.readouterr().err


def test_no_help_loads_a_framework() -> None:
    program = f"""
import contextlib, sys
from sd_search_verl.cli import main
for path in {list(COMMANDS)}:
    with contextlib.suppress(SystemExit):
        main([*path, "--help"])
print([name for name in ("torch", "verl", "vllm", "transformers", "ray", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_well_below_a_second_of_processor_time() -> None:
    """Measured 0.25 s; importing torch alone takes more than the limit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(sd_search("--help"), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8


def test_overrides_may_stand_before_and_behind_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    run, other = commands.add_parser("run"), commands.add_parser("other")
    run.add_argument("--config")
    run.add_argument("overrides", nargs="*")
    other.add_argument("--config")
    line = ["run", "a.b=1", "--config", "u", "+c.d=2", "~e"]
    assert _parsed(parser, line).overrides == ["a.b=1", "+c.d=2", "~e"]
    for wrong in ([*line, "--unknown"], ["other", "--config", "x", "more"]):
        with pytest.raises(SystemExit):
            _parsed(parser, wrong)
        assert "unrecognized arguments: " in capsys.readouterr().err

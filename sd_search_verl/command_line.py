"""What the package's programs share: sub-commands with a description, suggestions for typing errors, error output."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from retriever_server.errors import RetrieverError, explain
from sd_search_verl.errors import UserError, printable

Action = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that suggests the nearest name for an unknown command or choice."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = difflib.get_close_matches(found[1], re.findall(r"'(.*?)'", found[2]), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        super().error(message)


def add_command(commands: Any, name: str, about: str, action: Action | None = None, **options: Any) -> Parser:
    """Add a sub-command to what ``add_subparsers`` returned; ``about`` is its line in the list and its description."""
    command: Parser = commands.add_parser(name, help=about, description=about, **options)
    if action is not None:
        command.set_defaults(action=action)
    return command


def add_group(commands: Any, name: str, about: str, **options: Any) -> Any:
    """Add a command that only has sub-commands; returns what they are added to."""
    return add_command(commands, name, about, **options).add_subparsers(required=True, metavar="COMMAND")


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; argparse ends a list of overrides at the next option, and here it goes on behind it."""
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the chosen command and return its exit status.

    A `UserError`, and an error of the operating system such as a full disk or a missing file, is printed as one line,
    unless ``--traceback`` is given; any other exception shows its traceback.
    """
    parser.add_argument("--traceback", action="store_true", help="show the traceback of every error")
    arguments = _parsed(parser, argv)
    try:
        with _termination_as_ctrl_c():
            return int(arguments.action(arguments))
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, RetrieverError, OSError) as error:
        if arguments.traceback:
            raise
        message = explain(error, _paths(arguments)) if isinstance(error, OSError) else str(error)
    except Exception as error:
        if arguments.traceback or not (number := re.search(r"\(os error (\d+)\)", str(error))):
            raise
        # Libraries in Rust, such as safetensors and tokenizers, have classes of their own for the system's errors.
        message = explain(OSError(int(number[1]), os.strerror(int(number[1]))), _paths(arguments))
    print(f"{parser.prog}: {printable(message)}", file=sys.stderr)
    return 1


@contextmanager
def _termination_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send before they kill, as Ctrl-C, on which commands and asyncio end in order."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A fork of this process, such as a pool's worker, ends as it would without us.
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # Inside asyncio it is asyncio's; a shell's background jobs ignore SIGINT.
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _paths(arguments: argparse.Namespace) -> str:
    """Return the paths that a command was given."""
    return ", ".join(str(value) for value in vars(arguments).values() if isinstance(value, Path))

"""The errors that a user can fix, told apart from errors of the program."""

from __future__ import annotations

import re


class UserError(Exception):
    """An error the user can fix: the message names what is wrong, its value, the rule and the fix.

    ``sd-search`` prints it as one line; every other exception shows its traceback.
    """


def printable(text: str) -> str:
    """Return ``text`` for a terminal: control characters, which command one, as U+FFFD, but for line ends and tabs."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)", "\ufffd", text)


def one_line(text: str) -> str:
    """Return ``text`` for a line of a terminal."""
    return printable(" ".join(text.split()))


def on_one_line(error: BaseException) -> str:
    """Return the text of an error on one line, its class where it has none."""
    return one_line(str(error)) or type(error).__name__


def without_credentials(text: str) -> str:
    """Return ``text`` without what stands before an ``@`` in its URLs, well formed or not.

    A key may hold any character, so from ``//`` on all goes up to the last ``@`` of the line or before the next URL.
    """
    return re.sub(r"(?<=//)(?:(?!://).)*@|[^\s'\",\[/]*:(?!//)[^\s'\",]*@", "", text)

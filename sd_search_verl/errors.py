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


def without_key(address: str) -> str:
    """Return an address without user and key, for messages.

    A key that is not percent-encoded may hold any character, so all goes up to the last ``@``. Where that may be more
    than user and key, ``…`` stands in its place.
    """
    scheme = re.match(r"(\w+:/+)?", address)[0]  # type: ignore[index]  # always matches
    hidden, at, shown = address[len(scheme) :].rpartition("@")
    if not at:
        return address
    return f"{scheme}{'…@' if re.search('[/?#]', hidden) else ''}{shown}"


def without_credentials(text: str) -> str:
    """Return ``text`` without what stands before an ``@`` in its URLs, well formed or not."""
    return re.sub(r"(?<=//)[^\s'\",]*@|[^\s'\",\[/]*:[^\s'\",/]*@", "", text)

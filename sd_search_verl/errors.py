"""The errors that a user can fix, told apart from errors of the program."""

from __future__ import annotations

import re


class UserError(Exception):
    """An error the user can fix: the message names what is wrong, its value, the rule and the fix.

    ``sd-search`` prints it as one line; every other exception shows its traceback.
    """


def on_one_line(error: BaseException) -> str:
    """Return the text of an error on one line, its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def without_credentials(text: str) -> str:
    """Return ``text`` without what stands before an ``@`` in its URLs, well formed or not."""
    return re.sub(r"(?<=//)[^\s'\",]*@|[^\s'\",\[/]*:[^\s'\",/]*@", "", text)

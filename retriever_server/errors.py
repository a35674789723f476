"""The base class of this package's errors."""

from __future__ import annotations


class RetrieverError(Exception):
    """An error that a user or client can fix. The message names what is wrong and the fix; commands print it alone."""

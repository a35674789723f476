"""Addresses of the retrieval servers, a circuit breaker for each, and the order in which to try them."""

from __future__ import annotations

import base64
import ipaddress
import os
import random
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field

from sd_search_verl.errors import UserError, without_key

OPEN_AFTER = 3  # failures in a row that open an endpoint's circuit
COOL_DOWN_S = (1.0, 30.0)  # an open circuit's first and longest pause

KEY_VARIABLE = "RETRIEVER_API_KEY"
"""Environment variable with the key that every server is sent; configs are saved and logged, the environment is not."""


def retrieve_url(url: str) -> str:
    """Return the URL that queries are sent to; a bare ``http://host:port`` gets the path ``/retrieve``.

    Raises:
        UserError: not an HTTP URL with a host, or its port is invalid.
    """
    url = url.strip()
    try:
        parts = urllib.parse.urlsplit(url)
        whole = (
            parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        )
    except ValueError:  # unclosed brackets, or an invalid port
        whole = False
    if not whole or any(map(str.isspace, url)):
        raise UserError(
            f"retriever_urls: {without_key(url)!r} must start with http:// or https:// and name a "
            "host, and a port in [1, 65535] if any"
        )
    return parts._replace(path=parts.path.rstrip("/") or "/retrieve", fragment="").geturl()


def sibling_url(url: str, path: str) -> str:
    """Return the URL of another path of the server whose ``…/retrieve`` is ``url``."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(path=parts.path.removesuffix("/retrieve") + path).geturl()


def document_url(url: str, document_id: str) -> str:
    """Return the URL of a document of the server whose ``…/retrieve`` is ``url``."""
    return sibling_url(url, f"/document/{urllib.parse.quote(document_id, safe='')}")


def without_user(url: str) -> str:
    """Return a valid ``url`` as it is asked: without user and key, which :func:`auth_headers` carries."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_own_machine(url: str) -> bool:
    """Return whether ``url`` names the machine that asks, whichever that is, such as 127.0.0.1."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or (ip := ipaddress.ip_address(host)).is_loopback or ip.is_unspecified
    except ValueError:  # a name, or no address at all
        return False


def auth_headers(url: str) -> dict[str, str]:
    """Return the header that carries a key in UTF-8 (RFC 7617), or none.

    The key is the environment's, unless ``url`` has one of its own, ``http://:KEY@host:port``.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    elif key := os.environ.get(KEY_VARIABLE):
        pair = f":{key}"
    else:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


@dataclass
class Endpoint:
    """A server, its requests in flight and its recent failures."""

    url: str
    """Without user and key, which are in ``headers``."""
    in_flight: int = 0
    failures: int = 0
    """Consecutive failures."""
    open_until: float = 0.0
    """Monotonic time until which the circuit is open: no request is sent."""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, url: str) -> Endpoint:
        """Return the endpoint of a URL, see :func:`retrieve_url`."""
        url = retrieve_url(url)
        return cls(without_user(url), headers=auth_headers(url))

    def succeeded(self) -> None:
        """Close the circuit."""
        self.failures, self.open_until = 0, 0.0

    def failed(self) -> bool:
        """Count a failure; returns whether it opened the circuit."""
        self.failures += 1
        if self.failures < OPEN_AFTER:
            return False
        shortest, longest = COOL_DOWN_S
        pause = min(longest, shortest * 2.0 ** min(self.failures - OPEN_AFTER, 32))
        self.open_until = time.monotonic() + pause * random.uniform(0.5, 1.0)
        return self.failures == OPEN_AFTER


def by_preference(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the servers to try in one round: those with closed circuits, least busy first; at least one."""
    now = time.monotonic()
    shuffled = random.sample(endpoints, len(endpoints))
    usable = sorted((e for e in shuffled if e.open_until <= now), key=lambda e: (e.failures, e.in_flight))
    return usable or [min(shuffled, key=lambda e: e.open_until)]

"""JSON over HTTP to another server, on one keep-alive connection per calling thread."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from ..errors import RetrieverError

READ_BYTES = 1 << 20
LOGIN_VARIABLE = "RETRIEVER_REMOTE_LOGIN"  # user:password; every user of the machine can read a command line


class RemoteError(RetrieverError):
    """Another server did not answer completely. The request fails: an answer without its documents would be wrong.

    ``status`` is that of its answer, None without one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def reading_answers(name: str, kind: str) -> Iterator[None]:
    """Turn the errors of reading an answer that lacks what is read into one that names the server.

    Args:
        name: of the server.
        kind: what it should be, for the message.

    Raises:
        RemoteError: in their place.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RemoteError(
            f"{name} does not answer as {kind} does ({type(error).__name__}: {error}). Fix: give the URL of one."
        ) from error


def version_with(version: str, settings: Any) -> str:
    """Return a version that also tells settings apart, on which answers depend as well."""
    if not settings:
        return version
    text = orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)
    return f"{version}-{hashlib.sha256(text).hexdigest()[:8]}"


class JsonClient:
    """Client of one server.

    Args:
        url: ``http(s)://[user:password@]host[:port][/path]``; ``path`` is an attribute. Where it holds no
            login, that of the environment variable ``RETRIEVER_REMOTE_LOGIN`` is sent, if there is one.
        timeout_s: longest time without a part of an answer's head, and longest time of its body.

    Raises:
        RemoteError: ``url`` is none.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
            whole = parts.scheme in ("http", "https") and self._host and not any(map(str.isspace, url))
        except ValueError:
            whole = False
        if not whole:
            shown = url.rpartition("@")[2]
            raise RemoteError(f"--remote-urls: {shown!r} is no address. Fix: give http(s)://host:port/path.")
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self.path = parts.path.rstrip("/")
        login = os.environ.get(LOGIN_VARIABLE)
        if parts.username is not None:
            login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        self._headers: dict[str, str] = {}
        if login:
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self._timeout_s, self._local = timeout_s, threading.local()

    def call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the answer.

        Raises:
            RemoteError: no connection, a status other than 200, or something that is not a JSON object.
        """
        for attempt in (1, 2):  # the second if the server has closed an idle connection
            idle = getattr(self._local, "connection", None)
            connection = self._local.connection = idle or self._connect()
            try:
                connection.request(method, path, body, {"Content-Type": kind, **self._headers})
                response = connection.getresponse()
                answer = _body(response, self._timeout_s)
            except (OSError, http.client.HTTPException) as error:
                self._local.connection = None
                if idle is None or attempt == 2 or isinstance(error, TimeoutError):
                    raise RemoteError(f"{self.name}: {type(error).__name__}: {error}") from error
                continue
            if response.status != 200:
                raise RemoteError(f"{self.name}: HTTP {response.status}: {answer[:200]!r}", response.status)
            try:
                return dict(orjson.loads(answer))
            except (ValueError, TypeError):
                raise RemoteError(f"{self.name}: not a JSON object: {answer[:200]!r}") from None
        raise AssertionError("unreachable")

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_s)


def _body(response: http.client.HTTPResponse, timeout_s: float) -> bytes:
    """Read an answer's body, of which every part may be in time and the whole never end.

    Counted here: before Python 3.12 ``read1`` does not, and waits for more behind the last byte of a kept connection.

    Raises:
        OSError: it has not ended after ``timeout_s`` seconds.
        http.client.HTTPException: it ends before its length.
    """
    end, left = time.monotonic() + timeout_s, response.length
    parts: list[bytes] = []
    while left is None or left > 0:
        if time.monotonic() > end:
            raise TimeoutError(f"the answer has not ended after {timeout_s:g} s")
        part = response.read1(READ_BYTES if left is None else min(left, READ_BYTES))
        if not part:
            if left:
                raise http.client.IncompleteRead(b"".join(parts), left)
            break
        parts.append(part)
        left = None if left is None else left - len(part)
    response.close()
    return b"".join(parts)

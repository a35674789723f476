"""ASGI middleware: API key and access log."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .app import Application
from .metrics import Metrics
from .options import SettingsError
from .schema import encode_error

log = logging.getLogger("retriever_server")

OPEN_PATHS = ("/health", "/ready")  # probes carry no key


def guarded(application: Application) -> ASGIApp:
    """Return the application behind the API key and the access log that its settings name.

    Raises:
        SettingsError: as of :func:`read_key`.
    """
    app: ASGIApp = application
    settings = application.server.settings
    if settings.api_key_file:
        app = ApiKey(app, read_key(settings.api_key_file), application.server.metrics)
    if settings.access_log:
        app = AccessLog(app, settings.access_log)
    return app


def read_key(path: Path) -> bytes:
    """Return the key in a file.

    Raises:
        SettingsError: the file cannot be read, or is empty: an empty key would admit every request.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"--api-key-file {path} cannot be read: {error.strerror}.") from None
    if not key:
        raise SettingsError(f"--api-key-file {path} is empty. Fix: write a key into it.")
    return key


class ApiKey:
    """Answer 401 to requests without the key, which is compared in constant time."""

    def __init__(self, app: ASGIApp, key: bytes, metrics: Metrics) -> None:
        self._app, self._key, self._metrics = app, key, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._admitted(scope):
            self._metrics.unauthorized.inc()
            body = encode_error(
                "no or wrong API key; send it as Authorization: Bearer …, X-API-Key: …, or in the URL, http://:KEY@host"
            )
            length = (b"content-length", b"%d" % len(body))
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer"), length]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, receive, send)

    def _admitted(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        kind, _, value = headers.get(b"authorization", b"").partition(b" ")
        given = headers.get(b"x-api-key", b"")
        if kind.lower() == b"bearer":
            given = value
        elif kind.lower() == b"basic":  # the key as password, which a URL can hold: http://:KEY@host
            with suppress(binascii.Error):
                given = base64.b64decode(value).partition(b":")[2]
        return hmac.compare_digest(given.strip(), self._key)


class AccessLog:
    """Append one line ``{"time", "client", "method", "path", "status", "bytes", "ms"}`` per request."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._app = app
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = sys.stdout.fileno() if str(path) == "-" else os.open(path, flags, 0o644)
        self._failing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, seen = time.perf_counter(), {"status": 0, "bytes": 0}

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, record)
        finally:
            client: Any = scope.get("client") or ("",)
            line = {
                "time": round(time.time(), 3), "client": client[0], "method": scope["method"],
                "path": scope["path"], **seen, "ms": round((time.perf_counter() - start) * 1000, 2),
            }  # fmt: skip
            self._write(json.dumps(line) + "\n")

    def _write(self, line: str) -> None:
        try:
            os.write(self._file, line.encode())
            self._failing = False
        except OSError as error:  # such as a full disk: answers must not fail with it
            if not self._failing:
                log.warning("the access log loses lines: %s", error)
            self._failing = True

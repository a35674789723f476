"""What stands before the application, on a server of Uvicorn's and on Ray Serve alike."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from retriever_server.app import Application
from retriever_server.middleware import guarded
from retriever_server.options import SettingsError
from retriever_server.settings import Settings


def statuses(settings: Settings, *headers: list[tuple[bytes, bytes]]) -> list[int]:
    """Statuses of GET /metrics with these headers."""
    application = Application(settings)
    app = guarded(application)
    found: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "root_path": ""}
    for given in headers:
        asyncio.run(app({**scope, "headers": given}, receive, send))
    refused = f"retriever_unauthorized_total {found.count(401):.1f}\n"
    assert refused in application.server.metrics.text().decode()
    return found


def test_key_and_access_log_of_the_settings_apply(tmp_path: Path) -> None:
    key, log = tmp_path / "key", tmp_path / "access.jsonl"
    key.write_text("sesame")
    settings = Settings(backend="bm25", api_key_file=key, access_log=log)
    assert statuses(settings, [], [(b"x-api-key", b"sesame")]) == [401, 200]
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [401, 200]
    assert statuses(Settings(backend="bm25"), []) == [200]
    key.write_text("")
    with pytest.raises(SettingsError, match="is empty"):
        statuses(settings)

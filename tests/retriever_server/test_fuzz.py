"""Generated requests, by the server's own OpenAPI: never a 5xx, never an answer that the schema does not promise."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from retriever_server.process import ServerProcess

pytest.importorskip("schemathesis", reason="a requirement of the tests")
REQUESTS = 150  # docs/retriever.md has the command for 10,000


def test_what_openapi_says_holds_for_generated_requests(bm25: ServerProcess, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{bm25.url}/openapi.json", "--checks", "all",
        "--max-examples", str(REQUESTS), "--seed", "1", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "4 passed" in run.stdout
    with urllib.request.urlopen(bm25.url + "/health", timeout=10) as response:
        assert response.status == 200

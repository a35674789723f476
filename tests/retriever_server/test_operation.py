"""What an operator switches on: keys, TLS, an access log, several workers."""

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.processes import has_ended, wait_until
from support.retrieval_server import post

from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import StartError, serving

ROOT = Path(__file__).resolve().parents[2]


def test_the_key_is_asked_for(bm25_index: Path, corpus: Path, tmp_path: Path) -> None:
    key, log = tmp_path / "key", tmp_path / "access.jsonl"
    key.write_text("sésame\n", encoding="utf-8")
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--access-log", log]
    with serving(*arguments, "--api-key-file", key) as server:
        body = {"queries": ["castle"]}
        spelled = "sésame".encode().decode("latin-1")  # header bytes as urllib takes them
        assert post(server.url, body)[0] == 401
        assert post(server.url, body, **{"X-API-Key": "wrong"})[0] == 401
        assert post(server.url, body, Authorization="Basic x")[0] == 401
        assert post(server.url, body, **{"X-API-Key": spelled})[0] == 200
        assert post(server.url, body, Authorization=f"Bearer {spelled}")[0] == 200
        with urllib.request.urlopen(server.url + "/health", timeout=10) as response:
            assert response.status == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [401, 401, 401, 200, 200, 200]
    assert all({"time", "client", "method", "path", "status", "bytes", "ms"} == set(line) for line in lines)
    assert "castle" not in log.read_text()
    key.write_text("\n")
    with pytest.raises(StartError, match="is empty"), serving(*arguments, "--api-key-file", key):
        pass


def test_tls(bm25_index: Path, corpus: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments, "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(server.url + "/ready", timeout=10, context=context) as response:
            assert json.loads(response.read())["status"] == "ready"
    with pytest.raises(StartError, match="go together"), serving(*arguments, "--tls-cert", cert):
        pass


def test_workers_share_a_port_and_are_replaced(bm25_index: Path, corpus: Path) -> None:
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--workers", "2"]
    with serving(*arguments) as server:

        def children() -> list[int]:
            path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
            return [int(pid) for pid in Path(path).read_text().split()]

        first = children()
        assert len(first) == 2
        assert all(post(server.url, {"queries": [f"passage{i}"]})[0] == 200 for i in range(10))
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: len(children()) == 2 and first[0] not in children())
        assert all(post(server.url, {"queries": [f"passage{i}"]})[0] == 200 for i in range(10))
        assert server.stop() == 0
        assert all(has_ended(pid) for pid in first[1:])


@pytest.mark.parametrize(("hard", "is_named"), [(8192, False), (256, True)])
def test_as_many_files_may_be_open_as_the_hard_limit_allows(
    small: Path, tmp_path: Path, hard: int, is_named: bool
) -> None:
    """With another back end than bm25: Java raises the limit by itself."""
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    build("bm25s", small, tmp_path / "index", BuildOptions(), out=io.StringIO())
    address, log = tmp_path / "address", tmp_path / "log"
    limited = ["sh", "-c", f'ulimit -Sn 256; ulimit -Hn {hard}; exec "$@"', "sh"]
    command = [
        sys.executable, "-m", "retriever_server", "--backend", "bm25s", "--index", tmp_path / "index",
        "--corpus", small, "--port", "0", "--port-file", address,
    ]  # fmt: skip
    with log.open("wb") as out, subprocess.Popen([*limited, *command], stderr=out, cwd=ROOT) as server:
        try:
            wait_until(lambda: address.exists() or server.poll() is not None)
            limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
        finally:
            server.terminate()
    (files,) = (line for line in limits if line.startswith("Max open files"))
    assert files.split()[3:5] == [str(hard), str(hard)]
    assert ("`ulimit -n" in log.read_text()) == is_named

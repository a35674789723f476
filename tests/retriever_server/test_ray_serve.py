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

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys, urllib.request
import ray
from ray import serve
from retriever_server.ray_serve import application

folder, port, index, corpus = sys.argv[1:]
ray.init(address="local", num_cpus=2, _temp_dir=folder, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(application({"backend": "bm25", "index": index, "corpus": corpus}))
body = sys.stdin.buffer.read()
with urllib.request.urlopen(f"http://127.0.0.1:{port}/retrieve", body, timeout=60) as response:
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
        arguments = [folder, str(port), bm25_index, corpus]
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            input=json.dumps(body), capture_output=True, text=True, cwd=ROOT, timeout=240,
        )  # fmt: skip
    found = dict(
        line.split(": ", 1) for line in run.stdout.splitlines() if line[:7] in ("answer:", "ready: ")
    )
    assert json.loads(found["answer"]) == post(bm25.url, body)[1], run.stderr[-3000:]
    assert json.loads(found["ready"])["passages"] == 300

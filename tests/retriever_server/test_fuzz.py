"""10,000 mutated and composed requests, and some from the server's own OpenAPI: a right answer or a clear error."""

import http.client
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.retrieval_server import raw

from retriever_server.launcher import ServerProcess

REQUESTS = 5000  # of each kind
GENERATED = 150  # per route, by schemathesis; docs/retriever.md has the command for more
GOOD = b'{"queries": ["castle river", "passage7"], "topk": 3, "return_scores": true}'
PIECES = (b'"', b"[", b"{", b"\\ud800", b"null", b"1e999", b"\0", b"\xff", b",", b"-", b"9" * 30)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 100, 101, 10**30, 2.0, 2.5, 1e308, "", " ", "castle", "\ud800", "\0", "x" * 9000,
    [], ["castle"], ["castle", ""], [None], [1], [["castle"]], ["river"] * 1025, {}, {"queries": ["castle"]},
)  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """A good body with one to six bytes changed, dropped or added."""
    body = bytearray(GOOD)
    for _ in range(rng.randint(1, 6)):
        place, kind = rng.randrange(len(body) or 1), rng.random()
        if kind < 0.5:
            body[place : place + 1] = bytes([rng.randrange(256)])
        elif kind < 0.75:
            del body[place : place + rng.randint(1, 9)]
        else:
            body[place:place] = rng.choice(PIECES)
    return bytes(body)


def composed(rng: random.Random) -> bytes:
    """A JSON object of the known fields with values of every kind."""
    names = rng.sample(("queries", "query", "topk", "return_scores", "other"), rng.randint(1, 4))
    return json.dumps({name: rng.choice(VALUES) for name in names}).encode()


@pytest.mark.parametrize(("make", "statuses"), [(mutated, {200, 400, 422}), (composed, {200, 413, 422})])
def test_rubbish_gets_an_answer_or_a_clear_error(bm25: ServerProcess, make: Any, statuses: set[int]) -> None:
    rng = random.Random(0)
    connection = http.client.HTTPConnection(bm25.url.removeprefix("http://"), timeout=60)
    seen: Counter[int] = Counter()
    for _ in range(REQUESTS):
        body = make(rng)
        connection.request("POST", "/retrieve", body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        seen[response.status] += 1
        if response.status == 200:
            asked = json.loads(body)
            assert list(answer) == ["result"]
            assert len(answer["result"]) == (
                1 if asked.get("query") is not None else len(asked["queries"])
            ), body
        else:
            assert answer["error"]["message"], body
    assert set(seen) == statuses
    assert min(seen.values()) > 10


def test_what_is_not_http_ends_its_connection_alone(bm25: ServerProcess) -> None:
    for head in (
        b"\x16\x03\x01\x02",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /retrieve HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        assert raw(bm25.url, head + b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    with urllib.request.urlopen(bm25.url + "/health", timeout=10) as response:
        assert response.status == 200


def test_what_openapi_says_holds_for_generated_requests(bm25: ServerProcess, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="a requirement of the tests")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{bm25.url}/openapi.json", "--checks", "all",
        "--max-examples", str(GENERATED), "--seed", "1", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "6 passed" in run.stdout
    with urllib.request.urlopen(bm25.url + "/health", timeout=10) as response:
        assert response.status == 200

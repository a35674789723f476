"""A server that means harm: it fills no memory, sends nobody elsewhere and commands no terminal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from functools import cache

import pytest
from support.raw_server import always, hits, http, search, server

from sd_search_verl.errors import UserError
from sd_search_verl.retriever_client.check import check_retriever
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.retriever_client.identity import describe, identify

MEASURED = """
import asyncio, sys
from pathlib import Path
from sd_search_verl.retriever_client.check import check_retriever
from sd_search_verl.retriever_client.client import RetrieverClient

def peak_mib():  # ru_maxrss is at first that of the process which started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

async def ask(url):
    client = RetrieverClient([url], top_k=3, timeout_s=60, max_retries=0)
    print((await client.search("test")).error)
    print(await client.read({"id": "1"}))
    await client.close()

before = peak_mib()
asyncio.run(ask(sys.argv[1]))
print(check_retriever(sys.argv[1]).found)
print(peak_mib() - before)
"""


@cache
def bomb() -> bytes:
    """600 MB of zeros, compressed to less than one."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(600)), packer.flush()])


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("200 OK", "malformed reply: more than 64 MiB"),
        ("404 Not Found", "404"),
        ("500 Internal Server Error", "500"),
    ],
)
def test_a_small_answer_that_unpacks_to_a_huge_one_is_malformed(status: str, says: str) -> None:
    assert len(bomb()) < 2**20
    with server(always(http(bomb(), status, "Content-Encoding: gzip"))) as url:
        done = subprocess.run([sys.executable, "-c", MEASURED, url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    searched, read, checked, grown_mib = done.stdout.splitlines()
    assert says in searched
    assert says in checked
    assert read == "Reading is unavailable at the moment."
    assert float(grown_mib) < 200


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"]
)
def test_nobody_is_sent_to_another_server(status: str) -> None:
    """A retriever may not have the trainer post to services that the trainer alone reaches."""
    asked = []

    def other(method: str, path: str, body: bytes) -> bytes:
        asked.append(path)
        return hits()(method, path, body)

    async def read(url: str) -> str:
        client = RetrieverClient([url], top_k=3, timeout_s=1.0, max_retries=0)
        try:
            return await client.read({"id": "1"})
        finally:
            await client.close()

    with server(other) as target:
        private = target.replace("//", "//user:secret@")
        with server(always(http(b"", status, f"Location: {private}/api/jobs/?token=secret"))) as url:
            found, finding = search(url), check_retriever(url)
            assert "unavailable" in asyncio.run(read(url))
            with pytest.raises(UserError, match="does not answer") as refused:
                identify([url])
    assert asked == []
    for said in (found.error or "", finding.found, str(refused.value)):
        assert status.partition(" ")[0] in said
        assert f"{target}/api/jobs/; give that address as the retriever's" in said
        assert "secret" not in said


def test_a_server_that_sends_away_from_ready_alone_is_known_by_its_documents() -> None:
    def elsewhere(method: str, path: str, body: bytes) -> bytes:
        if method == "GET":
            return http(b"", "302 Found", "Location: /login")
        return hits()(method, path, body)

    with server(elsewhere) as url, server(hits()) as same:
        assert identify([url]) == identify([same])


COMMANDS = "bad \x1b]0;owned\x07\x1b[2J \x9b31m \x7f\x08 end"
"""What would set a terminal's title, clear it, colour it and go back in it."""


@pytest.mark.parametrize("status", ["401 Unauthorized", "422 Unprocessable", "500 Internal Server Error"])
def test_an_error_gives_a_terminal_no_commands(status: str) -> None:
    with server(always(http(COMMANDS.encode(), status))) as url:
        found, finding = search(url), check_retriever(url)
        with pytest.raises(UserError) as refused:
            identify([url])
    assert str(refused.value).isprintable()
    for said in (found.error or "", finding.found):
        assert "bad \ufffd]0;owned\ufffd\ufffd[2J \ufffd31m \ufffd\ufffd end" in said
        assert said.isprintable()


def test_documents_and_identities_give_a_terminal_no_commands() -> None:
    ready = http({"version": COMMANDS, "passages": 1})

    def answer(method: str, path: str, body: bytes) -> bytes:
        return ready if method == "GET" else http({"result": [[{"contents": COMMANDS}]]})

    with server(answer) as url:
        assert check_retriever(url).found.isprintable()
        assert describe(identify([url])).isprintable()
    with server(always(http({COMMANDS: COMMANDS}))) as url:
        assert check_retriever(url).found.isprintable()

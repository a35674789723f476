"""Answers of servers that are none, or other than expected: client, check and identity read them alike."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from support.raw_server import Answer, http, server

from sd_search_verl.errors import UserError
from sd_search_verl.retriever_client import check
from sd_search_verl.retriever_client.check import check_retriever, is_loading
from sd_search_verl.retriever_client.client import RetrieverClient, SearchResult
from sd_search_verl.retriever_client.identity import describe, identify
from sd_search_verl.retriever_client.reply import parse_reply

HIT = {"document": {"id": "1", "contents": "title\ntext"}, "score": 1.0}


def to_queries(make: Callable[[int, int], bytes]) -> Answer:
    """Answer ``make(number of queries, topk)`` to searches, and 404 to everything else."""

    def answer(method: str, path: str, body: bytes) -> bytes:
        if method != "POST":
            return http(b"no", "404 Not Found")
        asked = json.loads(body)
        return make(len(asked["queries"]), asked["topk"])

    return answer


def hits(**changes: Any) -> Answer:
    return to_queries(lambda n, k: http({"result": [[{**HIT, **changes}]] * n}))


def always(answer: bytes) -> Answer:
    return lambda method, path, body: answer


def moved(status: str) -> Answer:
    """Answer below ``/new`` alone, and send everybody there."""

    def answer(method: str, path: str, body: bytes) -> bytes:
        if not path.startswith("/new"):
            return http(b"", status, f"Location: /new{path}")
        return to_queries(lambda n, k: http({"result": [[HIT]] * n}))(method, path, body)

    return answer


def search(url: str) -> SearchResult:
    async def run() -> SearchResult:
        client = RetrieverClient([url], top_k=3, timeout_s=1.0, max_retries=0)
        try:
            return await client.search("test")
        finally:
            await client.close()

    return asyncio.run(run())


BAD: dict[str, Answer] = {
    "a page": always(http(b"<html>")),
    "half of the JSON": always(http(b'{"result": [[{"docu')),
    "brackets within brackets": always(http(b"[" * 200_000)),
    "no HTTP": always(b"\x16\x03\x01 hello\r\n\r\n"),
    "closed within the body": always(http(b'{"result"').replace(b"Length: 9", b"Length: 900")),
    "a list too many": to_queries(lambda n, k: http({"result": [[HIT]] * (n + 1)})),
    "more documents than asked for": to_queries(lambda n, k: http({"result": [[HIT] * (k + 1)] * n})),
    "a score that is a word": hits(score="high"),
    "a score that is a list": hits(score=[1]),
    "a score beyond all numbers": to_queries(
        lambda n, k: http(json.dumps({"result": [[HIT]] * n}).replace("1.0", "1" + "0" * 400).encode())
    ),
    "no contents": hits(document={"id": "1", "text": "text"}),
    "texts for documents": to_queries(lambda n, k: http({"result": [["text"]] * n})),
    "moved": moved("307 Temporary Redirect"),
    "moved for good": moved("308 Permanent Redirect"),
    "moved for GET alone": moved("301 Moved Permanently"),
    "moved nowhere": always(http(b"", "302 Found", "Location: http://[::1")),
    "an error that is no text": always(http(b"\xff\xfe", "500 Internal Server Error")),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_none_is_refused_by_all_on_one_line(name: str) -> None:
    with server(BAD[name]) as url:
        found, finding = search(url), check_retriever(url)
        with pytest.raises(UserError, match="does not answer") as refused:
            identify([url])
    assert found.documents is None
    assert not finding.ok
    for said in (found.error, finding.found, str(refused.value)):
        assert said
        assert "\n" not in said
    if name == "an error that is no text":
        assert "HTTP 500" in (found.error or "")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ({"results": [[HIT]]}, 'begins with {"results": [[{"document": {"id": "1"'),
        ([[HIT]], 'begins with [[{"document"'),
        ({"result": [["a text"]]}, 'begins with {"result": [["a text"]]}'),
        ({"result": [[{"title": "Emma", "text": "a novel"}]]}, 'a document without the string "contents"'),
    ],
)
def test_what_came_and_what_is_expected_are_shown(reply: Any, says: str) -> None:
    with server(always(http(reply))) as url:
        finding = check_retriever(url)
    assert finding.fatal
    assert says in finding.found
    assert '"topk": 3' in finding.found
    assert '{"result": [[{"document": {"id": "1", "contents": "Title\\ntext"}, "score": 1.0}' in finding.fix
    assert "docs/extending.md" in finding.fix
    assert len(finding.found) < 500


@pytest.mark.parametrize(
    ("contents", "fatal", "says"),
    [
        ([" \n", ""], True, "the contents of all 2 documents for 'test' are empty"),
        (
            ["", "Emma is a novel"],
            False,
            "would read the whole passage as a title, such as (Title: Emma is a novel)",
        ),
        (["Emma\n ", "Emma"], False, "none of 2 documents for 'test' has a line after its title"),
    ],
)
def test_passages_that_show_the_policy_nothing_or_a_title_alone(
    contents: list[str], fatal: bool, says: str
) -> None:
    found = [{"document": {"id": "1", "contents": text}, "score": 1.0} for text in contents]
    with server(always(http({"result": [found]}))) as url:
        finding = check_retriever(url)
    assert (finding.fatal, finding.ok) == (fatal, False)
    assert says in finding.found
    assert '"Title\\ntext"' in finding.fix


@pytest.mark.parametrize("contents", [[], ["Emma", "\na novel"], ["Emma\na novel"]])
def test_no_document_and_single_lines_among_others_are_none_to_find(contents: list[str]) -> None:
    with server(always(http({"result": [[{"contents": text} for text in contents]]}))) as url:
        assert check_retriever(url).ok


GOOD: dict[str, Answer] = {
    "compressed unasked": to_queries(
        lambda n, k: http(
            gzip.compress(json.dumps({"result": [[HIT]] * n}).encode()), "200 OK", "Content-Encoding: gzip"
        )
    ),
    "a byte order mark": to_queries(
        lambda n, k: http(b"\xef\xbb\xbf" + json.dumps({"result": [[HIT]] * n}).encode())
    ),
    "no id": hits(document={"id": None, "contents": "title\ntext"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_that_the_client_reads_passes_the_checks(name: str) -> None:
    with server(GOOD[name]) as url:
        found = search(url)
        assert found.documents is not None, found.error
        assert found.documents[0].contents == "title\ntext"
        assert found.documents[0].id in ("1", "")
        assert check_retriever(url).ok, check_retriever(url)
        assert identify([url])["documents"]


def test_an_answer_that_trickles_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(method: str, path: str, body: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
        for _ in range(100):
            time.sleep(0.1)
            yield b" "

    monkeypatch.setattr(check, "TIMEOUT_S", 0.4)
    with server(trickle) as url:
        begun = time.monotonic()
        assert "no answer within 0.4 s" in check_retriever(url).found
        assert not is_loading(url)
        with pytest.raises(UserError, match="does not answer"):
            identify([url])
        assert time.monotonic() - begun < 5


def test_the_checks_run_within_an_event_loop_too() -> None:
    async def run(url: str) -> bool:
        return check_retriever(url).ok

    with server(hits()) as url:
        assert asyncio.run(run(url))


def test_halves_of_surrogate_pairs_become_characters_that_every_tokenizer_encodes() -> None:
    reply = json.loads('{"result": [[{"id": "a\\ud800", "contents": "x\\udc00y \\ud83d\\ude00"}]]}')
    (((document),),) = parse_reply(reply, 1, 3)
    assert (document.id, document.contents) == ("a\ufffd", "x\ufffdy 😀")


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
        return to_queries(lambda n, k: http({"result": [[HIT]] * n}))(method, path, body)

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

"""Answers of servers that are none, or other than expected: client, check and identity read them alike."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.raw_server import HIT, Answer, always, hits, http, search, server, to_queries

from sd_search_verl.errors import UserError
from sd_search_verl.retriever_client import check
from sd_search_verl.retriever_client.check import check_retriever, is_loading
from sd_search_verl.retriever_client.identity import identify
from sd_search_verl.retriever_client.reply import parse_reply


def moved(status: str) -> Answer:
    """Answer below ``/new`` alone, and send everybody there."""

    def answer(method: str, path: str, body: bytes) -> bytes:
        if not path.startswith("/new"):
            return http(b"", status, f"Location: /new{path}")
        return hits()(method, path, body)

    return answer


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

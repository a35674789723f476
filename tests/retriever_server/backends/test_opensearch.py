"""The OpenSearch back end against a small server that speaks its protocol: no real one can be installed here."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from retriever_server.backends.http_json import RemoteError
from retriever_server.backends.opensearch import MAX_TERMS, OpenSearchEngine

DOCUMENTS = {
    "7": {"contents": "castle river castle"},
    "8": {"id": "eight", "contents": "castle\nbridge", "more": 1},
    "9": {"contents": "comet"},
}


class Cluster(BaseHTTPRequestHandler):
    """An index ``wiki`` as Elasticsearch 8 and OpenSearch 2 answer for it; the score is the count of the words."""

    protocol_version = "HTTP/1.1"
    fault: dict[str, Any] | None = None
    first: dict[str, Any] = DOCUMENTS["7"]
    index: dict[str, Any] = {}  # noqa: RUF012
    seen: list[Any] = []  # noqa: RUF012

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/wiki/_count": {"count": 3, "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0}},
            "/wiki/_settings": {"wiki-1": {"settings": {"index": {"uuid": "u1", **self.index}}}},
        }
        missing = {"error": {"type": "index_not_found_exception", "reason": "no such index"}, "status": 404}
        self.answer(200 if self.path in answers else 404, answers.get(self.path, missing))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/wiki/_search":
            self.answer(200, {"hits": {"hits": [{"_id": "7", "_source": self.first}][: len(self.first)]}})
            return
        assert self.path == "/wiki/_msearch"
        assert self.headers["Content-Type"] == "application/x-ndjson"
        assert body.endswith(b"\n"), "the bulk protocol's last line must end"
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[::2] == [{}] * (len(lines) // 2)
        Cluster.seen.append((lines[1::2], self.headers["Authorization"]))
        self.answer(200, {"took": 1, "responses": [self.one(line) for line in lines[1::2]]})

    def one(self, search: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None and "comet" in search["query"]["match"]["contents"]:
            return self.fault
        words = search["query"]["match"]["contents"].split()
        scored = [(sum(d["contents"].split().count(w) for w in words), key) for key, d in DOCUMENTS.items()]
        hits = [
            {
                "_index": "wiki-1", "_id": key, "_score": float(score),
                "_source": {f: v for f, v in DOCUMENTS[key].items() if f in search["_source"]},
            }
            for score, key in sorted(scored, key=lambda item: (-item[0], item[1]))[: search["size"]] if score
        ]  # fmt: skip
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        total = {"value": len(hits), "relation": "eq"}
        return {
            "took": 1,
            "timed_out": False,
            "_shards": shards,
            "hits": {"total": total, "hits": hits},
            "status": 200,
        }

    def answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    Thread(target=server.serve_forever, daemon=True).start()
    Cluster.fault, Cluster.seen, Cluster.first, Cluster.index = None, [], DOCUMENTS["7"], {}
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_documents_ids_and_scores_come_through(host: str) -> None:
    engine = OpenSearchEngine(f"http://{host}/wiki/")
    assert (engine.passages, engine.version) == (3, "u1:3")
    castle, nothing = engine.search(["castle", "nowhere"], 2)
    assert [(json.loads(hit.document), hit.score) for hit in castle] == [
        ({"id": "7", "contents": "castle river castle"}, 2.0),
        ({"id": "eight", "contents": "castle\nbridge"}, 1.0),
    ]
    assert nothing == []
    assert len(engine.search(["castle"], 1)[0]) == 1


def test_the_version_is_that_of_the_index_and_of_what_shapes_its_answers(host: str) -> None:
    engine = OpenSearchEngine(f"http://{host}/wiki")
    found = [engine.version]
    for Cluster.index in (
        {"similarity": {"default": {"type": "BM25", "k1": "1.2"}}},
        {"analysis": {"analyzer": {"default": {"type": "english"}}}},
        {"uuid": "u2"},
        {"uuid": "u2", "number_of_replicas": "2"},
    ):
        engine.refresh()
        found.append(engine.version)
    assert len(set(found[:4])) == 4
    assert found[4] == found[3]


def test_query_syntax_is_text_and_long_queries_are_cut(host: str) -> None:
    engine = OpenSearchEngine(f"http://{host}/wiki")
    engine.search(['castle AND "x" }\n{ \\ *:*', "w " * 5000], 3)
    bodies, key = Cluster.seen[-1]
    assert bodies[0]["query"] == {"match": {"contents": 'castle AND "x" } { \\ *:*'}}
    assert len(bodies[1]["query"]["match"]["contents"].split()) == MAX_TERMS
    assert key is None


@pytest.mark.parametrize(
    "query", ["城" * 5000, "w," * 5000, "w城 " * 5000], ids=["chinese", "commas", "both"]
)
def test_terms_are_counted_as_the_servers_count_them(host: str, query: str) -> None:
    """A query beyond their limit would be an error, for all queries of its batch."""
    engine = OpenSearchEngine(f"http://{host}/wiki")
    engine.search(["castle", query], 3)
    sent = Cluster.seen[-1][0][1]["query"]["match"]["contents"]
    assert " ".join(query.split()).startswith(sent)
    assert sent.count("城") + sent.count("w") == MAX_TERMS


def test_the_password_is_sent_and_never_shown(host: str) -> None:
    engine = OpenSearchEngine(f"http://anna:p%40ss@{host}/wiki")
    engine.search(["castle"], 1)
    assert base64.b64decode(Cluster.seen[0][1].removeprefix("Basic ")) == b"anna:p@ss"
    with pytest.raises(RemoteError) as caught:
        OpenSearchEngine(f"http://anna:p%40ss@{host}/absent")
    assert "ss" not in str(caught.value).split("HTTP")[0]
    assert "404" in str(caught.value)


def test_the_login_of_the_environment_is_sent_and_never_shown(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command line, and with it a login in a URL, can be read by every user of the machine."""
    monkeypatch.setenv("RETRIEVER_REMOTE_LOGIN", "anna:p@s%73:/")
    OpenSearchEngine(f"http://{host}/wiki").search(["castle"], 1)
    assert base64.b64decode(Cluster.seen[-1][1].removeprefix("Basic ")) == b"anna:p@s%73:/"
    OpenSearchEngine(f"http://bob:other@{host}/wiki").search(["castle"], 1)
    assert base64.b64decode(Cluster.seen[-1][1].removeprefix("Basic ")) == b"bob:other"
    with pytest.raises(RemoteError) as caught:
        OpenSearchEngine(f"http://{host}/absent")
    assert "anna" not in str(caught.value)
    assert "p@s" not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        {"error": {"type": "search_phase_execution_exception"}, "status": 503},
        {"timed_out": True, "_shards": {"failed": 0}, "hits": {"hits": []}, "status": 200},
        {
            "timed_out": False,
            "_shards": {"failed": 1, "failures": ["x"]},
            "hits": {"hits": []},
            "status": 200,
        },
    ],
)
def test_an_incomplete_search_is_an_error_not_a_shorter_answer(host: str, fault: dict[str, Any]) -> None:
    engine = OpenSearchEngine(f"http://{host}/wiki")
    Cluster.fault = fault
    with pytest.raises(RemoteError, match="not answered wholly"):
        engine.search(["castle", "comet"], 2)
    assert len(engine.search(["castle"], 2)[0]) == 2


def test_no_index_in_the_url_is_named(host: str) -> None:
    with pytest.raises(RemoteError, match="names no index"):
        OpenSearchEngine(f"http://{host}")


@pytest.mark.parametrize(
    ("first", "named"),
    [
        ({"id": "7", "text": "castle"}, "the fields id, text"),
        ({"contents": ["castle"]}, "the fields contents"),
        ({"contents": "unindexed"}, "does not find a document by the words"),
        ({}, "has no documents"),
    ],
)
def test_an_index_with_other_fields_is_refused(host: str, first: dict[str, Any], named: str) -> None:
    Cluster.first = first
    with pytest.raises(RemoteError, match=named):
        OpenSearchEngine(f"http://{host}/wiki")

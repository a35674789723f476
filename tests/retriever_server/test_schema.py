"""The HTTP contract, against a running BM25 server."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from support.retrieval_server import get, metric, post

from retriever_server.launcher import ServerProcess
from retriever_server.openapi import document
from retriever_server.schema import RequestError, parse, request_model
from retriever_server.settings import Settings


@pytest.mark.parametrize("count", [0, 1, 2, 3, 512])
@pytest.mark.parametrize("scores", [True, False])
def test_one_list_per_query_in_order(bm25: ServerProcess, count: int, scores: bool) -> None:
    numbers = [(7 * i) % 300 for i in range(count)]
    body = {"queries": [f"passage{n} bridge" for n in numbers], "topk": 2, "return_scores": scores}
    status, answer = post(bm25.url, body)
    assert status == 200
    assert list(answer) == ["result"]
    assert len(answer["result"]) == count
    for number, items in zip(numbers, answer["result"], strict=True):
        assert len(items) == 2
        if scores:
            assert all(set(item) == {"document", "score"} for item in items)
            assert items[0]["score"] >= items[1]["score"] > 0
            items = [item["document"] for item in items]
        assert all(set(item) == {"id", "contents"} for item in items)
        assert items[0]["id"] == f"doc-{number}"


@pytest.mark.parametrize("name", ["top_k", "topK"])
def test_another_spelling_of_topk_is_refused(bm25: ServerProcess, name: str) -> None:
    """Ignored, it would give the default number of documents."""
    status, answer = post(bm25.url, {"queries": ["castle"], name: 1})
    assert status == 422
    assert f"{name} is not read; the number of documents is topk" in json.dumps(answer)


def test_defaults_are_three_documents_without_scores(bm25: ServerProcess) -> None:
    for body in ({"queries": ["castle"]}, {"queries": ["castle"], "topk": None, "return_scores": None}):
        status, answer = post(bm25.url, body)
        assert status == 200
        assert [set(item) for item in answer["result"][0]] == [{"id", "contents"}] * 3


def test_a_whole_number_may_be_written_with_a_point(bm25: ServerProcess) -> None:
    assert len(post(bm25.url, {"queries": ["castle"], "topk": 2.0})[1]["result"][0]) == 2


def test_single_query_field(bm25: ServerProcess) -> None:
    several = post(bm25.url, {"queries": ["castle river"], "topk": 5, "return_scores": True})
    assert post(bm25.url, {"query": "castle river", "topk": 5, "return_scores": True}) == several


@pytest.mark.parametrize(
    "query", ["", " ", "\t\n ", "\u3000", "\0", "zzzznotaword", "the of and", "!!!", "\ud800"]
)
def test_queries_that_match_nothing_have_no_documents(bm25: ServerProcess, query: str) -> None:
    status, answer = post(bm25.url, {"queries": [query, "castle"], "topk": 3})
    assert status == 200
    assert answer["result"][0] == []
    assert len(answer["result"][1]) == 3


@pytest.mark.parametrize(
    "query",
    [
        "+castle -bridge && || ! ( ) { } [ ] ^ \" ~ * ? : \\ / castle AND OR NOT",
        "contents: castle", "castle~2^4", "[a TO z] castle", "castle\0river", "castle \ud83d", "castle 😀𝄞",
        "château castle", "Ποιος castle", "кто castle", "谁 castle", "誰が castle", "누가 castle",
        "من castle", "מי castle", "कौन castle", "ใคร castle",
        "castle " * 12_500, " ".join(f"w{i}" for i in range(9000)),
    ],
    ids=lambda query: ascii(query[:20]),
)  # fmt: skip
def test_odd_queries_are_answered(bm25: ServerProcess, query: str) -> None:
    status, answer = post(bm25.url, {"queries": [query], "topk": 3})
    assert status == 200
    assert len(answer["result"]) == 1
    if "castle" in query:
        assert len(answer["result"][0]) == 3
        assert all(
            "castle" in item["contents"] or "river" in item["contents"] for item in answer["result"][0]
        )


def test_nul_does_not_end_the_query(bm25: ServerProcess) -> None:
    with_nul = post(bm25.url, {"queries": ["castle\0passage17"], "topk": 1})
    assert with_nul == post(bm25.url, {"queries": ["castle passage17"], "topk": 1})
    assert with_nul[1]["result"][0][0]["id"] == "doc-17"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"queries": ["half', 400, None),
        (b"", 400, None),
        (b"\xff\xfe\x00", 400, None),
        (b"[" * 100_000, 400, None),
        (["castle"], 422, None),
        ({}, 422, "queries"),
        ({"queries": ["a"], "query": "a"}, 422, "queries"),
        ({"queries": "castle"}, 422, "queries"),
        ({"queries": [1]}, 422, "queries"),
        ({"queries": [None]}, 422, "queries"),
        ({"queries": {"0": "castle"}}, 422, "queries"),
        ({"query": ["castle"]}, 422, "query"),
        ({"queries": ["castle"], "topk": 0}, 422, "topk"),
        ({"queries": ["castle"], "topk": -1}, 422, "topk"),
        ({"queries": ["castle"], "topk": 101}, 422, "topk"),
        ({"queries": ["castle"], "topk": 10**30}, 422, "topk"),
        ({"queries": ["castle"], "topk": "3"}, 422, "topk"),
        ({"queries": ["castle"], "topk": True}, 422, "topk"),
        ({"queries": ["castle"], "topk": 2.5}, 422, "topk"),
        ({"queries": ["castle"], "return_scores": "yes"}, 422, "return_scores"),
        ({"queries": ["castle"] * 1025}, 413, "queries"),
        ({"queries": ["castle"] * 164, "topk": 100}, 413, "queries"),
        (b'{"queries": ["' + b"a" * (16 * 2**20) + b'"]}', 413, None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bad_requests_name_the_field(bm25: ServerProcess, body: Any, status: int, field: str | None) -> None:
    answered, answer = post(bm25.url, body)
    assert answered == status
    assert answer["error"]["field"] == field
    assert answer["error"]["message"]


def test_a_clients_batch_passes_whatever_topk_is_allowed() -> None:
    settings = Settings(backend="bm25", max_topk=1000)
    body = json.dumps({"queries": ["a"] * 64, "topk": 1000}).encode()
    assert parse(body, request_model(settings), settings).topk == 1000
    with pytest.raises(RequestError, match="at most 64000 a request"):
        parse(body.replace(b'"a", "a"', b'"a", "a", "a"', 1), request_model(settings), settings)


def test_as_many_documents_as_training_asks_for_are_answered_and_more_are_counted(
    bm25: ServerProcess,
) -> None:
    for queries, topk in ((512, 5), (1024, 16), (64, 100)):
        status, answer = post(bm25.url, {"queries": ["castle"] * queries, "topk": topk})
        assert (status, len(answer["result"])) == (200, queries)
    answer = post(bm25.url, {"queries": ["castle"] * 1024, "topk": 17})[1]
    assert "1024 queries of 17 documents are 17408, at most 16384" in answer["error"]["message"]


def test_health_ready_metrics_openapi(bm25: ServerProcess) -> None:
    assert get(bm25.url + "/health") == (200, b'{"status":"ok"}')
    status, body = get(bm25.url + "/ready")
    ready = json.loads(body)
    assert (status, ready["status"], ready["backend"], ready["passages"]) == (200, "ready", "bm25", 300)
    assert ready["settings"] == {"k1": 0.9, "b": 0.4, "max_query_chars": 8192}
    before = metric(bm25.url, "retriever_queries_total")
    post(bm25.url, {"queries": ["metric one", "metric two"]})
    assert metric(bm25.url, "retriever_queries_total") == before + 2
    schema = json.loads(get(bm25.url + "/openapi.json")[1])
    assert set(schema["paths"]) == {"/retrieve", "/document/{id}", "/health", "/ready", "/metrics"}
    content = schema["paths"]["/retrieve"]["post"]["requestBody"]["content"]["application/json"]
    assert post(bm25.url, content["example"])[0] == 200


def test_the_example_of_ready_has_this_servers_settings() -> None:
    settings = Settings(backend="hybrid", k1=1.2, search_effort=128, max_query_chars=100)
    answers = document(settings)["paths"]["/ready"]["get"]["responses"]
    examples = {
        status: answer["content"]["application/json"]["example"] for status, answer in answers.items()
    }
    assert examples["200"]["settings"] == settings.shaping_answers()
    assert {example["backend"] for example in examples.values()} == {"hybrid"}


def test_get_routes_answer_head_too(bm25: ServerProcess) -> None:
    for path in ("/health", "/ready", "/metrics", "/openapi.json"):
        request = urllib.request.Request(bm25.url + path, method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as response:
            assert (response.status, response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) > 0


def test_long_queries_are_cut_and_counted(bm25: ServerProcess) -> None:
    before = metric(bm25.url, "retriever_queries_truncated_total")
    assert post(bm25.url, {"queries": ["castle " + "x" * 100_000]})[0] == 200
    assert metric(bm25.url, "retriever_queries_truncated_total") == before + 1


def test_repeats_come_from_the_cache(bm25: ServerProcess) -> None:
    body = {"queries": ["telescope lantern comet"], "topk": 4, "return_scores": True}
    first = post(bm25.url, body)
    before = metric(bm25.url, "retriever_cache_hits_total"), metric(bm25.url, "retriever_batch_size_sum")
    assert post(bm25.url, body) == first
    after = metric(bm25.url, "retriever_cache_hits_total"), metric(bm25.url, "retriever_batch_size_sum")
    assert after == (before[0] + 1, before[1])


def test_other_paths_and_methods(bm25: ServerProcess) -> None:
    assert post(bm25.url, {}, "/nowhere")[0] == 404
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(bm25.url + "/retrieve")
    assert caught.value.code == 405

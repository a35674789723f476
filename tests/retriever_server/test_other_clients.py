"""Requests and reading code of the clients that people already have, against our server."""

from typing import Any

import pytest

from retriever_server.launcher import ServerProcess

requests = pytest.importorskip("requests", reason="the clients under test use requests")


def test_search_r1s_client(bm25: ServerProcess) -> None:
    """As LLMGenerationManager asks and reads."""
    payload = {"queries": ["passage17 castle", "passage3"], "topk": 3, "return_scores": True}
    results = requests.post(f"{bm25.url}/retrieve", json=payload, timeout=30).json()["result"]

    def passages_to_string(retrieval_result: list[dict[str, Any]]) -> str:
        text = ""
        for index, item in enumerate(retrieval_result):
            content = item["document"]["contents"]
            title = content.split("\n")[0]
            text += f"Doc {index + 1}(Title: {title}) " + "\n".join(content.split("\n")[1:]) + "\n"
        return text

    first, second = map(passages_to_string, results)
    assert first.startswith('Doc 1(Title: "Title 17") Passage17 about')
    assert first.count("Doc ") == 3
    assert second.startswith('Doc 1(Title: "Title 3") Passage3 about')


@pytest.mark.parametrize("queries", [["passage17 castle"], ["passage17", "passage18"], ["a"] * 8])
def test_verls_search_tool(bm25: ServerProcess, queries: list[str]) -> None:
    """As verl's call_search_api sends, as perform_single_search_batch reads."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    payload = {"queries": queries, "topk": 3, "return_scores": True}
    response = requests.post(f"{bm25.url}/retrieve", headers=headers, json=payload, timeout=30)
    response.raise_for_status()
    raw_results = response.json().get("result", [])
    assert len(raw_results) == len(queries)
    for query, retrieval in zip(queries, raw_results, strict=True):
        titles = [item["document"]["contents"].split("\n")[0] for item in retrieval]
        if query.startswith("passage"):
            number = query.split()[0].removeprefix("passage")
            assert titles[0] == f'"Title {number}"'


def test_chunked_bodies_and_repeated_use_of_a_connection(bm25: ServerProcess) -> None:
    with requests.Session() as session:
        for _ in range(3):
            parts = iter([b'{"queries": ["pass', b'age17"], "topk"', b": 1}"])
            answer = session.post(f"{bm25.url}/retrieve", data=parts, timeout=30).json()
            assert answer["result"][0][0]["id"] == "doc-17"

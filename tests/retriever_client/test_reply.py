"""Answers of servers, as the client reads them."""

import pytest

from sd_search_verl.retriever_client.reply import Document, parse_reply


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"document": {"id": "1", "contents": "c"}, "score": 2}, Document("1", "c", 2.0)),
        ({"id": 7, "contents": "c"}, Document("7", "c", None)),
        ({"document": {"contents": "c", "title": "t"}, "score": 0.5}, Document("", "c", 0.5)),
    ],
)
def test_answers_of_other_servers_are_understood(item: object, expected: Document) -> None:
    assert parse_reply({"result": [[item]]}, 1, 3) == [[expected]]


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"result": None}, {"result": [[]]}, {"result": [1, []]}, {"result": [[], [{"id": 1}]]}],
)
def test_malformed_answers_raise(value: object) -> None:
    with pytest.raises(ValueError, match="malformed reply"):
        parse_reply(value, 2, 3)

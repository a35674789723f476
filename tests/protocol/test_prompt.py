"""Messages whose content is a list of text parts read as one text."""

from __future__ import annotations

from sd_search_verl.protocol.prompt import text_messages


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "who wrote "}, {"type": "text", "text": "Emma"}]
    assert text_messages([{"role": "user", "content": parts}]) == [
        {"role": "user", "content": "who wrote Emma"}
    ]


def test_texts_stay_and_the_messages_given_are_not_changed() -> None:
    given = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
    ]
    assert text_messages(given)[0] == given[0]
    text_messages(given)[0]["content"] = "other"
    assert given[0]["content"] == "Be brief."
    assert given[1]["content"] == [{"type": "text", "text": "q"}]

"""Messages whose content is a list of text parts read as one text."""

from __future__ import annotations

import copy

import pytest
from support.tokenizer_families import family

from sd_search_verl.protocol.prompt import text_messages, writes_time


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


@pytest.mark.parametrize(
    ("template", "kwargs", "writes"),
    [
        ("{{ messages[0].content }}", {}, False),
        ("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}", {}, True),
        ("{{ date_string if date_string is defined else strftime_now('%d') }}", {}, True),
        ("{{ date_string if date_string is defined else strftime_now('%d') }}", {"date_string": "1"}, False),
    ],
)
def test_a_template_that_writes_the_time_is_known(
    template: str, kwargs: dict[str, str], writes: bool
) -> None:
    tokenizer = copy.deepcopy(family("qwen"))
    tokenizer.chat_template = template
    assert writes_time([{"role": "user", "content": "who?"}], tokenizer, kwargs) == writes

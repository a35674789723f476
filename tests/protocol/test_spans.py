"""Query spans: on real trajectories with the real tokenizer, and on arbitrary tokens."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import byte_tokenizer

from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import token_bytes

R1 = get("search_r1")
# Merges across the tags, as real vocabularies have them.
MERGES = [("<", "/"), ("?", "</"), ("Ġ", "</"), (">", "Ċ"), ("Ġ", "a"), ("s", "e"), ("se", "a"), ("<", "se")]
BYTES = byte_tokenizer(MERGES)


def test_every_query_of_the_real_trajectories(real_data: Path, qwen_tokenizer: Any) -> None:
    """Against the tokenizer's own character offsets and a regular expression."""
    tokenizer = qwen_tokenizer
    with gzip.open(real_data / "wiki18-mini" / "trajectories_nq.jsonl.gz", "rt") as file:
        responses = [json.loads(line)["response"] for line in file]
    assert len(responses) == 2000
    found = 0
    for response in responses:
        encoded = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        environment = f"<information>(?:(?!<information>).)*?</information>|{re.escape(R1.invalid_action)}"
        policy = re.sub(environment, lambda match: "\0" * len(match[0]), response, flags=re.DOTALL)
        expected, queries = [], []
        for match in re.finditer(r"<search>([^\0]*?)</search>", policy):
            inside = [
                i
                for i, (a, b) in enumerate(encoded["offset_mapping"])
                if match.start(1) <= a and b <= match.end(1)
            ]
            expected.append((inside[0], inside[-1] + 1))
            queries.append(match[1].strip())
        spans = query_spans(ids, tokenizer, R1)
        assert spans == expected
        assert [tokenizer.decode(ids[start:end]).strip() for start, end in spans] == queries
        assert R1.parse(response).queries == queries
        found += len(spans)
    assert found > 1900


def test_straddling_tokens_are_outside(qwen_tokenizer: Any) -> None:
    tokenizer = qwen_tokenizer
    cases = {
        "<search> capital of France </search>": " capital of France",
        "<search> capital of France?</search>": " capital of France",
        '<search>"x"</search>': "x",
        '<search>"</search>': None,
        "<search> x </search>\n\n": " x",
    }
    for text, expected in cases.items():
        ids = tokenizer.encode(text, add_special_tokens=False)
        spans = query_spans(ids, tokenizer, R1)
        assert [tokenizer.decode(ids[a:b]) for a, b in spans] == ([expected] if expected else []), text


FRAGMENTS = [
    "<search>",
    "</search>",
    "<information>",
    "</information>",
    "<answer>",
    "</answer>",
    R1.invalid_action,
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=14).map("".join)


@given(TEXTS)
@settings(max_examples=300)
def test_text_and_token_views_agree(text: str) -> None:
    ids = BYTES.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes(ids, BYTES)).decode() == text
    queries = R1.parse(text).queries
    spans = query_spans(ids, BYTES, R1)
    texts = [BYTES.decode(ids[a:b]).strip() for a, b in spans]
    # A query whose tokens all straddle has no span; the others come in order.
    remaining = iter(queries)
    assert all(any(part in query for query in remaining) for part in texts)


TOKENS = st.lists(st.integers(0, len(BYTES) + 3), max_size=60)
TAGGED = st.lists(
    st.sampled_from([BYTES.encode(tag, add_special_tokens=False) for tag in FRAGMENTS[:6]]) | TOKENS,
    max_size=8,
).map(lambda parts: [token for part in parts for token in part])


@given(TAGGED, st.data())
@settings(max_examples=300)
def test_invariants_on_arbitrary_tokens(ids: list[int], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)) | st.none())
    spans = query_spans(ids, BYTES, R1, mask)
    pieces = token_bytes(ids, BYTES)
    assert len(pieces) == len(ids)
    end_before = 0
    for start, end in spans:
        assert end_before <= start < end <= len(ids)
        end_before = end
        inside = b"".join(pieces[start:end])
        assert b"</search>" not in inside
        assert b"</answer>" not in inside
        assert b"<search>" in b"".join(pieces[:start])
        assert b"</search>" in b"".join(pieces[end:])
        if mask is not None:
            assert all(mask[start:end])
            # The opening tag, the query and the closing tag are one run of the policy's tokens.
            first = max([i for i in range(start) if not mask[i]], default=-1) + 1
            last = min([i for i in range(end, len(ids)) if not mask[i]], default=len(ids))
            assert b"<search>" in b"".join(pieces[first:start])
            assert b"</search>" in b"".join(pieces[end:last])


def test_observations_never_count() -> None:
    first, second = (
        BYTES.encode(text, add_special_tokens=False) for text in ("<search>x</search>", "<search>yz</search>")
    )
    ids = first + second
    assert [BYTES.decode(ids[a:b]) for a, b in query_spans(ids, BYTES, R1)] == ["x", "yz"]
    mask = [0] * len(first) + [1] * len(second)
    assert [BYTES.decode(ids[a:b]) for a, b in query_spans(ids, BYTES, R1, mask)] == ["yz"]
    assert query_spans(ids, BYTES, R1, [0] * len(ids)) == []


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="policy_mask has 1 entries for 2 tokens"):
        query_spans([1, 2], BYTES, R1, [1])

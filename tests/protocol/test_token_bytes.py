"""Bytes per token: multilingual text comes back from the tokens of every tokenizer family."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizer_families import FAMILIES, LINES, family, word_piece

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import TokenizerError, decode, token_bytes, token_texts
from sd_search_verl.retriever_client.reply import SearchResult
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.types import Prompt, Rollout

R1 = get("search_r1")
WORDS = [
    "Ḫattuša",
    "café Zürich",
    "北京大学 校长",
    "من هو رئيس مصر",
    "🦄 emoji 😀 history",
    "👩‍👩‍👧 ไทย नमस्ते",
    "a  b\n\tc",
]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=6).map(" ".join)
EVERY = pytest.mark.parametrize("name", FAMILIES)


def encode(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def play(turns: list[list[int]], tokenizer: Any) -> tuple[Rollout, list[str]]:
    """Run a rollout of these turns; also returns the executed queries."""
    script, executed = iter(turns), []

    async def generate(context: list[int], max_tokens: int) -> Generation:
        return Generation(next(script), None)

    async def search(query: str) -> SearchResult:
        executed.append(query)
        return SearchResult([], 0.0, None)

    prompt = Prompt("q", [], [1], ["Ḫattuša"])
    rollout = run_rollout(prompt, generate, search, tokenizer, R1, SearchConfig(), 4000)
    return asyncio.run(rollout), executed


@EVERY
@pytest.mark.parametrize("word", WORDS)
def test_query_answer_and_trace_are_what_the_policy_wrote(name: str, word: str) -> None:
    tokenizer = family(name)
    turns = [
        encode(f"{tag[0]}{word}{tag[1]}", tokenizer)
        for tag in (("<search>", "</search>"), ("<answer>", "</answer>"))
    ]
    rollout, executed = play(turns, tokenizer)
    assert executed == rollout.queries == [word]
    assert rollout.answer == word
    assert rollout.em == (word == "Ḫattuša")
    ((start, end),) = rollout.spans
    assert decode(rollout.response_ids[start:end], tokenizer) in word
    texts = token_texts(rollout.response_ids, tokenizer)
    assert "".join(texts) == rollout.response
    assert "\ufffd" not in rollout.response
    assert "".join(texts[start:end]) in word


@EVERY
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_text_comes_back_from_its_tokens(name: str, text: str) -> None:
    """Up to the leading space of SentencePiece, which belongs to the first token."""
    tokenizer = family(name)
    ids = encode(text, tokenizer)
    pieces = token_bytes(ids, tokenizer)
    assert len(pieces) == len(ids)
    read = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    joined = decode(ids, tokenizer)
    assert joined in (read, f" {read}")
    assert joined in (text, f" {text}")
    assert "".join(token_texts(ids, tokenizer)) == joined


@EVERY
def test_any_tokens_decode_as_the_vocabularys_own_decoder_reads_them(name: str) -> None:
    """Valid UTF-8 by the vocabulary's decoder is the same text here, also across calls cut at any place."""
    tokenizer, draw = family(name), random.Random(0)
    size, compared = len(tokenizer), 0
    for _ in range(300):
        # Behind a first token, in which the decoder strips spaces.
        ids = encode("x", tokenizer) + [draw.randrange(size) for _ in range(draw.randint(1, 12))]
        read = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if "\ufffd" not in read:
            compared += 1
            assert decode(ids, tokenizer) in (read, f" {read}")
        cut = draw.randint(0, len(ids))
        assert token_bytes(ids, tokenizer) == token_bytes(ids[:cut], tokenizer) + token_bytes(
            ids[cut:], tokenizer
        )
    assert compared > 20


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_qwens_text_is_that_of_its_own_decoder(qwen_tokenizer: Any, text: str) -> None:
    ids = encode(text, qwen_tokenizer)
    draw = random.Random(text)  # ids beyond the vocabulary's 151,665 are those of padded embeddings
    for tokens in (ids, [draw.randrange(151_674) for _ in range(20)]):
        assert decode(tokens, qwen_tokenizer) == qwen_tokenizer.decode(tokens, skip_special_tokens=False)


def test_a_query_of_half_a_character_is_not_executed_as_another(qwen_tokenizer: Any) -> None:
    """A turn cut inside a character shows U+FFFD at its end alone."""
    ids = encode("<search> 🦄", qwen_tokenizer)[:-1]
    assert decode(ids, qwen_tokenizer) == "<search> \ufffd"


def test_sentencepiece_models_without_the_tokenizers_library(tmp_path: Path) -> None:
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    (tmp_path / "lines.txt").write_text("\n".join(LINES * 50))
    for kind in ("bpe", "unigram"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "lines.txt"),
            model_prefix=str(tmp_path / kind),
            vocab_size=420,
            model_type=kind,
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        tokenizer = SentencePieceBackend(vocab_file=str(tmp_path / f"{kind}.model"))
        for word in WORDS[:5]:
            ids = encode(f"<search>{word}</search>", tokenizer)
            assert decode(ids, tokenizer).lstrip() == f"<search>{word}</search>"
            ((start, end),) = query_spans(ids, tokenizer, R1)
            assert decode(ids[start:end], tokenizer) in word


def test_tokens_without_bytes_of_their_own_are_refused() -> None:
    with pytest.raises(
        TokenizerError, match="its WordPiece decoder writes a token differently beside other tokens"
    ):
        token_bytes([1, 2], word_piece())
    tokenizer = word_piece()
    tokenizer.backend_tokenizer.decoder = None
    with pytest.raises(TokenizerError, match="it has no decoder"):
        token_bytes([1, 2], tokenizer)

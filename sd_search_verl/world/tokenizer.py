"""The world's tokenizer: greedy longest pieces with their own leading space, so decoding is plain joining.

Every text that occurs in the world consists of few pieces: words, tags, and whole constant phrases
(headers, notices), which keeps sequences short. They are added tokens of Qwen2's own tokenizer, the class that
transformers demands of a Qwen2 model; every other text is encoded byte by byte.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Tokenizer

from sd_search_verl.hindsight import block
from sd_search_verl.hindsight.layout import CORRECT, HEADER, HEADER_UNLABELLED, INCORRECT
from sd_search_verl.world.text import PROTOCOL
from sd_search_verl.world.words import NAMES, RELATIONS

PAD, EOS = "<|pad|>", "<|eos|>"
MAX_ROLLOUTS = 16
MAX_DOCUMENTS = 5
CHAT_TEMPLATE = "{%- for message in messages -%}{{- message['content'] -}}{%- endfor -%}"


def build_tokenizer() -> Qwen2Tokenizer:
    """Return the tokenizer. Tags are ordinary tokens: decoding drops special tokens, and with them stop strings."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([PAD, EOS, *letters])},
        merges=[],
        unk_token=EOS,  # never used: every byte has a token
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in pieces()])
    return tokenizer


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files into ``directory``."""
    build_tokenizer().save_pretrained(directory)


def pieces() -> list[str]:
    """Return every piece in the order of token ids."""
    phrasings = [phrasing for candidates in RELATIONS.values() for phrasing in candidates]
    words = [f" {word}" for word in (*RELATIONS, *phrasings, *NAMES)]
    return list(dict.fromkeys([*_constants(), *words, ":", ")", "\n"]))


def _constants() -> list[str]:
    before, after = PROTOCOL.observation("\0").split("\0")
    documents = [f"Doc {number}(Title:" for number in range(1, MAX_DOCUMENTS + 1)]
    observation = [before, after, f"{before}{documents[0]}", f" .{after}", *documents, " is", " ."]
    tags = [PROTOCOL.search_open, PROTOCOL.answer_open, *PROTOCOL.stop, *(f" {tag}" for tag in PROTOCOL.stop)]
    notices = [PROTOCOL.invalid_action, PROTOCOL.unavailable, PROTOCOL.no_results]
    headers = [HEADER, HEADER_UNLABELLED, block.HEADER_DOCUMENTS]
    numbers = [f"\n{number}." for number in range(1, MAX_ROLLOUTS + 1)]
    lines = [f" {CORRECT}:", f" {INCORRECT}:", block.SEPARATOR.rstrip(), f" {block.NO_SEARCH}"]
    return ["Question:", " of", " ?", *observation, *tags, *notices, *headers, *numbers, *lines]

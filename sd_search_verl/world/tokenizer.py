"""The world's tokenizer: greedy longest pieces with their own leading space, so decoding is plain joining.

Every text the stack shows in the world is made of few pieces: words, tags, and whole constant phrases
(headers, notices), which keeps sequences short. Single characters make every other ASCII text encodable too.
"""

from __future__ import annotations

import re
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sd_search_verl.hindsight import block
from sd_search_verl.hindsight.outcome import CORRECT, INCORRECT
from sd_search_verl.world.text import PROTOCOL
from sd_search_verl.world.words import NAMES, RELATIONS

PAD, EOS, UNKNOWN = "<|pad|>", "<|eos|>", "<|unk|>"
MOST_ROLLOUTS = 16
MOST_DOCUMENTS = 5
CHAT_TEMPLATE = "{%- for message in messages -%}{{- message['content'] -}}{%- endfor -%}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer. Tags are ordinary pieces: special tokens would vanish from text, and the stops too."""
    pieces = vocabulary()
    tokenizer = Tokenizer(
        models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token=UNKNOWN)
    )
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    pattern = Regex("|".join([*(_escape(piece) for piece in longest_first), r"[\s\S]"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files into ``directory``."""
    build_tokenizer().save_pretrained(directory)


def vocabulary() -> list[str]:
    """Every piece, in the order of token ids."""
    phrasings = [phrasing for candidates in RELATIONS.values() for phrasing in candidates]
    words = [f" {word}" for word in (*RELATIONS, *phrasings, *NAMES)]
    pieces = [PAD, EOS, UNKNOWN, *_constants(), *words, *string.printable]
    return list(dict.fromkeys(pieces))


def _constants() -> list[str]:
    before, after = PROTOCOL.observation("\0").split("\0")
    documents = [f"Doc {number}(Title:" for number in range(1, MOST_DOCUMENTS + 1)]
    observation = [before, after, f"{before}{documents[0]}", f" .{after}", *documents, " is", " ."]
    tags = [PROTOCOL.search_open, PROTOCOL.answer_open, *PROTOCOL.stop, *(f" {tag}" for tag in PROTOCOL.stop)]
    notices = [PROTOCOL.invalid_action, PROTOCOL.unavailable, PROTOCOL.no_results]
    headers = [block.HEADER, block.HEADER_UNLABELLED, block.HEADER_DOCUMENTS]
    numbers = [f"\n{number}." for number in range(1, MOST_ROLLOUTS + 1)]
    lines = [f" {CORRECT}:", f" {INCORRECT}:", block.SEPARATOR.rstrip(), f" {block.NO_SEARCH}"]
    return ["Question:", " of", " ?", *observation, *tags, *notices, *headers, *numbers, *lines]


def _escape(piece: str) -> str:
    # The regex engine reads "#" and blanks literally, so only the meta characters need a backslash.
    return re.sub(r"([\\.^$|?*+()\[\]{}])", r"\\\1", piece)

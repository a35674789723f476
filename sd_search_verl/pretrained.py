"""Load the parts of a Hugging Face folder so that every error names the folder and says what to do.

transformers, tokenizers and safetensors raise errors of any class for a broken file, most of them without its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError, on_one_line


def load_config(folder: Path) -> Any:
    """Return the config of a model.

    Raises:
        UserError: it is missing or cannot be read.
    """
    from transformers import AutoConfig

    with reading(folder, "config.json"):
        return AutoConfig.from_pretrained(folder)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model.

    Raises:
        UserError: it is missing or cannot be read.
    """
    from transformers import AutoTokenizer

    with reading(folder, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.encode("a", add_special_tokens=False):  # what transformers makes without its files
            raise ValueError("it makes no token of a text")
    return tokenizer


def load_policy(folder: Path, **options: Any) -> Any:
    """Return a causal language model with all of its weights.

    Args:
        options: as of ``from_pretrained``, such as ``dtype``.

    Raises:
        UserError: config or weights are missing, cannot be read, or are not of one model.
    """
    from transformers import AutoModelForCausalLM

    with reading(folder, "config and weights"):
        model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
        if missing := loading["missing_keys"]:  # which transformers draws at random
            raise ValueError(f"no weights for {len(missing)} tensors, such as {min(missing)}")
    return model


@contextmanager
def reading(folder: Path, part: str) -> Iterator[None]:
    """Name folder and part in the errors of the libraries that read them.

    Raises:
        UserError: in their place, on one line.
    """
    try:
        yield
    except Exception as error:
        reason = on_one_line(error)[:200]
        raise UserError(
            f"{folder}: {part} cannot be read ({type(error).__name__}: {reason}). Fix: copy or save the model again, "
            "config, tokenizer and weights of one model"
        ) from error

"""What an evaluation and a single question both need: a retriever that answers, and the model in vLLM."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.run import Generate, Search
from sd_search_verl.launch.process_tree import kill_children_on_death
from sd_search_verl.rollout.retriever import RetrieverClient


@dataclass(frozen=True)
class Session:
    """How turns are generated and documents found, and the model's tokenizer."""

    generate: Generate
    search: Search
    tokenizer: Any


@asynccontextmanager
async def open_session(model: Path, config: EvaluationConfig) -> AsyncIterator[Session]:
    """Retriever client and engine; both are closed at the end, and the engine's processes end with this one.

    Raises:
        UserError: the retriever does not answer. It is asked before minutes are spent on loading the model.
    """
    search = config.search
    client = RetrieverClient(search.retriever_urls, search.top_k, search.timeout_s, search.max_retries)
    try:
        found = await client.search("test")
        if found.error is not None:
            raise UserError(f"the retriever does not answer: {found.error}")
        # These imports take as long as loading a small model: only once it is certain that they are needed.
        from transformers import AutoTokenizer

        from sd_search_verl.evaluation.engine import Engine

        print(f"loading {model} into vLLM", file=sys.stderr)
        with kill_children_on_death(), closing(Engine(model, config)) as engine:
            yield Session(engine.generate, client.search, AutoTokenizer.from_pretrained(model))
    finally:
        await client.close()

"""A model in vLLM's asynchronous engine, token ids in and token ids out, and a retriever: what an evaluation needs."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from sd_search_verl.config import ConfigError
from sd_search_verl.data.questions import Question
from sd_search_verl.errors import UserError, on_one_line
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.run import Session
from sd_search_verl.files import read_json
from sd_search_verl.launch.environment import ENVIRONMENT
from sd_search_verl.launch.process_tree import kill_children_on_death
from sd_search_verl.pretrained import load_config, load_tokenizer
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.prompt import encode_messages, leaves_out, render_messages, writes_time
from sd_search_verl.protocol.token_bytes import byte_table
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import Tool
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.rollout.dialogue import Dialogue, protocol_of
from sd_search_verl.rollout.loop import Generation, stop_params


class Engine:
    """A model ready to generate; to be created inside the event loop that uses it.

    Args:
        model: Hugging Face folder.
        config: lengths, sampling and devices.
        tokenizer: of the model.

    Raises:
        UserError: vLLM is not installed, or cannot load the model.
        ConfigError: the model's context is too short for the config's lengths.
    """

    def __init__(self, model: Path, config: EvaluationConfig, tokenizer: Any) -> None:
        on_cpu = prepare_environment()
        check_context(model, config)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        length = config.max_prompt_tokens + config.max_response_tokens
        devices: dict[str, Any] = {}
        if on_cpu:
            # Chunked prefill crashes vLLM's CPU worker where a request has a seed: it rewinds the random generator's
            # offset (gpu_model_runner.py, _bookkeeping_sync), which a generator on the CPU does not have.
            devices = {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, length),
            }
        self._model, self._config, self._numbers = model, config, itertools.count()
        self._tokenizer = tokenizer
        engine_args = AsyncEngineArgs(
            model=str(model),
            dtype="float32" if on_cpu and config.dtype == "auto" else config.dtype,
            max_model_len=length,
            max_num_seqs=config.concurrency,
            gpu_memory_utilization=config.gpu_memory_utilization,
            tensor_parallel_size=config.tensor_parallel_size,
            enable_log_requests=False,
            disable_log_stats=True,
            **devices,
        )
        try:
            with _interruptible():
                self._llm = AsyncLLM.from_engine_args(engine_args)
        except Exception as error:  # of any class, and of another process
            raise UserError(
                f"vLLM cannot load {model} ({on_one_line(error)[:300]}); its messages are above. Fix: correct what "
                "they name, such as a file of the model, or lower gpu_memory_utilization where memory is short"
            ) from error

    async def generate(
        self, context: list[int], max_tokens: int, protocol: Protocol, seed: int
    ) -> Generation:
        """Generate one turn; with ``seed`` a sampled turn does not depend on the rest of the batch.

        Raises:
            UserError: the engine's processes ended, or did not answer within vLLM's own limit; or the model's
                probabilities are not finite.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        parameters = SamplingParams(
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            seed=seed if self._config.temperature > 0 else None,
            max_tokens=max_tokens,
            logprobs=0,  # of the sampled tokens: vLLM samples from NaN without a word
            **stop_params(protocol, self._tokenizer),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt: Any = {"prompt_token_ids": context}
        try:
            async for output in self._llm.generate(prompt, parameters, request_id=str(next(self._numbers))):
                last = output
        except EngineDeadError as error:
            raise UserError(
                "vLLM's engine ended or did not answer (out of memory, or a machine busy with something else?); its "
                "messages are above. Finished rollouts are kept. Fix: repeat the command, which goes on with the rest"
            ) from error
        token_ids, log_probs = list(last.outputs[0].token_ids), last.outputs[0].logprobs
        if not all(math.isfinite(at[token].logprob) for token, at in zip(token_ids, log_probs, strict=True)):
            raise UserError(
                f"the probabilities of {self._model} are not finite: its weights hold NaN or infinite values, or they "
                "overflow. Fix: another checkpoint, or --set dtype=float32"
            )
        return Generation(token_ids, None)

    def close(self) -> None:
        """End the engine's processes."""
        self._llm.shutdown()


@contextmanager
def _sockets() -> Iterator[None]:
    """Give vLLM's sockets a folder that is removed with them; in /tmp, since a path has at most 107 characters."""
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sd_search_", dir=short, ignore_cleanup_errors=True) as folder:
        os.environ["VLLM_RPC_BASE_PATH"] = folder
        try:
            yield
        finally:
            del os.environ["VLLM_RPC_BASE_PATH"]


class _InterruptedError(BaseException):
    """Ctrl-C while vLLM starts: it goes on waiting for its processes after a KeyboardInterrupt of its own."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block at once; asyncio would hold them back until the block is over.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def stop(*_: object) -> None:
        raise _InterruptedError

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _InterruptedError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@asynccontextmanager
async def open_session(
    model: Path, config: EvaluationConfig, questions: Sequence[Question]
) -> AsyncIterator[Session]:
    """Yield retriever client and engine and close both at the end; the engine's processes end with this one.

    Raises:
        UserError: the retriever does not answer, the tokenizer's tokens have no bytes of their own, or the chat
            template does not render ``questions``; checked before the model is loaded, which takes minutes.
    """
    search = config.search
    client = RetrieverClient(search.retriever_urls, search.top_k, search.timeout_s, search.max_retries)
    try:
        found = await client.search("test")
        if found.error is not None:
            raise UserError(f"the retriever does not answer: {found.error}")
        tokenizer = load_tokenizer(model)
        byte_table(tokenizer)
        check_prompts(model, tokenizer, config, questions)
        dialogue = dialogue_of(model, tokenizer, config, client.tools)
        print(f"loading {model} into vLLM", file=sys.stderr)
        with _sockets(), kill_children_on_death(), closing(Engine(model, config, tokenizer)) as engine:
            yield Session(engine.generate, client.search, tokenizer, dialogue)
    finally:
        await client.close()


def check_prompts(
    model: Path, tokenizer: Any, config: EvaluationConfig, questions: Sequence[Question]
) -> None:
    """Render one question of every sequence of roles; warn where the chat template writes the time.

    Raises:
        UserError: the template refuses one.
    """
    kwargs = config.template_kwargs()
    by_roles = {tuple(message["role"] for message in q.messages): q for q in reversed(questions)}
    dated = False
    for roles, question in by_roles.items():
        try:
            encode_messages(question.messages, tokenizer, kwargs)
            if leaves_out(question.messages, render_messages(question.messages, tokenizer, kwargs)):
                raise ValueError("it leaves the text of the prompt out")
            dated = dated or writes_time(question.messages, tokenizer, kwargs)
        except Exception as error:
            raise UserError(
                f"the chat template of {model} cannot render a prompt with the roles {', '.join(roles)} (question "
                f"{question.id} of {question.set}): {on_one_line(error)}. Fix: give prompts that it takes, or another "
                "template: --set 'chat_template_kwargs={chat_template: ...}'"
            ) from error
    if dated:
        print(
            "warning: the chat template writes the time, so the same evaluation has other prompts on another day; a "
            "template with date_string takes --set 'chat_template_kwargs={date_string: ...}'",
            file=sys.stderr,
        )


def dialogue_of(
    model: Path, tokenizer: Any, config: EvaluationConfig, tools: Mapping[str, Tool]
) -> Dialogue | None:
    """Return how tool calls are read and answered for a model; None for a protocol of tags.

    Raises:
        UserError: the family of tool calls does not fit the model.
    """
    protocol = protocol_of(config.search)
    if not isinstance(protocol, ToolCallProtocol):
        return None
    from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue  # verl takes seconds to load

    kind, limit = load_config(model).model_type, config.search.max_observation_tokens
    return ToolDialogue(tokenizer, protocol, kind, config.template_kwargs(), limit, tools)


def prepare_environment() -> bool:
    """Set the environment that vLLM reads at import; return whether the machine has no accelerator."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("vLLM is not installed; `make install` (CPU) or `make install-gpu` brings it")
    import torch

    on_cpu = not torch.cuda.is_available()
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name, value in {**quiet, **(ENVIRONMENT if on_cpu else {})}.items():
        os.environ.setdefault(name, value)
    return on_cpu


def check_context(model: Path, config: EvaluationConfig) -> None:
    """Refuse lengths that the model cannot hold, before it is loaded, and a damaged file that vLLM would pass over."""
    if (generation := model / "generation_config.json").is_file():
        read_json(generation)  # with the tokens that end a turn
    longest = getattr(load_config(model), "max_position_embeddings", None)
    wanted = config.max_prompt_tokens + config.max_response_tokens
    if longest is not None and wanted > longest:
        raise ConfigError(
            f"max_prompt_tokens={config.max_prompt_tokens} and max_response_tokens={config.max_response_tokens} "
            f"are {wanted} tokens, {model} holds {longest}; make them smaller"
        )

"""verl's client of its rollout servers, with a record of every attempt of a request that weight updates interrupt.

verl's :class:`FullyAsyncLLMServerClient` repeats an aborted request with the tokens sampled so far until it is
complete, and reports the first and last version of the weights only.
"""

from __future__ import annotations

import random
from contextvars import ContextVar
from typing import Any

from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient

ATTEMPTS = "sd_search_attempts"
"""Key in the extra fields of an output: (number of tokens, version of the weights) of each attempt."""

_attempts: ContextVar[list[tuple[int, int]]] = ContextVar("attempts")


class _Attempt(LLMServerClient):
    """One attempt: below verl's repetition, above its request."""

    async def generate(
        self, request_id: Any, *, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any
    ) -> Any:
        attempts = _attempts.get()
        sampled = sum(count for count, _ in attempts)
        if sampled and "seed" in sampling_params:
            # The same seed would draw the same random numbers as for the tokens before the interruption.
            seed = random.Random(f"{sampling_params['seed']}/{sampled}").getrandbits(56)
            sampling_params = {**sampling_params, "seed": seed}
        output = await super().generate(
            request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, **kwargs
        )
        attempts.append((len(output.token_ids), output.extra_fields.get("global_steps")))
        return output


class ResumingServerClient(FullyAsyncLLMServerClient, _Attempt):
    """A request that is repeated until complete; its output says which weights sampled which tokens."""

    async def generate(
        self, request_id: Any, *, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any
    ) -> Any:
        attempts: list[tuple[int, int]] = []
        token = _attempts.set(attempts)
        try:
            output = await super().generate(
                request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, **kwargs
            )
        finally:
            _attempts.reset(token)
        output.extra_fields[ATTEMPTS] = attempts
        return output

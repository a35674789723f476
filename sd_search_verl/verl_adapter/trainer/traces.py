"""The traced rollouts of a step, with what the teacher read and said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.protocol.token_bytes import token_texts
from sd_search_verl.runs.schema import Trace
from sd_search_verl.verl_adapter.actor.credit import Values, by_span
from sd_search_verl.verl_adapter.trainer.data_plane import StepRollouts


def traces_of(
    number: int,
    step: StepRollouts,
    inputs: Sequence[TeacherInputs] | None,
    traced: Sequence[int],
    credits: Mapping[int, Values],
    tokenizer: Any,
    retriever: str,
) -> list[Trace]:
    """Return the traces of a step.

    Args:
        number: of the step.
        inputs: what the teacher read of each rollout; None without a teacher.
        traced: places of the rollouts.
        credits: of traced rollouts with scored tokens, by place.
        retriever: what answered the searches, in words.
    """
    traces = []
    for place in traced:
        rollout, more = step.rollouts[place], dict[str, Any](retriever=retriever)
        if inputs is not None:
            more["blocks"] = inputs[place].blocks
            if place in credits:
                more |= vars(by_span(rollout, inputs[place], credits[place]))
        tokens = token_texts(rollout.response_ids, tokenizer)
        traces.append(Trace.of(number, rollout, step.rewards[place], tokens, **more))
    return traces

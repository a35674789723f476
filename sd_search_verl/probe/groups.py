"""Groups of rollouts from files: traces of a training run, trajectories of an evaluation, or any such JSON lines.

A line needs ``response``, ``golden_answers`` and ``prompt`` (text or chat messages) or ``question``. Lines of one
``step`` and ``group``, or of one ``set`` and ``id``, or without those of one ``question``, are a group. Queries, answer
and scores are parsed from the response; ``score`` is the reward where a line has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from sd_search_verl.config import TagProtocolName
from sd_search_verl.data.jsonl import Problem, check_text, read_objects
from sd_search_verl.data.messages import message_problem
from sd_search_verl.errors import UserError
from sd_search_verl.protocol import explained_instead
from sd_search_verl.protocol.base import Messages, decoded
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.prompt import text_messages
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.rollout.types import Prompt, Rollout, Search
from sd_search_verl.scoring import contains_answer, golden_answers

Group = list[Rollout]


def read_groups(
    path: Path, tokenizer: Any, protocol: TagProtocol, template_kwargs: Mapping[str, Any] | None = None
) -> list[Group]:
    """Return the groups of a file in its order, those without any query left out.

    The responses are encoded anew: their tokens may differ from the sampled ones where a policy wrote a text in an
    unusual way.

    Raises:
        UserError: no such file, a line without a needed field or with one of another type, or no group with a query.
    """
    groups: dict[str, Group] = {}
    for number, line in read_objects(path):
        if isinstance(line, Problem):
            raise UserError(f"{path}: {line}")
        try:
            name = json.dumps(_group_of(line))
            problem = _problem(number, line, protocol)
        except KeyError as missing:
            raise UserError(
                f"{path}:{number} has no field {missing}. Fix: give traces.jsonl of a training run, trajectories.jsonl "
                "of `sd-search evaluate`, or lines with question, response and golden_answers"
            ) from None
        if problem is not None:
            raise UserError(f"{path}: {problem}")
        prompt = _prompt(line, name, tokenizer, protocol, template_kwargs or {})
        groups.setdefault(name, []).append(_rollout(line, prompt, tokenizer, protocol))
    found = [group for group in groups.values() if any(rollout.spans for rollout in group)]
    if not found:
        raise UserError(f"{path} holds no rollout with a query between {protocol.search_open} tags")
    return found


def _group_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    if "group" in line:
        return line.get("step", 0), line["group"]
    if "set" in line and "id" in line:
        return line["set"], line["id"]
    return (line["question"],)


def _problem(number: int, line: Mapping[str, Any], protocol: TagProtocol) -> Problem | None:
    """Return what is wrong with the values of a line, or None."""
    name = "prompt" if "prompt" in line else "question"
    is_text = name == "question" or isinstance(line[name], str)
    of_prompt = (check_text if is_text else message_problem)(number, name, line[name])
    if problem := of_prompt or check_text(number, "response", line["response"], free=True):
        return problem
    golden, score = line["golden_answers"], line.get("score")
    if not isinstance(golden, (str, list)) or not all(isinstance(answer, str) for answer in golden):
        return Problem(number, "golden_answers", "must be a text or a list of texts")
    if score is not None and not isinstance(score, (int, float)):
        return Problem(number, "score", "must be a number, or left out")
    shown = line[name] if is_text else "\n".join(message["content"] for message in text_messages(line[name]))
    if other := explained_instead(shown if name == "prompt" else line["response"], protocol.name):
        fix = (
            f"--set protocol={other}" if other in get_args(TagProtocolName) else "tool calls cannot be probed"
        )
        return Problem(
            number, name, f"and response are of {other}, not of protocol={protocol.name}. Fix: {fix}"
        )
    return None


def _prompt(
    line: Mapping[str, Any],
    group: str,
    tokenizer: Any,
    protocol: TagProtocol,
    template_kwargs: Mapping[str, Any],
) -> Prompt:
    given = line["prompt"] if "prompt" in line else protocol.prompt(line["question"])
    messages: Messages = text_messages(
        [{"role": "user", "content": given}] if isinstance(given, str) else given
    )
    golden = golden_answers(line["golden_answers"])
    return Prompt.encode(group, messages, golden, tokenizer, template_kwargs, max_tokens=1 << 30)


def _rollout(line: Mapping[str, Any], prompt: Prompt, tokenizer: Any, protocol: TagProtocol) -> Rollout:
    response = decoded(line["response"], escaped=False)
    token_ids = encode_text(response, tokenizer)
    parsed = protocol.parse(response)
    rollout = Rollout(
        prompt,
        response_ids=token_ids,
        response_mask=[1] * len(token_ids),  # read at query tokens only
        queries=parsed.queries,
        spans=query_spans(token_ids, tokenizer, protocol),
        searches=_searches(response, parsed.queries, prompt.golden_answers, protocol),
        answer=parsed.answer,
        reward=line.get("score"),
    )
    return rollout.finish(tokenizer)


def _searches(
    response: str, queries: Sequence[str], golden: Sequence[str], protocol: TagProtocol
) -> list[Search]:
    """Return the executed searches: the i-th observation that follows a query answers the i-th query."""
    policy = [*protocol.policy_segments(response)]
    found: list[Search] = []
    for (start, end), following in zip(policy, [*policy[1:], (len(response), len(response))], strict=True):
        documents = response[end : following[0]]
        for turn in protocol.turns(response[start:end]):
            if protocol.query(turn) is not None and documents and len(found) < len(queries):
                # Normalisation drops punctuation: a tag would be one word with what stands beside it.
                shown = documents.replace(protocol.observation_open, " ").replace(
                    protocol.observation_close, " "
                )
                gold = contains_answer([shown], golden)
                found.append(Search(queries[len(found)], documents.strip(), 0.0, None, gold))
    return found

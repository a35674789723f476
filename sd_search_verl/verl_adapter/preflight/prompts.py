"""The prompts of student and teacher in the policy's chat template: they differ by the hindsight block alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sd_search_verl import protocol as protocols
from sd_search_verl.config import ConfigError, SDSearchConfig
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.hindsight.block import insert_block
from sd_search_verl.hindsight.layout import CORRECT, HEADER
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages, render_messages, text_messages
from sd_search_verl.verl_adapter.preflight.files import data_files, open_file
from sd_search_verl.verl_adapter.tools import prompt_kwargs

REFUSED_PROMPT = Rule(
    "chat template",
    "the chat template cannot render the first prompt of data.train_files: {error}",
    "store messages that the template takes, or set actor_rollout_ref.model.custom_chat_template",
)
NO_BOS = Rule(
    "chat template",
    "the tokenizer begins every text with {bos}, a prompt in this chat template begins with {first!r}",
    "begin it with {{{{ bos_token }}}}; the template that joins the messages is {template}",
)
OTHER_TEACHER = Rule(
    "sd_search.hindsight.placement={placement}",
    "the prompts of teacher and student differ by more than the hindsight block: {problem}",
    "set sd_search.hindsight.placement=before_question",
)
OTHER_TEACHER_IN_SYSTEM = Rule(
    OTHER_TEACHER.name,
    OTHER_TEACHER.broken,
    f"{OTHER_TEACHER.fix}, or give every prompt of the data a system message",
)
OTHER_TEACHER_BEFORE_QUESTION = Rule(
    OTHER_TEACHER.name,
    OTHER_TEACHER.broken,
    "set actor_rollout_ref.model.custom_chat_template to one that writes every message as it is",
)

BLOCK = f"{HEADER}\n1. {CORRECT}: who wrote it\n"
MERGED_TOKENS = 2
"""Tokens of the student's prompt that may merge with the block's: the last before it and the first after it."""


def check_prompts(config: DictConfig, tokenizer: Any) -> Iterator[Finding]:
    """Render the first question of the data for student and teacher; findings are failures only."""
    messages = _first_prompt(config)
    try:
        kwargs = prompt_kwargs(config)
        student = encode_messages(messages, tokenizer, kwargs)
    except Exception as error:
        yield REFUSED_PROMPT.finding(error=_line(error))
        return
    if adds_bos(tokenizer) and student[:1] != [tokenizer.bos_token_id]:
        first = tokenizer.decode(student[:1])
        yield NO_BOS.finding(bos=tokenizer.bos_token, first=first, template=plain_template(tokenizer))
    if (method := _method(config)) is None or method.alpha == 0 or method.hindsight.content == "none":
        return
    try:
        placed = insert_block(messages, BLOCK, method.hindsight)
        texts = (render_messages(rendered, tokenizer, kwargs) for rendered in (messages, placed))
        problem = difference(*texts) or _token_difference(student, encode_messages(placed, tokenizer, kwargs))
    except Exception as error:
        problem = f"the chat template refuses the teacher's prompt: {_line(error)}"
    if problem:
        placement = method.hindsight.placement
        rules = {"system": OTHER_TEACHER_IN_SYSTEM, "before_question": OTHER_TEACHER_BEFORE_QUESTION}
        yield rules.get(placement, OTHER_TEACHER).finding(placement=placement, problem=problem)


def difference(student: str, teacher: str) -> str:
    """Return how the teacher's prompt without the block differs from the student's, "" if it does not.

    White space beside the block is the block's own.
    """
    before, block, after = teacher.partition(BLOCK.strip())
    if not block:
        return "the chat template leaves the hindsight block out of the teacher's prompt"
    before, after = before.rstrip(), after.lstrip()
    middle = student.removeprefix(before).removesuffix(after)
    if len(before) + len(middle) + len(after) == len(student) and not middle.strip():
        return ""
    lost = middle.strip() if student.startswith(before) and student.endswith(after) else student
    return f"the teacher's prompt lacks text that the student's has: {lost[:120]!r}"


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts its BOS token before every text."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]


def plain_template(tokenizer: Any) -> str:
    """Return the override, quoted for shell and Hydra, of a template that joins the messages behind BOS, if any."""
    bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
    template = f"{bos}{{% for message in messages %}}{{{{ message.content }}}}{{% endfor %}}"
    return f"\"actor_rollout_ref.model.custom_chat_template='{template}'\""


def _token_difference(student: list[int], teacher: list[int]) -> str:
    """Compare token for token, but for tokens that may merge with the block's."""
    before = _common_prefix(student, teacher)
    after = _common_prefix(student[before:][::-1], teacher[::-1])
    different = len(student) - before - after
    if different <= MERGED_TOKENS:
        return ""
    return f"{different} tokens of the student's prompt are others in the teacher's"


def _common_prefix(left: list[int], right: list[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _first_prompt(config: DictConfig) -> Messages:
    """Return the first prompt of the training data, the protocol's own where it cannot be read."""
    key = config.data.prompt_key
    try:
        file = open_file(Path(data_files(config, "train_files")[0]).expanduser())
        _, row = next(file.rows([key]))
        return text_messages(row[key])
    except Exception:  # check_data reports it
        return protocols.get(config.search.protocol).prompt("who wrote it")


def _method(config: DictConfig) -> SDSearchConfig | None:
    from sd_search_verl.verl_adapter.settings import read_sd_search

    try:
        return read_sd_search(config)
    except ConfigError:
        return None  # check_verl reports it


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""The prompts of student and teacher in the policy's chat template: they differ by the hindsight block alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sd_search_verl import protocol as protocols
from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.hindsight.block import insert_block
from sd_search_verl.hindsight.layout import CORRECT, HEADER
from sd_search_verl.hindsight.teacher_inputs import common_prefix
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import (
    encode_messages,
    leaves_out,
    render_messages,
    text_messages,
    writes_time,
)
from sd_search_verl.verl_adapter.preflight.files import data_files, open_file
from sd_search_verl.verl_adapter.preflight.rows import MOST_ROWS
from sd_search_verl.verl_adapter.rollout.tools import prompt_kwargs
from sd_search_verl.verl_adapter.settings import read_sd_search

REFUSED_PROMPT = Rule(
    "chat template",
    "the chat template cannot render the first prompt of data.train_files: {error}",
    "store messages that the template takes, or set actor_rollout_ref.model.custom_chat_template",
)
REFUSED_ROLES = Rule(
    REFUSED_PROMPT.name,
    "the chat template cannot render a prompt of the data with the roles {roles}: {error}",
    REFUSED_PROMPT.fix,
)
NO_TEXT = Rule(
    "chat template",
    "the chat template leaves the text of the prompt out: all that it renders is {rendered!r}",
    "set actor_rollout_ref.model.custom_chat_template to one that takes a text as a message's content; those of models "
    "that read images may want a list of parts",
)
WRITES_TIME = Rule(
    "chat template",
    "the chat template writes the time: prompts are others on another day, and the teacher's may differ from the "
    "student's",
    "set ++data.apply_chat_template_kwargs.date_string='26 Jul 2024' if the template reads date_string, or "
    "actor_rollout_ref.model.custom_chat_template to one without a date",
    warns=True,
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
    """Render a prompt of every sequence of roles, for the teacher too; findings are failures of the first bad one."""
    train, validation = _prompts(config, "train_files"), _prompts(config, "val_files")
    first, *others = train.values() or [protocols.get(config.search.protocol).prompt("who wrote it")]
    others += [messages for roles, messages in validation.items() if roles not in train]
    for number, messages in enumerate([first, *others]):
        findings = [*_check_student(config, tokenizer, messages, number)]
        if not findings and number < max(1, len(train)):
            findings = [*_check_teacher(config, tokenizer, messages)]
        if findings:
            yield from findings
            return
    if writes_time(first, tokenizer, prompt_kwargs(config)):
        yield WRITES_TIME.finding()


def _check_student(config: DictConfig, tokenizer: Any, messages: Messages, number: int) -> Iterator[Finding]:
    try:
        kwargs = prompt_kwargs(config)
        student = encode_messages(messages, tokenizer, kwargs)
        rendered = render_messages(messages, tokenizer, kwargs)
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        rule = REFUSED_ROLES if number else REFUSED_PROMPT
        yield rule.finding(error=on_one_line(error), roles=roles)
        return
    if leaves_out(messages, rendered):
        yield NO_TEXT.finding(rendered=rendered[:80])
        return
    if adds_bos(tokenizer) and student[:1] != [tokenizer.bos_token_id]:
        first = tokenizer.decode(student[:1])
        yield NO_BOS.finding(bos=tokenizer.bos_token, first=first, template=plain_template(tokenizer))


def _check_teacher(config: DictConfig, tokenizer: Any, messages: Messages) -> Iterator[Finding]:
    method = read_sd_search(config)
    if method.alpha == 0 or method.hindsight.content == "none":
        return
    kwargs = prompt_kwargs(config)
    student = encode_messages(messages, tokenizer, kwargs)
    try:
        placed = insert_block(messages, BLOCK, method.hindsight)
        texts = (render_messages(rendered, tokenizer, kwargs) for rendered in (messages, placed))
        problem = difference(*texts) or _token_difference(student, encode_messages(placed, tokenizer, kwargs))
    except Exception as error:
        problem = f"the chat template refuses the teacher's prompt: {on_one_line(error)}"
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
    before = common_prefix(student, teacher)
    after = common_prefix(student[before:][::-1], teacher[::-1])
    different = len(student) - before - after
    if different <= MERGED_TOKENS:
        return ""
    return f"{different} tokens of the student's prompt are others in the teacher's"


def _prompts(config: DictConfig, option: str) -> dict[tuple[str, ...], Messages]:
    """Return the first prompt of every sequence of roles in the files of an option; none where they cannot be read."""
    key, found = config.data.prompt_key, dict[tuple[str, ...], Messages]()
    with suppress(Exception):  # check_data reports it
        for name in data_files(config, option):
            for _, row in islice(open_file(Path(name)).rows([key]), MOST_ROWS):
                roles = tuple(message["role"] for message in row[key])
                if roles not in found:
                    found[roles] = text_messages(row[key])
    return found

"""Every row of a data file: a prompt of chat messages, golden answers that can be scored, and no other agent loop."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from omegaconf import DictConfig

from sd_search_verl import protocol as protocols
from sd_search_verl.config import SearchConfig
from sd_search_verl.data.jsonl import Problem, check_answers, check_text
from sd_search_verl.data.messages import message_problem
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import text_messages
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.verl_adapter.preflight.files import DataFile
from sd_search_verl.verl_adapter.preflight.policy_files import try_tokenizer
from sd_search_verl.verl_adapter.settings import AGENT_LOOP, read_search

SOURCE = "data_source"
"""The column of a row's question set; verl's reward managers and validation read no other."""
MOST_ROWS = 100_000
"""Rows of a file that are read; of a larger one so many are drawn, always the same ones."""

_SHOWN = 3
_LONGEST = 32

_BROKEN = "{path}: {count} of {checked} rows "
PROMPTS = Rule(
    "prompts",
    _BROKEN + "have no prompt of chat messages: {first}",
    "write a list of messages with role and content, the last one the user's; `sd-search data own NAME FILE` does",
)
ANSWERS = Rule(
    "golden answers",
    _BROKEN + "have no golden answers that can be scored: {first}",
    "write {{'target': ['an answer', ...]}} or a list of texts, dates and numbers as texts too; `sd-search data own "
    "NAME FILE` does",
)
SOURCES = Rule(
    "data sources",
    _BROKEN + "do not name their question set: {first}",
    "write a text, by which verl reports validation",
)
EXTRA = Rule(
    "extra_info", _BROKEN + "have an extra_info that is no object: {first}", "write an object or leave it out"
)
OTHER_LOOPS = Rule(
    "agent_name",
    _BROKEN + "choose another agent loop than " + AGENT_LOOP + ": {first}",
    f"remove the column agent_name, or write {AGENT_LOOP}",
)
OTHER_SIZES = Rule(
    "__rollout_n__",
    _BROKEN + "ask for another group size than actor_rollout_ref.rollout.n: {first}",
    "remove the column __rollout_n__",
)
MEDIA = Rule(
    "media",
    _BROKEN + "carry images, videos or audio, which the agent loop does not show to the policy: {first}",
    "remove the column",
)
OTHER_PROTOCOL = Rule(
    "search.protocol",
    "the prompts of {path} speak {other}, but search.protocol={ours}: {first}",
    "build it anew with --protocol {ours} of `sd-search data build` or `data own`, or set search.protocol={other}",
)

UNTOLD = Rule(
    "search.protocol",
    _BROKEN
    + "do not tell the policy of search.protocol={ours}, so it would search or answer only by chance: {first}",
    "`sd-search data own NAME FILE --protocol {ours}` writes prompts that do, or let a message of yours say so, "
    "unless the policy was trained on such prompts",
    warns=True,
)


@dataclass
class Scan:
    """What the rows of a file hold.

    Attributes:
        checked: rows that were read.
        problems: the broken rules, each with the rows that break it.
        longest: the prompts with the most characters.
        last_messages: the rows by the hash of the text of their last message, which holds the question.
        spoken: row and name of every protocol that prompts speak in place of the configured one.
    """

    file: DataFile
    checked: int = 0
    problems: dict[Rule, list[Problem]] = field(default_factory=lambda: defaultdict(list))
    longest: list[Messages] = field(default_factory=list)
    last_messages: Counter[int] = field(default_factory=Counter)
    spoken: dict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))

    def findings(self, config: DictConfig) -> Iterator[Finding]:
        """Yield one finding for each broken rule, with its first rows."""
        of = f"{self.checked}" + (" drawn" if self.checked < self.file.num_rows else "")
        values = {"path": self.file.path, "ours": config.search.protocol}
        for rule, problems in self.problems.items():
            if rule is UNTOLD and _has_tokens(config):
                continue
            count = len({problem.line for problem in problems})
            yield rule.finding(**values, count=count, checked=of, first=_first(problems))
        for other, problems in self.spoken.items():
            yield OTHER_PROTOCOL.finding(**values, other=other, first=_first(problems))


def scan(file: DataFile, config: DictConfig, train: bool) -> Scan:
    """Read the rows of a file that has verl's columns."""
    data, found = config.data, Scan(file)
    chosen = None
    if file.num_rows > MOST_ROWS:
        chosen = sorted(Random(0).sample(range(file.num_rows), MOST_ROWS))
    media = [data.get(f"{kind}_key") or f"{kind}s" for kind in ("image", "video", "audio")]
    columns = [data.prompt_key, "reward_model", SOURCE, "extra_info", "agent_name", "__rollout_n__"]
    n, told = config.actor_rollout_ref.rollout.n, _told(read_search(config))
    longest: list[tuple[int, int, Messages]] = []
    for number, row in file.rows([*columns, *media], chosen):
        found.checked += 1
        for rule, problem in _problems(number, row, data.prompt_key):
            found.problems[rule].append(problem)
        if row.get("agent_name", AGENT_LOOP) != AGENT_LOOP:
            found.problems[OTHER_LOOPS].append(Problem(number, "agent_name", f"is {row['agent_name']!r}"))
        if train and row.get("__rollout_n__", n) != n:
            found.problems[OTHER_SIZES].append(
                Problem(number, "__rollout_n__", f"is {row['__rollout_n__']}, not {n}")
            )
        for name in media:
            if row.get(name):
                found.problems[MEDIA].append(Problem(number, name, "is not empty"))
        messages = row[data.prompt_key]
        if message_problem(number, data.prompt_key, messages) is None:
            messages = text_messages(messages)
            found.last_messages[hash(messages[-1]["content"].strip())] += 1
            text = "\n".join(message["content"] for message in messages)
            entry = (len(text), -number, messages)
            heapq.heappush(longest, entry) if len(longest) < _LONGEST else heapq.heappushpop(longest, entry)
            if (other := protocols.explained_instead(text, config.search.protocol)) is not None:
                found.spoken[other].append(Problem(number, data.prompt_key, "has its tags"))
            elif missing := [tag for tag in told if tag not in text]:
                found.problems[UNTOLD].append(
                    Problem(number, data.prompt_key, f"does not name {' or '.join(missing)}")
                )
    found.longest = [messages for *_, messages in longest]
    return found


def _problems(number: int, row: dict[str, Any], prompt: str) -> Iterator[tuple[Rule, Problem]]:
    if (problem := message_problem(number, prompt, row[prompt])) is not None:
        yield PROMPTS, problem
    if (problem := _answer_problem(number, row["reward_model"])) is not None:
        yield ANSWERS, problem
    if (problem := check_text(number, SOURCE, row[SOURCE])) is not None:
        yield SOURCES, problem
    if not isinstance(row.get("extra_info") or {}, dict):
        yield EXTRA, Problem(number, "extra_info", "is no object")


def _answer_problem(number: int, reward_model: Any) -> Problem | None:
    if not isinstance(reward_model, dict):
        return Problem(number, "reward_model", "is no object with ground_truth")
    golden: Any = reward_model.get("ground_truth")
    name = "reward_model.ground_truth"
    if isinstance(golden, dict):
        if "target" not in golden:
            return Problem(number, name, f"has no 'target'; its keys are {', '.join(sorted(golden))}")
        golden, name = golden["target"], f"{name}.target"
    return check_answers(number, name, golden)


def _told(search: SearchConfig) -> list[str]:
    """Return the tags that a prompt must name; a chat template shows the tools, but no tag."""
    protocol = protocol_of(search)
    if isinstance(protocol, TagProtocol):
        return [protocol.search_open, protocol.answer_open]
    return [protocol.answer_open] if search.tool_call.answer == "tag" else []


def _has_tokens(config: DictConfig) -> bool:
    """Return whether the tags are tokens of the policy's own: then it was trained on them."""
    tokenizer = try_tokenizer(config)
    return tokenizer is not None and {*_told(read_search(config))} <= {*tokenizer.get_vocab()}


def _first(problems: list[Problem]) -> str:
    shown = "; ".join(f"row {p.line}, {p.field} {p.reason}" for p in problems[:_SHOWN])
    return shown + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")

"""Tool calls of a chat model: the template shows the tools, and the model calls them in the form of its family.

The turn, its end-of-turn token included, is the policy's as it was sampled; what the tools return comes as tool
messages of the template. A turn without a call ends the rollout if it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sd_search_verl.protocol.base import Protocol, Turn
from sd_search_verl.protocol.families import Family
from sd_search_verl.protocol.tools import SCHEMAS, Schema


@dataclass(frozen=True)
class ToolCallProtocol(Protocol):
    """Calls in the form of a family, or of any of several where a text is read whose model is unknown.

    Attributes:
        tools: what the policy may call.
        answer_in: tag: the text between the last ``<answer>`` and ``</answer>``. last_message: those, or else the
            whole message of a turn without a call, after its thinking.
        parallel: whether a turn goes on after its first call.
    """

    name: str
    families: tuple[Family, ...]
    tools: tuple[Schema, ...] = (SCHEMAS["search"],)
    answer_in: Literal["tag", "last_message"] = "tag"
    parallel: bool = True
    prompt_template: str = (
        "Answer the given question. You can call the tools as often as you want. "
        "When you know the answer, give it inside <answer> and </answer>, without detailed illustrations. "
        "For example, <answer> Beijing </answer>. Question: {question}\n"
    )
    invalid_action: str = (
        "Your last message neither calls a tool nor answers. Call a tool in the form that you were given, or give the "
        "final answer inside <answer> and </answer>."
    )
    """User message after such a turn."""
    unavailable: str = "Search is unavailable at the moment."
    no_results: str = "No documents were found."
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """The tools, which the chat template shows."""
        return {"tools": list(self.tools)}

    @property
    def stop(self) -> list[str]:
        """Texts that end a turn beside its last token: none where it may hold several calls."""
        closings = dict.fromkeys(family.closing for family in self.families)
        return [] if self.parallel else [*closings, self.answer_close]

    @property
    def ends(self) -> tuple[str, ...]:
        """Tokens that end a turn, the usual one first."""
        return tuple(dict.fromkeys(end for family in self.families for end in family.ends))

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Return the ids of the tokens that end a turn, the usual one first, and of the tokenizer's own EOS."""
        added = tokenizer.added_tokens_encoder
        ids = [added[end] for end in self.ends if end in added]
        eos = tokenizer.eos_token_id
        return list(dict.fromkeys([*ids, *([] if eos is None else [eos])]))

    def turns(self, text: str) -> Iterator[str]:
        """Yield the text: the environment speaks after every turn."""
        if text:
            yield text

    def read(self, turn: str) -> Turn:
        """Return the turn's calls, or its answer where it has none."""
        for family in self.families:
            if calls := tuple(family.locate(turn)):
                return Turn(calls)
        message = turn
        for family in self.families:
            message = message.rpartition(family.thinking_end)[2]
        closed = message.rpartition(self.answer_close)[0]
        if self.answer_open in closed:
            return Turn(answer=closed.rpartition(self.answer_open)[2].strip())
        if any(family.opening in message for family in self.families):
            return Turn(malformed="bad_call")
        if self.answer_in == "tag":
            return Turn(malformed="no_action")
        for end in self.ends:
            message = message.replace(end, "")
        return Turn(answer=message.strip()) if message.strip() else Turn(malformed="no_action")

    def observation(self, text: str) -> str:
        """Return a tool's result as the usual template of the family shows it between two turns."""
        return self.families[0].observation.format(text)

    def environment(self) -> re.Pattern[str]:
        """Return the pattern of tool and user messages with what the template puts around them."""
        forms = dict.fromkeys(form for f in self.families for form in (f.observation, f.notice))
        patterns = (".*?".join(map(re.escape, form.format("\0").split("\0"))) for form in forms)
        return re.compile("|".join(patterns), re.DOTALL)

    def is_of(self, text: str) -> bool:
        """Return whether a text holds a call or a message of the environment."""
        calls = any(family.opening in text for family in self.families)
        return calls or self.environment().search(text) is not None

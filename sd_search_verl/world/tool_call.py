"""The world in tool calls: the same model and tokens, spelled as a chat template and its calls.

Every piece of the tokenizer keeps its id and gets another text: ``<search>`` becomes the start of a call, the tags of
an observation become those of a tool message. What tool calls have and tags have not, the end of a turn and the start
of messages, are a few more tokens. A short supervised training from the warm-started model teaches those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from sd_search_verl import protocol as protocols
from sd_search_verl.files import make_new_folder
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.world import text
from sd_search_verl.world.config import CHECKPOINT, FitConfig
from sd_search_verl.world.demonstrations import Demonstration, demonstration, stage
from sd_search_verl.world.files import difficulty, write_difficulty
from sd_search_verl.world.model import load_model
from sd_search_verl.world.supervised import Encoded, fit
from sd_search_verl.world.tokenizer import EOS, PAD, build_tokenizer, pieces
from sd_search_verl.world.warmstart import Encoder

PROTOCOL = protocols.tool_call("hermes")
MAX_LENGTH = 1024
START, END = "<|im_start|>", "<|im_end|>"
CALL_OPEN, CALL_CLOSE = '<tool_call>\n{"name": "search", "arguments": {"query": "', '"}}\n</tool_call>'
CHAT_TEMPLATE = """\
{%- if tools or messages[0].role == 'system' -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n' -}}{%- endif -%}
{%- for tool in tools or [] -%}{{- (tool | tojson) + '\\n' -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages if message.role != 'system' -%}
{%- set before = messages[messages.index(message) - 1].role -%}
{%- if message.role == 'tool' -%}
{%- if before != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_tool_tokenizer() -> Qwen2Tokenizer:
    """Return the world's tokenizer with its pieces spelled anew; new tokens stand at the end."""
    plain, spelled = build_tokenizer(), _spelling()
    by_id = sorted(plain.get_vocab(), key=plain.get_vocab().get)
    first = plain.convert_tokens_to_ids(pieces()[0])
    tokenizer = Qwen2Tokenizer(
        vocab={spelled.get(token, token): index for index, token in enumerate(by_id[:first])},
        merges=[],
        unk_token=END,  # never used: every byte has a token
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        chat_template=CHAT_TEMPLATE,
    )
    added = [spelled.get(piece, piece) for piece in by_id[first:]]
    for new in ([*added, START], _prompt_frame(tokenizer)):
        tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in new])
    return tokenizer


def _spelling() -> dict[str, str]:
    """Return the new text of every piece that has one."""
    before, after = text.PROTOCOL.observation("\0").split("\0")
    opening, closing = PROTOCOL.observation("\0").removeprefix("\n").split("\0")
    return {
        EOS: END,
        text.PROTOCOL.search_open: CALL_OPEN,
        f" {text.PROTOCOL.search_close}": CALL_CLOSE,
        before: opening,
        after: closing,
        f"{before}Doc 1(Title:": f"{opening}Doc 1(Title:",
        f" .{after}": f" .{closing}",
        text.PROTOCOL.invalid_action: PROTOCOL.invalid_action,
    }


def _prompt_frame(tokenizer: Any) -> list[str]:
    """Return what the template writes before and after the question."""
    messages = [{"role": "user", "content": "\0"}]
    frame = tokenizer.apply_chat_template(
        messages, tools=[SCHEMAS["search"]], tokenize=False, add_generation_prompt=True
    )
    return str(frame).split("\0")


class ToolEncoder:
    """Encode demonstrations in tool calls, from their encoding in tags."""

    def __init__(self, tokenizer: Any) -> None:
        plain = build_tokenizer()
        self._plain, self._encode = plain, Encoder(plain)
        self._before, self._after = map(tokenizer.convert_tokens_to_ids, _prompt_frame(tokenizer))
        self._close = plain.convert_tokens_to_ids(f" {text.PROTOCOL.search_close}")
        self._end, self._line = plain.eos_token_id, plain.convert_tokens_to_ids("\n")

    def __call__(self, example: Demonstration) -> Encoded:
        ids, weights = self._encode(example)
        prompt = len(self._plain.encode(example.prompt))
        found_ids = [self._before, *ids[:prompt], self._after]
        found_weights = [0.0, *weights[:prompt], 0.0]
        for token, weight in zip(ids[prompt:], weights[prompt:], strict=True):
            found_ids.append(token)
            found_weights.append(weight)
            if token == self._close:  # the turn ends here; the line end is the template's
                found_ids += [self._end, self._line]
                found_weights += [1.0, 0.0]
        return found_ids, found_weights


def make_tool_checkpoint(directory: Path, config: FitConfig, begin: Path = CHECKPOINT) -> list[float]:
    """Train a warm-started model on to tool calls and write it into ``directory``; returns the losses.

    Raises:
        UserError: ``directory`` holds files.
    """
    world = difficulty(begin)
    make_new_folder(directory)
    tokenizer, model = build_tool_tokenizer(), load_model(begin)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draw, encode = Random(f"tool calls/{config.seed}"), ToolEncoder(tokenizer)

    def examples(progress: float) -> Sequence[Encoded]:
        return [encode(demonstration(draw, stage(0.999), world)) for _ in range(config.batch)]

    losses = fit(model, examples, config)
    model.eval().bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_difficulty(world, directory)
    return losses

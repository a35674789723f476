"""Chat templates of the families of tool calls, written anew and short.

They agree with the published ones of Qwen3 (hermes), Qwen3.5 (qwen3_coder) and Gemma 4 in what rollouts depend on: the
tokens around messages, tools in the system message, consecutive tool messages in one user message (Gemma: in the
model's own turn), thinking of earlier turns left out, and what begins the assistant's message.
"""

from __future__ import annotations

import copy
from typing import Any

_CHATML = """
{%- set last = namespace(user=0) -%}
{%- for m in messages if m.role == 'user' -%}{%- set last.user = messages.index(m) -%}{%- endfor -%}
{%- if tools or messages[0].role == 'system' -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + ('\\n\\n' if tools else '') -}}{%- endif -%}
{%- if tools -%}{{- '# Tools\\n\\n<tools>' -}}{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nCall them like this:\\nEXAMPLE' -}}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if loop.index0 > last.user and m.reasoning_content -%}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- m.content.split('</think>')[-1] -}}
{%- for call in m.tool_calls or [] -%}{{- '\\n' if m.content or not loop.first -}}CALL{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif m.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}START{%- endif -%}
"""
_NO_THINKING = (
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}"
)

HERMES = (
    _CHATML.replace("EXAMPLE", '<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>')
    .replace(
        "CALL",
        """{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}"""
        """{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}""",
    )
    .replace("START", _NO_THINKING + "{%- endif -%}")
)
QWEN3_CODER = (
    _CHATML.replace(
        "EXAMPLE", "<tool_call>\\n<function=name>\\n<parameter=x>\\nvalue\\n</parameter>\\n</function>\\n"
    )
    .replace(
        "CALL",
        "{{- '<tool_call>\\n<function=' + call.function.name + '>\\n' -}}"
        "{%- for name, value in call.function.arguments.items() -%}"
        "{{- '<parameter=' + name + '>\\n' + (value | string) + '\\n</parameter>\\n' -}}{%- endfor -%}"
        "{{- '</function>\\n</tool_call>' -}}",
    )
    .replace("START", _NO_THINKING + "{%- else -%}{{- '<think>\\n' -}}{%- endif -%}")
)
GEMMA4 = """
{%- macro declared(tool) -%}{{- '<|tool>declaration:' + tool.function.name + '{description:<|"|>' -}}
{{- tool.function.description + '<|"|>}<tool|>' -}}{%- endmacro -%}
{{- bos_token or '' -}}
{%- if tools or messages[0].role == 'system' -%}
{{- '<|turn>system\\n' -}}{%- if messages[0].role == 'system' -%}{{- messages[0].content | trim -}}{%- endif -%}
{%- for tool in tools or [] -%}{{- declared(tool) -}}{%- endfor -%}{{- '<turn|>\\n' -}}
{%- endif -%}
{%- for m in (messages[1:] if messages[0].role == 'system' else messages) -%}
{%- if m.role == 'tool' -%}
{{- 'response:' + (m.name or 'unknown') + '{value:<|"|>' + m.content + '<|"|>}<tool_response|>' -}}
{%- if loop.nextitem and loop.nextitem.role == 'tool' -%}{{- '<|tool_response>' -}}{%- endif -%}
{%- elif m.role == 'assistant' and m.tool_calls -%}
{%- if not loop.previtem or loop.previtem.role != 'tool' -%}{{- '<|turn>model\\n' -}}{%- endif -%}
{%- for call in m.tool_calls -%}{{- '<|tool_call>call:' + call.function.name + '{' -}}
{%- for name, value in call.function.arguments.items() -%}
{{- name + ':<|"|>' + (value | string) + '<|"|>' -}}{%- endfor -%}
{{- '}<tool_call|>' -}}{%- endfor -%}{{- '<|tool_response>' -}}
{%- else -%}
{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (m.content | trim) + '<turn|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'tool' -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""

TEMPLATES = {"hermes": HERMES, "qwen3_coder": QWEN3_CODER, "gemma4": GEMMA4}
CONTROL = {
    "hermes": ["<|im_start|>", "<|im_end|>"],
    "qwen3_coder": ["<|im_start|>", "<|im_end|>"],
    "gemma4": [
        "<|tool_call>",
        "<tool_call|>",
        '<|"|>',
        "<|tool_response>",
        "<tool_response|>",
        "<|turn>",
        "<turn|>",
    ],
}
MODEL_TYPES = {"hermes": "qwen3", "qwen3_coder": "qwen3_5", "gemma4": "gemma4"}
"""By which verl chooses its token builder."""


def chat_tokenizer(base: Any, family: str) -> Any:
    """A copy of a tokenizer with the template and the control tokens of a family."""
    tokenizer = copy.deepcopy(base)
    tokenizer.add_tokens(CONTROL[family], special_tokens=True)
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer

"""Start refuses chat templates in which the prompts of teacher and student differ by more than the block."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change
from support.tokenizer_families import family, word_piece
from transformers import AutoTokenizer

from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.finding import Finding
from sd_search_verl.protocol import get
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight.prompts import check_prompts, plain_template

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
IGNORES_SYSTEM = (
    "{{ bos_token }}{% for message in messages if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% endfor %}"
)
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
PLACEMENTS = ["before_question", "after_question", "system"]


def with_template(name: str, template: str) -> Any:
    tokenizer = copy.deepcopy(family(name))
    tokenizer.chat_template = template
    return tokenizer


def findings(config: DictConfig, tokenizer: Any, **values: object) -> list[Finding]:
    values = {f"sd_search__{name}": value for name, value in values.items()}
    return list(check_prompts(change(config, **values), tokenizer))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_qwen_loses_its_default_system_message_to_a_block_placed_there(
    good: DictConfig, qwen_tokenizer: Any, placement: str
) -> None:
    found = findings(good, qwen_tokenizer, hindsight__placement=placement)
    if placement != "system":
        assert found == []
        return
    (finding,) = found
    assert finding.name == "sd_search.hindsight.placement=system"
    assert "lacks text that the student's has: 'You are Qwen, created by Alibaba Cloud." in finding.found
    assert "set sd_search.hindsight.placement=before_question, or give every prompt" in finding.fix


def test_a_system_message_in_the_data_takes_the_block(
    good: DictConfig, qwen_tokenizer: Any, tmp_path: Path
) -> None:
    row = verl_row("nq", "train", 0, "0", "who wrote it", ["yes"], get("search_r1"))
    row["prompt"] = [{"role": "system", "content": "Be brief."}, *row["prompt"]]
    write_parquet(tmp_path / "system.parquet", [row])
    config = change(good, data__train_files=str(tmp_path / "system.parquet"))
    assert findings(config, qwen_tokenizer, hindsight__placement="system") == []


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_templates_without_a_system_role(good: DictConfig, placement: str) -> None:
    for template, says in (
        (GEMMA, "System role not supported"),
        (IGNORES_SYSTEM, "leaves the hindsight block out"),
    ):
        found = findings(good, with_template("gemma", template), hindsight__placement=placement)
        assert bool(found) == (placement == "system")
        if found:
            assert says in found[0].found
            assert "placement=before_question" in found[0].fix


def test_only_runs_with_a_block_are_asked(good: DictConfig) -> None:
    tokenizer = with_template("gemma", GEMMA)
    assert findings(good, tokenizer, hindsight__placement="system", alpha=0) == []
    assert findings(good, tokenizer, hindsight__placement="system", hindsight__content="none") == []


def test_a_template_that_rewrites_the_question_is_refused(good: DictConfig) -> None:
    """It shows the first 140 characters of a message: behind the block nothing of the question is left."""
    (finding,) = findings(good, with_template("qwen", "{{ messages[-1].content[:140] }}"))
    assert finding.name == "sd_search.hindsight.placement=before_question"
    assert "lacks text" in finding.found
    assert "custom_chat_template" in finding.fix


def test_a_prompt_that_the_template_refuses(good: DictConfig) -> None:
    (finding,) = findings(good, with_template("qwen", "{{ raise_exception('Roles must alternate') }}"))
    assert finding.found.endswith("cannot render the first prompt of data.train_files: Roles must alternate")


@pytest.mark.parametrize("option", ["train_files", "val_files"])
def test_a_prompt_of_other_roles_is_found_wherever_it_stands(
    good: DictConfig, tmp_path: Path, option: str
) -> None:
    rows = [verl_row("nq", "train", i, str(i), "who wrote it", ["yes"], get("search_r1")) for i in range(9)]
    rows[7]["prompt"] = [{"role": "system", "content": "Be brief."}, *rows[7]["prompt"]]
    write_parquet(tmp_path / "rows.parquet", rows)
    config = change(good, **{f"data__{option}": str(tmp_path / "rows.parquet")})
    (finding,) = findings(config, with_template("gemma", GEMMA))
    assert finding.fatal
    assert "a prompt of the data with the roles system, user: System role not supported" in finding.found


PARTS = (
    "{% for message in messages %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endfor %}Answer:"
)


def test_a_template_that_wants_parts_of_text_loses_every_question(good: DictConfig) -> None:
    """As of models that read images: a text is a list of characters to it."""
    (finding,) = findings(good, with_template("qwen", PARTS), alpha=0)
    assert finding.fatal
    assert "leaves the text of the prompt out: all that it renders is 'Answer:'" in finding.found


def test_a_template_that_writes_the_time_is_a_warning(good: DictConfig) -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b') }}" + PLAIN
    (finding,) = findings(good, with_template("qwen", dated))
    assert finding.warning
    assert "++data.apply_chat_template_kwargs.date_string=" in finding.fix
    fixed = change(good, data__apply_chat_template_kwargs={"date_string": "26 Jul 2024"})
    assert findings(fixed, with_template("qwen", dated)) == []


@pytest.mark.parametrize("name", ["mistral", "llama-2", "qwen"])
def test_a_prompt_begins_as_the_tokenizer_begins_a_text(good: DictConfig, name: str) -> None:
    """The template that the fix proposes brings BOS where the tokenizer has one, and is accepted."""
    found = findings(good, with_template(name, PLAIN))
    assert bool(found) == (name != "qwen")
    (override,) = shlex.split(plain_template(family(name)))
    config = preflight.compose(["--config-name=cpu_demo", override])
    tokenizer = with_template(name, config.actor_rollout_ref.model.custom_chat_template)
    assert findings(good, tokenizer) == []
    ids = encode_messages([{"role": "user", "content": "who"}], tokenizer)
    assert ids[0] == tokenizer.encode("who")[0]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "who"


def test_start_refuses_a_tokenizer_whose_tokens_have_no_bytes(good: DictConfig, tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.chat_template = PLAIN
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert "WordPiece" in str(AutoTokenizer.from_pretrained(tmp_path / "tokenizer").backend_tokenizer.decoder)
    config = change(good, actor_rollout_ref__model__tokenizer_path=str(tmp_path / "tokenizer"))
    (finding,) = [finding for finding in preflight.check_policy(config) if not finding.ok]
    assert finding.name == "tokenizer"
    assert "its WordPiece decoder" in finding.found


def test_start_refuses_a_tokenizer_with_which_verl_cannot_pad(good: DictConfig, tmp_path: Path) -> None:
    """One of the two suffices: verl takes the end-of-text token where there is no padding token."""
    tokenizer = AutoTokenizer.from_pretrained(good.actor_rollout_ref.model.path)
    tokenizer.pad_token = None
    refused = []
    for name, end in (("kept", tokenizer.eos_token), ("none", None)):
        tokenizer.eos_token = end
        tokenizer.save_pretrained(tmp_path / name)
        config = change(good, actor_rollout_ref__model__tokenizer_path=str(tmp_path / name))
        found = [finding.found for finding in preflight.check_policy(config) if not finding.ok]
        refused.append(any("neither a padding nor an end-of-text token" in text for text in found))
    assert refused == [False, True]

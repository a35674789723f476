"""How many tokens the teacher reads at once: more than verl's log-prob pass, which makes logits at all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import packed_attention
from support.agreement import reference, relative_difference, sd_gradients
from support.engine import compose, make_worker, recorded_rows, settings, single_rank_environment
from support.ranks import PACKED
from support.tiny import byte_tokenizer, save_tiny_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from sd_search_verl.verl_adapter.actor.teacher_pass import token_budget

SIZES = {"hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def a_policy(attention: str = packed_attention.NAME, vocab: int = 1000) -> Qwen2ForCausalLM:
    packed_attention.install()
    config = Qwen2Config(**SIZES, num_key_value_heads=2, vocab_size=vocab, attn_implementation=attention)
    return Qwen2ForCausalLM(config)


def numbers(tokens: float, logits: float) -> float:
    """Count what a forward holds, token by token: a layer's activations, and a row of logits where there are any."""
    return tokens * (4 * 8 + 3 * 24) + logits * 1000


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("adapter", [False, True])
def test_both_passes_hold_equally_many_numbers(share: float, adapter: bool) -> None:
    policy: Any = a_policy()
    if adapter:
        policy = get_peft_model(policy, LoraConfig(target_modules=["q_proj"]))
    tokens = token_budget(10_000, share, policy)
    of_teacher, of_verl = numbers(tokens, share * tokens), numbers(10_000, 10_000)
    assert of_teacher <= of_verl
    assert of_teacher == pytest.approx(of_verl, rel=1e-3)


def test_a_policy_whose_every_token_is_scored_gets_no_more() -> None:
    assert token_budget(8192, 1.0, a_policy()) == 8192


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_over_all_pairs_gets_no_more(attention: str) -> None:
    assert token_budget(8192, 0.03, a_policy(attention)) == 8192
    assert token_budget(8192, 0.03, torch.nn.Linear(2, 2)) == 8192


@pytest.mark.parametrize(("packed", "passes"), [(True, 2), (False, 3)], ids=["packed", "padded"])
def test_the_teacher_takes_fewer_micro_batches(tmp_path: Path, packed: bool, passes: int) -> None:
    rows = recorded_rows(byte_tokenizer(), groups=2, size=4)
    model = save_tiny_model(tmp_path)
    single_rank_environment()
    packed_attention.install()
    log_probs = "actor_rollout_ref.rollout.log_prob"
    dynamic = ["actor_rollout_ref.actor.use_dynamic_bsz=true", f"{log_probs}_use_dynamic_bsz=true"]
    budget = [*dynamic, f"{log_probs}_max_token_len_per_gpu=900"]
    worker = make_worker(compose(model, [*(PACKED if packed else []), *budget]))
    engine, read = worker.actor.engine, []
    prepare = engine.prepare_model_inputs

    def record(micro_batch: Any) -> Any:
        if "responses" not in micro_batch:  # the teacher's
            read.append(len(micro_batch["input_ids"].values()))
        return prepare(micro_batch=micro_batch)

    engine.prepare_model_inputs = record
    expected, _ = reference(model, rows, settings())
    ours, _ = sd_gradients(worker, rows, settings(), use_dynamic_bsz=True, max_token_len_per_gpu=900)
    assert relative_difference(ours, expected) < 1e-5
    assert len(read) == passes
    assert (max(read) > 900) is packed

"""Where packed rows begin and end, as attention is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import modeling_flash_attention_utils as flash

from sd_search_verl.verl_adapter.actor.packed import attention_bounds

OFFSETS = torch.tensor([0, 3, 8, 10])


def a_model() -> Qwen2ForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=16))


class OwnForward(Qwen2ForCausalLM):
    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool = False) -> Any:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize("adapter", [False, True])
def test_the_bounds_are_those_of_the_rows(adapter: bool) -> None:
    model: Any = a_model()
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    bounds = attention_bounds(model, OFFSETS, 10, "cpu")
    assert bounds.keys() == flash.FlashAttentionKwargs.__annotations__.keys()
    assert bounds["cu_seq_lens_q"] is bounds["cu_seq_lens_k"]
    assert bounds["cu_seq_lens_q"].tolist() == [0, 3, 8, 10]
    assert bounds["cu_seq_lens_q"].dtype == torch.int32  # what flash-attention's kernels take
    assert bounds["max_length_q"] == bounds["max_length_k"] == 5


def test_there_are_none_for_other_tokens_or_for_a_forward_that_does_not_take_them() -> None:
    assert attention_bounds(a_model(), OFFSETS, 5, "cpu") == {}  # a shard
    assert attention_bounds(a_model(), OFFSETS, 16, "cpu") == {}  # padded
    assert attention_bounds(OwnForward(a_model().config), OFFSETS, 10, "cpu") == {}
    assert attention_bounds(torch.nn.Linear(2, 2), OFFSETS, 10, "cpu") == {}


def test_with_the_bounds_transformers_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on ``meta`` have no values to wait for; transformers' own function runs on them, without its kernel."""
    bounds = attention_bounds(a_model(), OFFSETS, 10, "meta")
    seen: list[Any] = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Any, max_seqlen_q: Any, softmax_scale: Any, **_: Any
    ) -> Tensor:
        seen[:] = [cu_seqlens_q, max_seqlen_q]
        return q

    process = flash._lazy_define_process_function(kernel)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _: ((kernel,) * 5, process))
    states = torch.empty(1, 10, 2, 4, device="meta")
    positions = torch.empty(1, 10, dtype=torch.long, device="meta")
    attend = partial(
        flash._flash_attention_forward, states, states, states, None, 10, True, position_ids=positions
    )
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        attend()
    assert attend(**bounds).shape == states.shape
    assert seen[0] is bounds["cu_seq_lens_q"]
    assert seen[1] == 5

"""The gradient of alpha * L_SD in each of verl's ways, against plain PyTorch in fp32 on the CPU.

It is read off one step of plain gradient descent, from the weights that verl sends to its rollout engine: so FSDP1's
flat parameters and offloaded ones are seen like all others. With alpha = 0, the weights after two steps of the
configured optimizer are compared bit by bit with those of verl's own worker.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from support import agreement, engine, packed_attention, tiny
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.utils import tensordict_utils as tu

from benchmarks.gpu.plan import DIFFERENT, GRADIENT
from benchmarks.gpu.results import Run, installed
from benchmarks.gpu.ways import ACTOR, BITWISE, FSDP, MODEL, WAYS, Way

RATE = 1.0e6
"""Learning rate at which the weights vanish beside the step, and so does their rounding."""
DESCENT = (f"{ACTOR}.optim.optimizer=SGD", f"{ACTOR}.optim.lr={RATE}", f"{ACTOR}.optim.weight_decay=0")
UNCLIPPED = f"{ACTOR}.optim.clip_grad=1e9"


def run(run: Run) -> None:
    """Try every way; one that raises an error does not keep the next from its turn."""
    engine.single_rank_environment()
    if not run.gpu:
        packed_attention.install()  # in place of flash-attn's kernel, which needs a card
    rows = engine.recorded_rows(tiny.byte_tokenizer(), groups=2, size=4, seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        models = {tied: _model(Path(folder) / str(tied), tied) for tied in (False, True)}
        expected: dict[tuple[bool, float], tuple[dict[str, Tensor], float]] = {}
        for way in [*WAYS[:-1], *BITWISE, WAYS[-1]]:
            reason = _impossible(way, run)
            if reason:
                run.not_run(way.name, reason)
                continue
            try:
                if way in BITWISE:
                    _compare_weights(run, way, models[way.tied], rows)
                    continue
                key = (way.tied, way.options.get("temperature", 1.0))
                if key not in expected:
                    expected[key] = agreement.reference(
                        models[way.tied], rows, engine.settings(), temperature=key[1]
                    )
                _compare_gradient(run, way, models[way.tied], rows, *expected[key])
            except Exception as error:
                run.failed(way.name, error)
            gc.collect()


def _impossible(way: Way, run: Run) -> str:
    """Return why a way cannot be tried here; empty if it can."""
    if way.card and not run.gpu:
        return "needs a card"
    if way.packed and way.bf16 and run.gpu and installed("flash_attn") == "-":
        return "flash-attn is not installed"
    return ""


def _compare_gradient(
    run: Run, way: Way, model: Path, rows: Sequence[Any], theirs: Mapping[str, Tensor], their_loss: float
) -> None:
    worker = _worker(run, way, model, [*DESCENT, UNCLIPPED])
    still = [engine.Row(row.rollout, 0.0, row.old_log_probs) for row in rows]
    inputs = engine.teacher_inputs(rows, engine.settings(), tiny.byte_tokenizer())
    alpha = agreement.ALPHA * (1 + run.inject_error)
    before = _sent_weights(worker)
    output = worker.update_actor(engine.batch_of(still, inputs, alpha, **way.options))
    after = _sent_weights(worker)
    loss = float(tu.get(output, "metrics")["sd_search/loss"][0])
    ours = {name: (before[name] - after[name]) / RATE for name in theirs}
    run.record(
        way.name,
        GRADIENT,
        agreement.relative_difference(ours, theirs),
        f"loss error {abs(loss / their_loss - 1):.1e}",
    )


def _compare_weights(run: Run, way: Way, model: Path, rows: Sequence[Any]) -> None:
    after = []
    for stock, error in ((False, run.inject_error), (True, 0.0)):
        worker = _worker(run, way, model, [], stock=stock)
        for part in (rows[:4], rows[4:]):
            scaled = [engine.Row(row.rollout, row.advantage * (1 + error), row.old_log_probs) for row in part]
            worker.update_actor(engine.batch_of(scaled, None, 0.0, mini_batch_size=len(part)))
        after.append(_sent_weights(worker))
    ours, theirs = after
    differing = sum(int((ours[name] != theirs[name]).sum()) for name in theirs)
    run.record(way.name, DIFFERENT, differing, f"of {sum(tensor.numel() for tensor in theirs.values())}")


def _worker(run: Run, way: Way, model: Path, overrides: Sequence[str], stock: bool = False) -> Any:
    chosen = [f"trainer.device={run.device}", *overrides]
    if way.packed:
        chosen.append(f"{MODEL}.use_remove_padding=True")
        if way.bf16:
            attention = "flash_attention_2" if run.gpu else packed_attention.NAME
            chosen.append(f"{MODEL}.override_config.attn_implementation={attention}")
    if way.bf16:
        chosen.append(f"{FSDP}.mixed_precision.param_dtype=bf16")
    worker = engine.make_worker(engine.compose(model, [*chosen, *way.overrides]), stock=stock)
    if not stock:
        worker.loss_fn.config = engine.settings()
    return worker


def _sent_weights(worker: Any) -> dict[str, Tensor]:
    parameters, _ = worker.actor.engine.get_per_tensor_param()
    return {name: engine.full(tensor).detach().float().cpu().clone() for name, tensor in parameters}


def _model(folder: Path, tied: bool) -> Path:
    """Write the tests' tiny model; ``tied``: one matrix for embedding and head, as in Qwen2.5-3B."""
    tiny.save_tiny_model(folder)
    if not tied:
        return folder
    plain = Qwen2ForCausalLM.from_pretrained(folder)
    config: Any = Qwen2Config(**{**plain.config.to_dict(), "tie_word_embeddings": True})
    model = Qwen2ForCausalLM(config)
    model.load_state_dict(
        {k: v for k, v in plain.state_dict().items() if k != "lm_head.weight"}, strict=False
    )
    with torch.no_grad():
        # Not the shared matrix: a token would then predict itself, whatever the teacher reads.
        model.model.norm.weight.mul_(8.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(8.0)
            layer.mlp.down_proj.weight.mul_(8.0)
    model.save_pretrained(folder)
    return folder

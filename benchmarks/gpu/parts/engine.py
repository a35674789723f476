"""vLLM alone, as verl uses it: transfer of weights, sleep, new weights, generation; before a whole run needs them all.

Each step is written with its seconds, and one that fails does not stop those that do not need it. The process is vLLM's
engine and worker at once, so their errors are here. In a rehearsal vLLM for CPUs, which cannot sleep, stays out.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from benchmarks.gpu.plan import ENGINE_STEPS, ERROR
from benchmarks.gpu.results import Run, installed
from sd_search_verl.world.config import CHECKPOINT

VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "JAX_PLATFORMS": "cpu",
    "VERL_REPLICA_RANK": "0",
}
PROMPTS = [{"prompt_token_ids": [5 + i, 6, 7, 8]} for i in range(4)]
PATIENCE_S = 60
GROUP = """
import os, torch, torch.distributed as dist
from verl.utils.device import get_device_name
from sd_search_verl.verl_adapter.actor.process_group import initialize_alone
os.environ["WORLD_SIZE"] = "1"
initialize_alone()
x, y = torch.ones(4, device=get_device_name()), torch.ones(4)
dist.all_reduce(x)
dist.all_reduce(y)
assert x.tolist() == y.tolist() == [1.0] * 4
"""


def run(run: Run) -> None:
    """Take the steps in order."""
    os.environ |= VARIABLES
    os.environ.setdefault("VERL_RAY_JOB_ID", f"engine-{os.getpid()}")
    os.environ.pop("PYTORCH_ALLOC_CONF", None)  # vLLM looks for it under another name
    done: set[str] = set()
    engine: list[Any] = []

    def step(name: str, needs: str, action: Callable[[], object]) -> None:
        if needs and needs not in done:
            run.not_run(name, f"needs {needs!r}")
            return
        begun = time.monotonic()
        try:
            found = action()
        except Exception as error:
            traceback.print_exc()
            run.failed(name, error)
            return
        done.add(name)
        run.record(name, ERROR, run.inject_error, f"{time.monotonic() - begun:.1f} s {found or ''}")

    ipc, shared, group, up, first, asleep, awake, stored, again = ENGINE_STEPS
    if run.gpu:
        step(ipc, "", lambda: transfer(False))
    else:
        run.not_run(ipc, "needs a card")
    step(shared, "", lambda: transfer(True))
    step(group, "", lambda: subprocess.run([sys.executable, "-c", GROUP], check=True, timeout=120) and None)
    if not run.gpu or installed("vllm") == "-":
        for name in (up, first, asleep, awake, stored, again):
            run.not_run(name, "needs a card" if not run.gpu else "vllm not installed")
        return
    step(up, "", lambda: engine.append(start()))
    step(first, up, lambda: generate(engine[0]))
    step(asleep, up, lambda: engine[0].sleep(level=2))
    step(awake, asleep, lambda: engine[0].wake_up(tags=["weights"]))
    step(stored, awake, lambda: load(engine[0]))
    step(again, stored, lambda: wake_and_generate(engine[0]))


def transfer(use_shm: bool) -> None:
    """Send weights through verl's two classes to a process of its own, as vLLM's worker is.

    Raises:
        RuntimeError: they did not arrive, or others did.
    """
    import zmq
    from verl.utils.device import get_device_name
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

    context, socket = (
        mp.get_context("spawn"),
        f"ipc://{tempfile.gettempdir()}/sd-search-{os.getpid()}-{use_shm}.sock",
    )
    mine, theirs = context.Pipe()
    child = context.Process(target=_receive, args=(socket, use_shm, theirs), daemon=True)
    child.start()
    device = get_device_name()
    weights = {"a": torch.full((1000, 3), 2.0, device=device), "b": torch.ones(7, device=device)}
    sender = BucketedWeightSender(socket, 16, use_shm)
    sender.zmq_context.setsockopt(
        zmq.RCVTIMEO, PATIENCE_S * 1000
    )  # else it waits for ever for a dead receiver
    try:
        asyncio.run(sender.async_send_weights(iter(weights.items())))
    finally:
        answer = mine.recv() if mine.poll(PATIENCE_S) else "the receiver says nothing"
        child.join(5)
        child.kill()
    if answer != {"a": 6000.0, "b": 7.0}:
        raise RuntimeError(answer)


def _receive(socket: str, use_shm: bool, pipe: Any) -> None:
    from verl.utils.device import get_device_name
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver

    sums: dict[str, float] = {}
    try:
        receiver = BucketedWeightReceiver(socket, torch.device(get_device_name(), 0), use_shm)
        receiver.receive_weights(lambda found, _: sums.update((name, float(t.sum())) for name, t in found))
        pipe.send(sums)
    except Exception:
        pipe.send(traceback.format_exc())


def start() -> Any:
    """Start vLLM with the options of the whole run, and random weights."""
    from vllm import LLM

    return LLM(
        str(CHECKPOINT),
        load_format="dummy",
        attention_backend="TRITON_ATTN",
        enforce_eager=True,
        enable_sleep_mode=True,
        logprobs_mode="processed_logprobs",
        gpu_memory_utilization=0.05,
        dtype="bfloat16",
        max_model_len=512,
        max_num_seqs=64,
        worker_extension_cls="verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension",
    )


def generate(engine: Any) -> None:
    """Sample with log-probs; all must be probabilities."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=16, temperature=1.0, logprobs=0)
    for output in engine.generate(PROMPTS, sampling, use_tqdm=False):
        found = output.outputs[0]
        assert len(found.token_ids) > 0
        assert all(
            entry[token].logprob <= 0 for token, entry in zip(found.token_ids, found.logprobs, strict=True)
        )


def wake_and_generate(engine: Any) -> None:
    """Sample once more, with the cache awake and the stored weights."""
    engine.wake_up(tags=["kv_cache"])
    engine.reset_prefix_cache()
    generate(engine)


def load(engine: Any) -> str:
    """Give the engine the stored weights by verl's extension of its worker; its embeddings must then be these."""
    from safetensors.torch import load_file
    from verl.utils.device import get_device_name

    weights = load_file(Path(CHECKPOINT) / "model.safetensors")
    named = [(name, weight.to(get_device_name()).float()) for name, weight in weights.items()]
    engine.collective_rpc("_update_weights", args=(named, None, False))
    stored = weights["model.embed_tokens.weight"].bfloat16()
    (mine,) = engine.apply_model(lambda policy: policy.model.embed_tokens.weight[: len(stored)].cpu())
    assert torch.equal(mine, stored), float((mine.float() - stored.float()).abs().max())
    return f"{len(named)} tensors"

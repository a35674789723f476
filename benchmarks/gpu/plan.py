"""The parts in order of value, and the bar of every figure that has one. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.gpu.ways import BITWISE, WAYS

FP32, BF16 = 1e-5, 0.05
"""Largest relative error, in the 2-norm, of a value or gradient of those types."""

ACTOR_RATIO, TEACHER_OVER_FLOOR, LOSS_SHARE, BESIDE_GB, CARD_GB = 1.10, 1.3, 0.02, 1.0, 80.0

ERROR, GRADIENT, DIFFERENT, FAILED_TESTS = "error", "gradient error", "elements that differ", "failed tests"
RATIO, TEACHER, LOSS, BESIDE, PEAK = (
    "SD-Search / GRPO",
    "teacher / its floor",
    "SD loss / update",
    "GB beside GRPO",
    "peak GB",
)
PROBABILITY, SAME_PROBABILITY = "mean difference of a probability", 0.02
"""Of a sampled token; vLLM with other weights than the actor's is far above."""
SECONDS, MEMORY = "seconds / fastest other", "memory / smallest other"

SIZES = (64, 256, 1024, 4096, 16384)
"""Query rows of the comparison with other implementations."""
OURS = ("ours top-k", "ours")
DENSE_QUERIES = (1, 16, 128)
"""Queries that the dense scan answers at once."""
QUERY_ROWS = (180, 1024, 4096)
"""Query rows among 16,384 tokens: those of the recorded trajectories, and more."""
TESTS = (
    "tests/distill",
    "tests/verl_adapter/actor/test_worker.py",
    "tests/verl_adapter/actor/test_breadth.py",
    "tests/verl_adapter/actor/test_lora.py",
    "tests/verl_adapter/actor/test_credit.py",
    "tests/verl_adapter/trainer/test_checkpoints.py",
)
STACK_GRPO, STACK_SD = 5, 5
"""Steps of a whole run without and with the method."""
ENGINE_STEPS = (
    "weights by CUDA IPC",
    "weights by shared memory",
    "process group of one rank",
    "engine",
    "generation",
    "sleep",
    "weights awake",
    "stored weights",
    "generation with them",
)
KINDS = ("jsd", "forward_kl", "reverse_kl", "mse")


@dataclass(frozen=True)
class Check:
    """A figure and its bar: met if ``value <= bar``.

    Attributes:
        right: whether the figure says right or wrong; it says what SD-Search costs otherwise.
    """

    case: str
    measure: str
    bar: float
    right: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the run, in a process of its own.

    Attributes:
        module: has ``run(run, *arguments)``, see :class:`~benchmarks.gpu.results.Run`.
        limit_s: seconds after which its process is ended.
        compare: whether TRL and Liger must be importable; verl does not load beside TRL.
    """

    name: str
    summary: str
    module: str
    limit_s: int
    checks: Sequence[Check]
    arguments: Sequence[str] = ()
    compare: bool = False


def _right(case: str, measure: str, bar: float) -> Check:
    return Check(case, measure, bar, right=True)


def _actor(name: str, summary: str, limit_s: int, shape: str, *arguments: str) -> Part:
    bars = {
        RATIO: ACTOR_RATIO,
        TEACHER: TEACHER_OVER_FLOOR,
        LOSS: LOSS_SHARE,
        BESIDE: BESIDE_GB,
        PEAK: CARD_GB,
    }
    checks = [Check(shape, measure, bar) for measure, bar in bars.items()]
    return Part(name, summary, f"{PARTS}.actor", limit_s, checks, [shape, *arguments])


PARTS = "benchmarks.gpu.parts"
MACHINE = Part(
    "machine",
    "versions; whether verl, the plugin and the card come together",
    f"{PARTS}.machine",
    90,
    [_right("plugin loads", ERROR, 0), _right("verl's device", ERROR, 0)],
)
GRADIENTS = Part(
    "gradients",
    "gradient of alpha L_SD in each of verl's ways against plain PyTorch; alpha = 0 against verl's own worker",
    f"{PARTS}.gradients",
    200,
    [_right(way.name, GRADIENT, BF16 if way.bf16 else FP32) for way in WAYS]
    + [_right(way.name, DIFFERENT, 0) for way in BITWISE],
)
VALUES = Part(
    "values",
    "every divergence and its gradient against float64, V = 151,936; attention over packed rows",
    f"{PARTS}.values",
    150,
    [_right("packed attention", GRADIENT, BF16)]
    + [
        _right(f"{kind} {dtype}", measure, bar)
        for dtype, bar in (("float32", FP32), ("bfloat16", BF16))
        for kind in KINDS
        for measure in (ERROR, GRADIENT)
    ],
)
SUITE = Part(
    "tests",
    "the project's own tests that concern the card",
    f"{PARTS}.suite",
    230,
    [_right(target, FAILED_TESTS, 0) for target in TESTS],
)
ACTOR_3B = _actor(
    "actor-3b",
    "actor's part of a step, Qwen2.5-3B shape, fp32 weights, checkpointing, recorded lengths",
    170,
    "qwen2.5-3b",
    "fsdp2",
)
DIVERGENCE = Part(
    "divergence",
    "divergence forward and backward against naive, TRL and Liger",
    f"{PARTS}.divergence",
    120,
    [
        Check(f"{rows} rows, {name}", measure, 1.0)
        for rows in SIZES
        for name in OURS
        for measure in (SECONDS, MEMORY)
    ],
    compare=True,
)
ACTOR_7B = _actor(
    "actor-7b",
    "the same at the Qwen2.5-7B shape, bf16 weights",
    200,
    "qwen2.5-7b",
    "fsdp2",
)
HEAD = Part(
    "head",
    "head, log-probs and SD loss of a packed micro-batch of 16,384 tokens",
    f"{PARTS}.head",
    70,
    [_right(f"{rows} query rows", GRADIENT, BF16) for rows in QUERY_ROWS]
    + [Check(f"{QUERY_ROWS[0]} query rows, cost", BESIDE, BESIDE_GB)],
)
DENSE = Part(
    "dense",
    "the retrieval server's encoder and dense scan against those of the CPU",
    f"{PARTS}.dense",
    90,
    [_right("encoder", ERROR, FP32), _right("scan", ERROR, 0)],
)
FSDP1_3B = _actor(
    "actor-3b-fsdp1",
    "the actor's part at the 3B shape under FSDP1",
    150,
    "qwen2.5-3b",
    "fsdp",
)
TUNED_3B = _actor(
    "actor-3b-tuned",
    "the actor's part at the 3B shape with Liger's kernels in the layers and log-prob micro-batches of 24,576 tokens",
    150,
    "qwen2.5-3b",
    "fsdp2",
    "tuned",
)

ENGINE = Part(
    "engine",
    "vLLM alone, as a whole run uses it: transfer of weights, sleep, new weights, generation",
    f"{PARTS}.engine",
    130,
    [_right(step, ERROR, 0) for step in ENGINE_STEPS],
)
STACK = Part(
    "stack",
    "a whole training run in the demo's world: main_ppo, Ray, vLLM, FSDP2, retrieval server",
    f"{PARTS}.stack",
    440,
    [
        _right("whole run", ERROR, 0),
        _right("teacher in a whole run", ERROR, 0),
        _right("vLLM and actor", PROBABILITY, SAME_PROBABILITY),
    ],
    ["demo"],
)
STACK_SMOLLM2 = replace(
    STACK,
    name="stack-smollm2",
    summary="the same with SmolLM2-135M on real questions, after a warm start of 16 updates",
    arguments=["smollm2"],
)

STAGES = [
    [MACHINE, GRADIENTS, VALUES, SUITE],
    [ACTOR_3B],
    [DIVERGENCE],
    [ACTOR_7B],
    [HEAD],
    [DENSE],
    [FSDP1_3B],
    [TUNED_3B],
    [ENGINE],
    [STACK],
    [STACK_SMOLLM2],
]
"""In order of value. Parts of one stage run side by side: they are small, and none is timed."""

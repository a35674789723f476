"""verl's real actor worker (FSDP2 over gloo, no Ray) fed with recorded rollouts."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from sd_search_verl.config import SDSearchConfig, read_config
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, build_teacher_inputs
from sd_search_verl.protocol import get
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import locate_calls, query_spans
from sd_search_verl.rollout.types import Prompt, Rollout, Search
from support import fsdp1, parsed_once
from support.tool_calls import ENDS, call

parsed_once.install()  # also in the ranks, which import this


@dataclass
class Row:
    """One rollout as the actor sees it."""

    rollout: Rollout
    advantage: float
    old_log_probs: list[float] = field(default_factory=list)


def single_rank_environment(port: int = 0) -> None:
    """Environment of rank 0 of 1, for a worker in this process."""
    import socket

    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")


def compose(model: Path, overrides: Sequence[str] = ()) -> Any:
    """verl's own config with the plugin's section, as the command line makes it, for an fp32 actor on the CPU."""
    import verl  # noqa: F401  (loads the plugin)
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from verl.utils.device import get_device_name

    base = [
        "+sd_search=default",
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.use_torch_compile=False",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        f"trainer.device={get_device_name()}",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return hydra_compose("ppo_trainer", overrides=[*base, *overrides])


def make_worker(config: Any, stock: bool = False, cls: type | None = None) -> Any:
    """The initialised actor worker: ours, or verl's own, or one of another class."""
    from omegaconf import OmegaConf, open_dict
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from sd_search_verl.verl_adapter.actor.worker import SDActorRolloutRefWorker

    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    with open_dict(config):
        config.actor_rollout_ref.sd_search = config.sd_search
        config.actor_rollout_ref.rollout.checkpoint_engine.backend = "naive"  # nccl needs a GPU
    cls = cls or (ActorRolloutRefWorker if stock else SDActorRolloutRefWorker)
    worker = cls(config=config.actor_rollout_ref, role="actor")
    worker.init_model()
    return worker


QUERIES = [
    "who wrote it",
    "capital of France?",
    "first man on the moon",
    "river",
    "wall length",
    "é accents ok",
]


def recorded_rows(
    tokenizer: Any, groups: int = 4, size: int = 4, seed: int = 0, name: str = "search_r1"
) -> list[Row]:
    """Rollouts of several questions, with 0 to 2 searches each, thinking, documents and mixed outcomes."""
    rng = random.Random(seed)
    protocol = get(name)
    family = name.partition(":")[2]
    rows = []
    for group in range(groups):
        messages = [{"role": "user", "content": f"Question: number {group}?\n"}]
        prompt_ids = encode_messages(messages, tokenizer, protocol.template_kwargs)
        for _ in range(size):
            queries = [rng.choice(QUERIES) for _ in range(rng.choice([0, 1, 1, 2]))]
            ids: list[int] = []
            mask: list[int] = []
            documents = []
            for query in queries:
                thinking = f"THINKING{rng.randrange(99)}"
                action = (
                    f"{call(family, query, top_k=3)}{ENDS[family]}"
                    if family
                    else f"<search> {query} </search>"
                )
                turn = tokenizer.encode(f"{thinking} {action}", add_special_tokens=False)
                documents.append(f"DOCUMENT {rng.randrange(99)}")
                seen = tokenizer.encode(protocol.observation(documents[-1]), add_special_tokens=False)
                ids += turn + seen
                mask += [1] * len(turn) + [0] * len(seen)
            last = tokenizer.encode(f"<answer> ANSWER{rng.randrange(99)} </answer>", add_special_tokens=False)
            ids, mask = ids + last, mask + [1] * len(last)
            rollout = Rollout(
                Prompt(str(group), messages, prompt_ids),
                response_ids=ids,
                response_mask=mask,
                queries=queries,
                spans=query_spans(ids, tokenizer, protocol, mask),
                argument_spans=[
                    one.span
                    for call in locate_calls(ids, tokenizer, protocol, mask)
                    for one in call.values
                    if one.span[0] < one.span[1]
                ],
                f1=rng.choice([0.0, 1.0]),
                response=tokenizer.decode(ids),
                searches=[Search(q, d, 0.0, None, False) for q, d in zip(queries, documents, strict=True)],
            )
            rollout.em = rollout.reward = rollout.f1
            rows.append(Row(rollout, rng.gauss(0, 1), [-rng.random() for _ in ids]))
    return rows


def settings(**changes: Any) -> SDSearchConfig:
    """The method's config with changes, checked like a user's."""
    return read_config(SDSearchConfig, changes, "sd_search")


def teacher_inputs(
    rows: Sequence[Row],
    config: SDSearchConfig,
    tokenizer: Any,
    name: str = "search_r1",
    flipped: bool = False,
) -> list[TeacherInputs]:
    """What the trainer prepares for these rows."""
    kwargs = get(name).template_kwargs
    return build_teacher_inputs(
        [row.rollout for row in rows],
        config,
        tokenizer,
        lambda messages: encode_messages(messages, tokenizer, kwargs),
        seed=1,
        flipped=flipped,
    )


def batch_of(
    rows: Sequence[Row],
    inputs: Sequence[TeacherInputs] | None,
    alpha: float,
    traced: Sequence[int] = (),
    **options: Any,
) -> Any:
    """The TensorDict a worker receives for these rows, with or without the fields of the method."""
    from verl.utils import tensordict_utils as tu

    from sd_search_verl.verl_adapter.fields import ALPHA, pack

    def nested(values: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    rollouts = [row.rollout for row in rows]
    sequences = [torch.tensor(r.prompt.token_ids + r.response_ids) for r in rollouts]
    tensors = {
        "input_ids": nested(sequences),
        "position_ids": nested([torch.arange(len(s)) for s in sequences]),
        "prompts": nested([torch.tensor(r.prompt.token_ids) for r in rollouts]),
        "responses": nested([torch.tensor(r.response_ids) for r in rollouts]),
        "response_mask": nested([torch.tensor(r.response_mask) for r in rollouts]),
        "loss_mask": nested([torch.tensor(r.response_mask) for r in rollouts]),
        "old_log_probs": nested([torch.tensor(row.old_log_probs) for row in rows]),
        "advantages": nested([torch.full((len(row.rollout.response_ids),), row.advantage) for row in rows]),
    }
    if inputs is not None:
        packed = [pack(item, place if place in traced else -1) for place, item in enumerate(inputs)]
        tensors |= {name: nested([p[name] for p in packed]) for name in packed[0]}
    world = int(os.environ.get("WORLD_SIZE", "1"))
    extra = {
        "calculate_entropy": False,
        "distillation_use_topk": False,
        "distillation_only": False,
        "global_batch_size": len(rows) * world,
        "mini_batch_size": len(rows) * world,
        "epochs": 1,
        "seed": 1,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": 1.0,
        ALPHA: alpha,
    }
    return tu.get_tensordict(tensors, non_tensor_dict=extra | options)


def full(tensor: Tensor) -> Tensor:
    """A parameter or gradient as a plain tensor on the CPU, whatever FSDP made of it."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu()


def full_gradients(module: Any) -> dict[str, Tensor]:
    """Gradients of the trained parameters by the unsharded model's names; every rank must call it."""
    if isinstance(module, FullyShardedDataParallel):
        return fsdp1.gradients(module)
    found = {}
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            found[name] = full(parameter.grad).detach().clone()
    return found


def gradients(worker: Any, batch: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gradients of one update and its metrics, without the optimizer step."""
    from verl.utils import tensordict_utils as tu

    engine = worker.actor.engine
    found: dict[str, Tensor] = {}

    def record() -> float:
        found.update(full_gradients(engine.module))
        return 0.0

    original, engine.optimizer_step = engine.optimizer_step, record
    try:
        output = worker.update_actor(batch)
    finally:
        engine.optimizer_step = original
        engine.optimizer_zero_grad()
    return found, tu.get(output, "metrics") if output is not None else {}


def weights(worker: Any) -> dict[str, Tensor]:
    """A copy of the worker's parameters."""
    module = worker.actor.engine.module
    if isinstance(module, FullyShardedDataParallel):
        return fsdp1.weights(module)
    return {name: full(p).detach().clone() for name, p in module.named_parameters()}

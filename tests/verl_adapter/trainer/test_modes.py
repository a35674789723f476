"""The method on verl's three trainers: what is overridden, and that without it they are verl's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import (
    batch_of,
    compose,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.memory_plane import MemoryPlane, WorkerGroup
from support.tiny import byte_tokenizer
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from sd_search_verl.config import ConfigError
from sd_search_verl.verl_adapter.actor.worker import SDDetachActorWorker
from sd_search_verl.verl_adapter.rollout.server_client import ResumingServerClient
from sd_search_verl.verl_adapter.settings import TRAINERS
from sd_search_verl.verl_adapter.trainer import mixin as trainer_module
from sd_search_verl.verl_adapter.trainer.mixin import SDSearchMixin

REPO = Path(__file__).resolve().parents[3]
MODES = list(TRAINERS)
# Not by verl's registry, where each stands behind the guard of `guard.py`.
STOCK = {
    "sync": PPOTrainerSync,
    "colocate_async": PPOTrainerColocateAsync,
    "separate_async": PPOTrainerSeparateAsync,
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_the_mixin_on_verls_trainer_and_nothing_else(mode: str) -> None:
    ours, theirs = get_trainer_cls(mode), STOCK[TRAINERS[mode]]
    assert ours.__bases__ == (SDSearchMixin, theirs)
    own = {name for name in vars(ours) if not name.startswith("_")}
    assert own <= {"get_llm_client", "worker_cls"}  # beside _setup
    twice = {
        name
        for name in vars(SDSearchMixin).keys() & vars(theirs).keys()
        if not name.startswith(("__", "_abc"))
    }
    # Steps that this trainer of verl has for itself: the mixin's must call it.
    assert twice <= {"_init_resource_pool_mgr", "on_step_begin"}


def test_the_page_lists_every_step_that_the_mixin_overrides() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Trainer modes\n")[1]
    listed = set(re.findall(r"^\| `(\w+)`", page.split("\n## ")[0], re.MULTILINE))
    bases = [PPOTrainer, *STOCK.values()]
    classes = [SDSearchMixin, *map(get_trainer_cls, MODES)]
    overridden = {
        name
        for cls in classes
        for name in vars(cls)
        if callable(vars(cls)[name]) and any(hasattr(base, name) for base in bases)
    } - {"worker_cls"}
    assert listed == overridden


def test_verls_own_client_repeats_what_ours_records() -> None:
    names = [cls.__name__ for cls in ResumingServerClient.__mro__]
    assert names.index("FullyAsyncLLMServerClient") < names.index("_Attempt") < names.index("LLMServerClient")
    assert issubclass(ResumingServerClient, FullyAsyncLLMServerClient)


GROUPS = [
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
]
ROLLOUT_CORRECTION = [
    "algorithm.rollout_correction.rollout_is=token",
    "algorithm.rollout_correction.rollout_rs=token_k1",
    "algorithm.rollout_correction.rollout_rs_threshold='0.9_1.1'",
]


@pytest.fixture(autouse=True)
def start_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """These configs name no data and no servers, which a start would check."""
    monkeypatch.setattr(trainer_module, "refuse_bad_start", lambda _: None)


def mode_options(mode: str, folder: Path) -> list[str]:
    """Options of a run in this mode; verl's separate trainer demands those of its rollout devices."""
    options = [
        f"trainer.v1.trainer_mode={mode}",
        f"trainer.default_local_dir={folder}",
        "search.retriever_urls=[http://127.0.0.1:9/retrieve]",
        "data.train_batch_size=4",
    ]
    if mode.endswith("separate_async"):
        options += [
            "actor_rollout_ref.rollout.nnodes=1",
            "actor_rollout_ref.rollout.n_gpus_per_node=1",
            "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
            "trainer.v1.separate_async.parameter_sync_step=1",
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        ]
    return options


def trainer_of(cls: type[PPOTrainer], config: Any, plane: MemoryPlane, worker: Any) -> Any:
    """A new trainer with a tokenizer and a worker, at step 7."""
    trainer: Any = cls(config)
    trainer.tokenizer, trainer.global_steps, trainer.timing_raw = byte_tokenizer(), 7, {}
    trainer.actor_rollout_wg = WorkerGroup(worker, plane)
    return trainer


def step(trainer: Any, plane: MemoryPlane) -> dict[str, Any]:
    """Advantages and update of the plane's batch; returns the metrics."""
    metrics: dict[str, Any] = {}
    with plane.installed():
        trainer._update_actor(trainer._compute_advantage(plane.batch, metrics), metrics)
    return metrics


@pytest.mark.parametrize("mode", MODES)
def test_the_guard_of_verls_trainers_refuses_them_and_lets_a_mode_start(
    mode: str, model: Path, tmp_path: Path
) -> None:
    trainer = get_trainer_cls(mode)(compose(model, mode_options(mode, tmp_path)))
    assert trainer.trainer_mode == trainer.config.trainer.v1.trainer_mode == TRAINERS[mode]
    with pytest.raises(ConfigError, match="is verl's own trainer"):
        get_trainer_cls(TRAINERS[mode])(compose(model, mode_options(TRAINERS[mode], tmp_path)))


def test_the_validation_before_training_is_in_the_metrics(model: Path, tmp_path: Path) -> None:
    """verl gives it to its loggers alone; a later one is part of its step's line."""
    for only in (False, True):
        folder = tmp_path / str(only)
        config = compose(model, [*mode_options("sd_search", folder), f"trainer.val_only={only}"])
        plane = MemoryPlane(recorded_rows(byte_tokenizer()), 4)
        trainer = trainer_of(get_trainer_cls("sd_search"), config, plane, None)
        trainer.global_steps = 0
        sessions = (["nq"], ["a"], {"reward": [1.0]}, [4], {("nq", "a"): 2})
        found = trainer._val_metrics_update(*sessions)
        assert found["val-core/nq/reward/mean@2"] == 0.5
        trainer.on_step_begin()
        trainer.global_steps = 1
        trainer._val_metrics_update(*sessions)
        path = folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert lines == ([] if only else [{"step": 0, **found}])


def detached_worker(config: Any, stock: bool) -> Any:
    return make_worker(config, cls=DetachActorWorker if stock else SDDetachActorWorker)


@pytest.mark.parametrize("mode", [mode for mode in MODES if TRAINERS[mode] != "sync"])
def test_without_alpha_an_asynchronous_step_is_bitwise_verls_own(
    mode: str, model: Path, tmp_path: Path
) -> None:
    """The same recorded batch, of stale rollouts, with rollout correction: advantages, loss and weights."""
    single_rank_environment()
    overrides = [*GROUPS, *ROLLOUT_CORRECTION, "sd_search.alpha=0", "sd_search.max_staleness=0"]
    rows = recorded_rows(byte_tokenizer())
    for row in rows:
        row.rollout.versions = [(0, 3), (60, 5)]
    found = []
    for name in (TRAINERS[mode], mode):
        config = compose(model, [*overrides, *mode_options(name, tmp_path)])
        separate = TRAINERS[mode] == "separate_async"
        stock = name != mode
        worker = detached_worker(config, stock) if separate else make_worker(config, stock)
        plane, cls = MemoryPlane(rows, 4), STOCK[name] if stock else get_trainer_cls(name)
        start = weights(worker)
        metrics = step(trainer_of(cls, config, plane, worker), plane)
        advantages = torch.cat([row["advantages"] for row in plane.rows.values()])
        found.append((metrics, advantages, weights(worker)))
        assert any(not torch.equal(start[key], value) for key, value in found[-1][2].items())
    (theirs, advantages, left), (ours, own_advantages, right) = found
    assert any(row["response_mask"].sum() < len(row["response_mask"]) for row in plane.rows.values())
    assert torch.equal(advantages, own_advantages)
    for key in ("actor/pg_loss", "actor/grad_norm", "actor/ppo_kl"):
        assert ours[key] == theirs[key], key
    assert all(torch.equal(left[key], value) for key, value in right.items())
    assert ours["sd_search/staleness_max"] == 3
    assert ours["sd_search/stale_query_tokens"] == 1


def test_stale_query_tokens_are_not_distilled_and_their_rollouts_are_trained(
    model: Path, tmp_path: Path
) -> None:
    single_rank_environment()
    rows = recorded_rows(byte_tokenizer())
    for place, row in enumerate(rows):
        row.rollout.versions = [(0, 6 - place % 3)]
    tokens = dict.fromkeys(range(3), 0)
    for place, row in enumerate(rows):
        tokens[place % 3] += sum(end - start for start, end in row.rollout.spans)
    for limit, expected in ((None, sum(tokens.values())), (1, tokens[0] + tokens[1]), (0, tokens[0])):
        folder, mode = tmp_path / str(limit), "sd_search_colocate_async"
        folder.mkdir()
        config = compose(
            model,
            [
                *mode_options(mode, folder),
                *GROUPS,
                *("sd_search.alpha=0.3", "sd_search.warmup_steps=0", "sd_search.grad_share_every=null"),
                f"sd_search.max_staleness={'null' if limit is None else limit}",
            ],
        )
        plane = MemoryPlane(rows, 4)
        metrics = step(trainer_of(get_trainer_cls(mode), config, plane, make_worker(config)), plane)
        assert metrics["sd_search/query_tokens"] == expected
        assert all(
            (row["response_mask"] == torch.tensor(r.rollout.response_mask)).all()
            for row, r in zip(plane.rows.values(), rows, strict=True)
        )
        traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
        assert {trace["versions"][0][1] for trace in traces} == {4, 5, 6}
        ages = {int(name.rsplit("/", 1)[1]) for name in metrics if "jsd_at_staleness" in name}
        assert ages == ({0, 1, 2} if limit is None else {0, 1} if limit else set())


def test_a_step_of_several_updates_is_measured_in_the_first(model: Path, tmp_path: Path) -> None:
    single_rank_environment()
    mode = "sd_search_separate_async"
    overrides = [
        *mode_options(mode, tmp_path),
        *GROUPS,
        *("sd_search.alpha=0.3", "sd_search.warmup_steps=6", "sd_search.labels_every=50"),
    ]
    rows, measured = recorded_rows(byte_tokenizer()), {"grad_share", "label_sensitivity", "copy_share"}
    worker = detached_worker(compose(model, overrides), stock=False)
    for trigger in range(2):
        plane = MemoryPlane(rows, 4)
        config = compose(model, [*overrides, f"trainer.default_local_dir={tmp_path}/{trigger}"])
        trainer = trainer_of(get_trainer_cls(mode), config, plane, worker)
        trainer.local_trigger_step = trigger
        metrics = step(trainer, plane)
        found = {name for name in measured if f"sd_search/{name}" in metrics}
        assert found == (measured if trigger == 0 else set())
        assert metrics["sd_search/loss"] > 0


@pytest.mark.parametrize("offload", [False, True])
def test_the_teacher_is_the_policy_of_the_moment_also_where_older_weights_were_put_back(
    model: Path, offload: bool
) -> None:
    """verl's separate trainer computes the old log-probs of later updates by the step's first weights.

    Offloaded parameters lie in other storage after each stage.
    """
    single_rank_environment()
    rows, tokenizer = recorded_rows(byte_tokenizer()), byte_tokenizer()
    plain, switched = (detached_worker(compose(model), stock=False) for _ in range(2))

    def move() -> None:
        if offload:
            switched.actor.engine.module._apply(torch.clone)

    start = weights(plain)
    for step in range(3):
        if step:
            switched.save_model_to_cpu(step)
            switched.restore_model_from_cpu(0)
            move()
            assert all(torch.equal(start[name], value) for name, value in weights(switched).items())
            move()
            switched.restore_model_from_cpu(step)
            switched.clear_cpu_model(step)
        else:
            switched.save_model_to_cpu(0)
        part = rows[4 * step : 4 * step + 4]
        move()
        for worker in (plain, switched):
            worker.update_actor(batch_of(part, teacher_inputs(part, settings(), tokenizer), 0.3))
        move()
    left, right = weights(plain), weights(switched)
    assert any(not torch.equal(start[name], value) for name, value in left.items())
    assert all(torch.equal(left[name], value) for name, value in right.items())

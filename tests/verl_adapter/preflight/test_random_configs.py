"""Random configs of verl's and our options: each is refused, or runs the method that `sd-search check` names.

What verl would run is looked up as verl does it: trainer and agent loop in its registries, the reward by its loader.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED, good_inputs
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls
from verl.trainer.ppo.v1 import get_trainer_cls

from sd_search_verl import scoring
from sd_search_verl.config import ConfigError
from sd_search_verl.distill.schedule import alpha_at
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight.method import has_sections
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search
from sd_search_verl.verl_adapter.trainer.modes import SDSearchTrainer

ROWS = 8  # of the good run
LOOP = "sd_search_verl.verl_adapter.rollout.agent_loop.SearchAgentLoop"


def options(text: str) -> list[str]:
    return text.split()


MEANT = options(f"""
sd_search.alpha=0 sd_search.alpha=0.001 sd_search.alpha=1 sd_search.warmup_steps=0
sd_search.warmup_steps=3 sd_search.warmup_steps=13 sd_search.divergence=forward_kl
sd_search.divergence=mse sd_search.top_k=null sd_search.support=union sd_search.tail=renormalize
sd_search.positions=response sd_search.weighting=group_variance sd_search.target=uniform
sd_search.grad_share_every=null sd_search.hindsight.content=none
sd_search.hindsight.content=current_documents sd_search.hindsight.labels=none
sd_search.hindsight.labels=shuffled sd_search.hindsight.group=own sd_search.hindsight.group=correct_only
sd_search.hindsight.placement=after_question data.truncation=error search.top_k=1
search.max_turns=1 search.traces_per_step=0
search.traces_per_step=2 search.max_failure_rate=0.5 search.sampling_seed=1 health.window=3
health.stop_on_non_finite=False actor_rollout_ref.rollout.n=2 actor_rollout_ref.rollout.n=8
actor_rollout_ref.rollout.max_model_len=null actor_rollout_ref.rollout.max_model_len=1100
actor_rollout_ref.actor.strategy=fsdp actor_rollout_ref.actor.ppo_epochs=2
actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.policy_loss.loss_mode=gspo
algorithm.adv_estimator=rloo algorithm.adv_estimator=reinforce_plus_plus
algorithm.norm_adv_by_std_in_grpo=False algorithm.use_kl_in_reward=True data.train_batch_size=4
data.train_max_samples=4 data.truncation=left data.shuffle=False data.filter_overlong_prompts=True
trainer.total_training_steps=null trainer.total_training_steps=4 trainer.total_training_steps=1
trainer.total_epochs=14 trainer.save_freq=-1 trainer.save_freq=2 trainer.test_freq=0
trainer.val_before_train=False trainer.resume_mode=auto reward.reward_manager.name=dapo
+reward.custom_reward_function.reward_kwargs.metric=f1 trainer.logger=console
actor_rollout_ref.actor.ppo_mini_batch_size=3 actor_rollout_ref.actor.optim.lr_warmup_steps=1000
data.val_max_samples=0 actor_rollout_ref.actor.checkpoint.save_contents=[model]
reward.custom_reward_function.path={scoring.__file__}
""")
"""Options that leave SD-Search a run, or GRPO by alpha = 0; some are warned about."""

WRONG = options("""
trainer.v1.trainer_mode=sync trainer.v1.trainer_mode=colocate_async
trainer.v1.trainer_mode=separate_async trainer.v1.trainer_mode=mine trainer.use_v1=False
actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent
actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent
+actor_rollout_ref.rollout.agent.agent_loop_manager_class=mine.Manager
actor_rollout_ref.rollout.agent.agent_loop_config_path=none.yaml reward.custom_reward_function.path=null
reward.custom_reward_function.name=exact_match +reward.custom_reward_function.reward_kwargs.metric=acc
actor_rollout_ref.rollout.n=1 actor_rollout_ref.rollout.n=0 actor_rollout_ref.rollout.max_model_len=64
actor_rollout_ref.rollout.name=sglang actor_rollout_ref.actor.strategy=megatron
actor_rollout_ref.model.use_fused_kernels=True distillation.enabled=True sd_search.alpha=-1
sd_search.alpha=.nan sd_search.alpha=0,3 sd_search.warmup_steps=14 sd_search.warmup_steps=50
sd_search.warmup_steps=1.5 sd_search.divergence=kl sd_search.top_k=0 sd_search.alhpa=0.3
+sd_search.alhpa=0.3 sd_search.hindsight.content=nothing sd_search.hindsight.content=full
sd_search.hindsight=null sd_search=null search=null search.protocol=autorefine search.protocol=react
search.max_turns=0 search.retriever_urls=[] search.retriever_urls=[localhost:8000] health.window=0
~sd_search ~search ~health data.train_batch_size=16 data.train_batch_size=0 data.truncation=error
data.max_prompt_length=64 data.train_files=none.parquet trainer.total_training_steps=5000
trainer.total_training_steps=0 trainer.total_epochs=0 trainer.total_epochs=1 trainer.critic_warmup=20
trainer.resume_mode=latest trainer.resume_mode=resume_path trainer.val_only=True trainer.nnodes=0
trainer.logger=[nothing] trainer.rollout_data_dir=/proc/x trainer.default_local_dir=s3://bucket/run
reward.custom_reward_function.path=none.py custom_reward_function.path=mine.py reward_model.enable=True
reward.num_workers=0 data.custom_cls.path=none.py algorithm.adv_estimator=gpro
actor_rollout_ref.actor.policy_loss.loss_mode=ppo actor_rollout_ref.actor.clip_ratio_low=-1
actor_rollout_ref.actor.checkpoint.save_contents=[hf_model] actor_rollout_ref.actor.optim.optimizer=adamw
actor_rollout_ref.rollout.val_kwargs.n=0 actor_rollout_ref.rollout.response_length=100
""")
"""Options that make something else of the run, or nothing; some are right beside another."""
RIGHT_ALONE = {"trainer.val_only=True", "sd_search.hindsight.content=full", "data.truncation=error"}
"""Of these, those that only others make wrong."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return good_inputs(tmp_path_factory.mktemp("random"))


def drawn(seed: int) -> list[str]:
    """A few options, each of another name, about two in three configs without one of WRONG."""
    draw = Random(seed)
    wrong = draw.sample(WRONG, draw.choice([0, 0, 0, 0, 1, 2]))
    chosen = [*draw.sample(MEANT, draw.randint(0, 8)), *wrong]
    named = {option.partition("=")[0].lstrip("+~"): option for option in chosen}
    return draw.sample([*named.values()], len(named))


def refused(config: DictConfig) -> tuple[bool, set[str]]:
    """Return whether a check refuses the config, and the names of its warnings; no check may raise."""
    findings = [finding for finding in preflight.check_config(config) if not finding.ok]
    return any(f.fatal for f in findings), {f.name for f in findings}


def check_one(base: list[str], seed: int) -> bool:
    """Compare what the checks let through with what verl would do; return whether it was let through."""
    given = drawn(seed)
    try:
        config = preflight.compose([*base, *given])
    except ConfigError:
        return False  # verl's own command says the same
    is_refused, warned = refused(config)
    if is_refused:
        if has_sections(config) and config.trainer.v1.trainer_mode in ("sync", "separate_async"):
            with pytest.raises(ConfigError):  # without Hydra, too
                get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
        return False
    method, search, lines = read_sd_search(config), read_search(config), preflight.describe_run(config)
    # Trainer, agent loop and reward.
    rollout, reward = config.actor_rollout_ref.rollout, config.reward.custom_reward_function
    assert config.trainer.use_v1, given
    assert get_trainer_cls(config.trainer.v1.trainer_mode) is SDSearchTrainer, given
    assert _agent_loop_registry[rollout.agent.default_agent_loop] == {"_target_": LOOP}, given
    assert lines[0].startswith("trainer:   sd_search on "), lines
    assert f"agent loop sd_search_agent, reward {reward.path}:{reward.name}" in lines[0], lines
    if reward.path == scoring.__file__:
        said = "reward.custom_reward_function.path" in warned
        assert said == (method.alpha > 0 and method.hindsight.label != "reward"), given
    else:
        scored = get_custom_reward_fn(config)
        assert scored is not None
        assert scored.args[0] is scoring.compute_score, given
        metric = reward.get("reward_kwargs", {}).get("metric")
        assert metric in (None, "em", "f1"), given
        assert metric is None or f"metric {metric}" in lines[0], lines
    naive = resolve_reward_manager_cls(config).__name__ == "NaiveRewardManager"
    assert naive or "reward.reward_manager" in warned, given
    # The loss: its first term, alpha of every step, and that a part of the run has it.
    for name, stock in {
        "algorithm.adv_estimator": config.algorithm.adv_estimator == "grpo",
        "actor_rollout_ref.actor.policy_loss.loss_mode": config.actor_rollout_ref.actor.policy_loss.loss_mode
        == "vanilla",
    }.items():
        assert stock or name in warned, given
    taken = min(ROWS, config.data.train_max_samples) if config.data.train_max_samples > 0 else ROWS
    held = taken // config.data.train_batch_size * config.trainer.total_epochs
    steps = held if config.trainer.total_training_steps is None else config.trainer.total_training_steps
    if not config.trainer.val_only:
        assert 0 < steps <= held, given
        alphas = [alpha_at(step, method) for step in range(1, steps + 1)]
        on = [step for step, alpha in enumerate(alphas, start=1) if alpha > 0]
        assert bool(on) == (method.alpha > 0), given
        assert alphas[on[0] - 1 :] == [method.alpha] * len(on) if on else True
        says = f"{method.alpha} L_SD from step {on[0]} ({method.divergence}, " if on else "no L_SD"
        assert says in lines[4], (given, lines)
    # Shapes: groups, batches, lengths.
    assert rollout.n > 1, given
    assert re.search(rf"groups of {rollout.n}, {steps} steps of {config.data.train_batch_size}$", lines[4])
    assert lines[2].startswith(f"data:      {ROWS} rows to train on"), lines
    assert rollout.max_model_len is None or rollout.max_model_len > 64, given
    assert lines[3].startswith(f"retriever: {search.top_k} documents a query, {UNLISTENED}"), lines
    return True


def test_random_configs_are_refused_or_run_what_they_say(base: list[str]) -> None:
    passed = [check_one(base, seed) for seed in range(12)]
    assert 2 <= sum(passed) <= 10


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_random_configs(base: list[str]) -> None:
    passed = [check_one(base, seed) for seed in range(1000, 3000)]
    assert 400 <= sum(passed) <= 1600


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("option", WRONG)
def test_every_wrong_option_is_refused_alone_or_not_what_it_seems(base: list[str], option: str) -> None:
    """Of the good run each of them makes something else."""
    try:
        config = preflight.compose([*base, option])
    except ConfigError:
        return
    assert refused(config)[0] or option in RIGHT_ALONE


def test_the_options_are_options(base: list[str], tmp_path: Path) -> None:
    """All that are meant compose together, so that none is refused for its spelling."""
    named = {option.partition("=")[0]: option for option in MEANT}
    preflight.compose([*base, *named.values()])

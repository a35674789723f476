"""Every recipe, run with a `python` that only writes down its arguments, composes on the installed verl."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.recipes import REPO, commands, composed, differing, trainings, wrong_with

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.verl_adapter.preflight import check_hindsight, check_method

POLICIES = [f"qwen2.5_{size}_{kind}" for size in ("3b", "7b") for kind in ("base", "instruct")]
GPUS = sorted(path.stem for path in (REPO / "hydra_configs" / "gpus").glob("*.yaml"))
RECIPES = sorted(path.name for path in (REPO / "recipes").glob("*.sh"))

NUMBER = {"trainer.nnodes", "trainer.n_gpus_per_node", "actor_rollout_ref.rollout.n_gpus_per_node"}
ADAPTERS = {
    *(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "lora_alpha")),
    *(f"actor_rollout_ref.actor.fsdp_config.{name}" for name in ("param_offload", "optimizer_offload")),
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu",
    "actor_rollout_ref.rollout.load_format",
    "actor_rollout_ref.rollout.layered_summon",
}
"""What `gpus` with fewer than eight cards changes: adapters, and the memory for them."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("gpus", ["1x8", "2x8"])
def test_the_papers_run_and_its_twin(policy: str, gpus: str, tmp_path: Path) -> None:
    arguments = ["data", "run", f"policy={policy}", f"gpus={gpus}", "seed=3"]
    (sd_search,) = trainings("paper_sd_search.sh", *arguments, folder=tmp_path)
    (grpo,) = trainings("paper_grpo.sh", *arguments, folder=tmp_path)
    ours, twin = composed(*sd_search), composed(*grpo)
    assert wrong_with(ours) == wrong_with(twin) == []
    assert differing(ours, twin) == {"sd_search.alpha"}
    assert (
        ours.data.seed
        == ours.actor_rollout_ref.rollout.seed
        == ours.actor_rollout_ref.actor.data_loader_seed
        == 3
    )
    assert ours.trainer.nnodes * ours.trainer.n_gpus_per_node == {"1x8": 8, "2x8": 16}[gpus]
    size, kind = policy.split("_")[1:]
    name = f"Qwen/Qwen2.5-{size.upper()}" + ("-Instruct" if kind == "instruct" else "")
    assert ours.actor_rollout_ref.model.path == name


@pytest.mark.parametrize("gpus", GPUS)
def test_every_number_of_gpus_starts(gpus: str, tmp_path: Path) -> None:
    (arguments,) = trainings("paper_sd_search.sh", "data", "run", f"gpus={gpus}", folder=tmp_path)
    config, eight = composed(*arguments), composed(*arguments[:-1])
    assert wrong_with(config) == []
    nodes, cards = map(int, gpus.split("x"))
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (nodes, cards)
    adapters = ADAPTERS if cards < 8 else set()
    assert adapters <= differing(config, eight) <= NUMBER | adapters
    assert (config.actor_rollout_ref.model.lora_rank > 0) == (cards < 8)
    # One micro-batch holds the longest rollout there may be.
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu >= longest


def test_the_papers_values(tmp_path: Path) -> None:
    (arguments,) = trainings("paper_sd_search.sh", "data", "run", folder=tmp_path)
    config = composed(*arguments)
    assert OmegaConf.to_container(config.sd_search) == SDSearchConfig().model_dump()
    assert config.algorithm.adv_estimator == "grpo"
    assert (config.actor_rollout_ref.rollout.n, config.search.top_k) == (5, 3)
    assert config.trainer.total_training_steps == 200
    assert (
        config.actor_rollout_ref.rollout.max_model_len
        == config.data.max_prompt_length + config.data.max_response_length
    )
    # The longest rollout that the limits of the agent loop allow fits.
    search = config.search
    longest = (
        search.max_turns * (search.max_turn_tokens + search.max_observation_tokens) + search.max_turn_tokens
    )
    assert longest <= config.data.max_response_length


def test_the_ablations_change_one_field_each(tmp_path: Path) -> None:
    """The ablation without future masking also changes the block's limit, which whole rollouts would exceed."""
    (base,) = trainings("paper_sd_search.sh", "data", "runs/x", folder=tmp_path)
    found = trainings("paper_ablations.sh", "data", "runs", "all", folder=tmp_path)
    assert len(found) == 11
    table = (REPO / "docs" / "method.md").read_text()
    for arguments in found:
        config = composed(*arguments)
        assert wrong_with(config) == []
        changed = differing(config, composed(*base))
        changed = {name for name in changed if not name.endswith(("default_local_dir", "experiment_name"))}
        if config.sd_search.hindsight.content == "full":
            changed.remove("sd_search.hindsight.max_tokens")
        (name,) = changed
        assert name.startswith("sd_search.")
        assert all(finding.ok for finding in check_hindsight(config)), name
        assert name in table
        assert str(OmegaConf.select(config, name)) in table
    assert len({tuple(arguments) for arguments in found}) == 11


@pytest.mark.parametrize("mode", ["colocate", "separate"])
def test_the_papers_run_with_asynchronous_rollouts(mode: str, tmp_path: Path) -> None:
    (arguments,) = trainings("paper_async.sh", "data", "run", mode, "seed=3", folder=tmp_path)
    (sync,) = trainings("paper_sd_search.sh", "data", "run", "seed=3", folder=tmp_path)
    config = composed(*arguments)
    assert wrong_with(config) == []
    assert [finding.found for finding in check_method(config)] == []
    changed = {"trainer.v1.trainer_mode", "algorithm.rollout_correction.rollout_is"}
    if mode == "separate":
        rollout = "actor_rollout_ref.rollout"
        changed |= {"actor_rollout_ref.hybrid_engine", "trainer.v1.separate_async.parameter_sync_step"}
        changed |= {f"{rollout}.nnodes", f"{rollout}.n_gpus_per_node", f"{rollout}.checkpoint_engine.backend"}
        changed |= {"trainer.n_gpus_per_node"}
        assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size
    assert differing(config, composed(*sync)) == changed


def test_an_unknown_asynchronous_mode_is_refused(tmp_path: Path) -> None:
    recipe = REPO / "recipes" / "paper_async.sh"
    done = subprocess.run([recipe, "data", str(tmp_path), "both"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "colocate|separate" in done.stderr


def test_plain_search_r1(tmp_path: Path) -> None:
    (arguments,) = trainings("search_r1.sh", "data", "run", folder=tmp_path)
    config = composed(*arguments)
    assert wrong_with(config) == []
    assert config.sd_search.alpha == 0
    assert (config.search.protocol, config.search.max_turns) == ("search_r1", 4)
    assert config.reward.custom_reward_function.reward_kwargs.metric == "em"
    (arguments,) = trainings("search_r1.sh", "data", "run", "sd_search.alpha=1e-3", folder=tmp_path)
    assert composed(*arguments).sd_search.alpha == 1e-3


def test_the_comparison_is_paired(tmp_path: Path) -> None:
    (tmp_path / "data" / "eval").mkdir(parents=True)
    for name in ("nq", "musique"):
        (tmp_path / "data" / "eval" / f"{name}.parquet").touch()
    for arm in ("grpo", "sd_search"):
        for seed in (0, 1):
            run = tmp_path / "runs" / f"{arm}-seed{seed}"
            run.mkdir(parents=True)
            (run / "latest_checkpointed_iteration.txt").write_text("200")
    calls = commands("paper_compare.sh", "data", "runs", "0 1", folder=tmp_path)
    trained = [call for call in calls if "verl.trainer.main_ppo" in call]
    assert [[a for a in call if a.startswith("seed=")] for call in trained] == [["seed=0"]] * 2 + [
        ["seed=1"]
    ] * 2
    evaluated = [call for call in calls if call[:2] == ["sd-search", "evaluate"]]
    assert [call.count("--questions") for call in evaluated] == [2] * 4
    assert "runs/grpo-seed0/global_step_200" in evaluated[0]
    assert not any("--retriever" in call for call in evaluated), "the training's own is the default"
    assert [call[1] for call in calls if call[0] == "sd-search"] == [
        "evaluate",
        "evaluate",
        "compare",
    ] * 2 + ["report"]


def test_the_retriever_serves_what_was_built(tmp_path: Path) -> None:
    for encoder, backend in (((), "bm25"), (("e5",), "dense")):
        built = commands("paper_data.sh", "data", *encoder, folder=tmp_path)[-1]
        (served,) = commands("paper_retriever.sh", "data", *encoder, folder=tmp_path)
        for option in ("--backend", "--corpus", "--index"):
            assert built[built.index(option) + 1] == served[served.index(option) + 1]
        assert served[served.index("--backend") + 1] == backend
    for encoder, backend in (((), "bm25"), (("",), "bm25"), (("e5",), "dense")):
        (served,) = commands("paper_retriever.sh", "data", *encoder, "--port", "9000", folder=tmp_path)
        assert served[served.index("--backend") + 1] == backend
        assert served[-2:] == ["--port", "9000"]


def test_a_ray_job_brings_its_retriever(tmp_path: Path) -> None:
    train = ["recipes/paper_sd_search.sh", "/data", "/run", "gpus=2x8"]
    serve, submitted, stop = commands(
        "ray_job_submit.sh", "http://head:8265", "/data", *train, folder=tmp_path
    )
    assert serve[serve.index("--") + 1 :][:2] == ["recipes/paper_retriever.sh", "/data"]
    assert serve[-4:] == ["--host", "0.0.0.0", "--port", "8000"]
    assert submitted[submitted.index("--") + 1 :] == [
        *train,
        "search.retriever_urls=[http://head:8000/retrieve]",
    ]
    job = serve[serve.index("--submission-id") + 1]
    assert stop == ["ray", "job", "stop", "--address", "http://head:8265", job]
    for call in (serve, submitted):
        assert call[call.index("--address") + 1] == "http://head:8265"
        assert call[call.index("--working-dir") + 1] == str(REPO)
        assert Path(call[call.index("--runtime-env") + 1]).is_file()
    mine = "http://mine:1/retrieve"
    (only,) = commands("ray_job_submit.sh", "http://h:8265", "/data", *train, folder=tmp_path, RETRIEVER=mine)
    assert only[-1] == f"search.retriever_urls=[{mine}]"


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [
        ("Status for job 't': RUNNING", False),
        ("Failed to connect to Ray at address: http://h:8265", False),
        ("Job 't' failed", True),
        ("Job 't' was stopped", True),
        ("RuntimeError: Request failed with status code 404: Job t does not exist", True),
    ],
)
def test_a_training_that_outlives_its_log_keeps_its_retriever(
    answer: str, stopped: bool, tmp_path: Path
) -> None:
    """Ray's command ends with status 1 where the job failed, and where the connection to its log was lost."""
    ray, calls = tmp_path / "ray", tmp_path / "calls"
    ray.write_text(
        f'#!/usr/bin/env bash\necho "$*" >> {calls}\n'
        f'case "$*" in *status*) echo "{answer}";; *no-wait*|*stop*) ;; *) exit 1;; esac\n'
    )
    ray.chmod(0o755)
    done = subprocess.run(
        [REPO / "recipes" / "ray_job_submit.sh", "http://h:8265", "data", "recipes/paper_sd_search.sh"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert ("job stop" in calls.read_text()) == stopped
    assert ("may go on, and so does retriever-" in done.stderr) != stopped


METHODS = re.findall(r"^  \[(\w+)\]=", (REPO / "recipes" / "compare_methods.sh").read_text(), re.MULTILINE)


def test_every_method_of_the_comparison_composes_and_is_another(tmp_path: Path) -> None:
    calls = commands("compare_methods.sh", " ".join(METHODS), "0", "runs", "2", folder=tmp_path)
    runs = [call for call in calls if call[:2] == ["sd-search", "local"]]
    assert len(runs) == len(METHODS) >= 15
    found = {}
    for method, call in zip(METHODS, runs, strict=True):
        overrides = [word for word in call if "=" in word]
        found[method] = composed("--config-name=cpu_demo", *overrides)
        assert wrong_with(found[method]) == [], method
        assert [f.found for f in check_method(found[method]) if f.fatal] == [], method
    for method in METHODS[1:]:
        assert differing(found["grpo"], found[method]), method


REFUSED = [
    ("cpu_demo.sh", ["sd_search.alpha=0"], "RUN_DIR is missing: sd_search.alpha=0 is an override"),
    ("cpu_demo.sh", ["+sd_search.alpha=0"], "RUN_DIR is missing"),
    ("cpu_demo.sh", ["precious"], "precious exists and is no run of this recipe"),
    ("cpu_demo.sh", ["file"], "file exists and is no run of this recipe"),
    ("gpu_demo.sh", ["sd_search.alpha=0"], "RUN_DIR is missing: sd_search.alpha=0 is an override"),
    ("gpu_demo.sh", ["precious"], "precious exists and is no run of this recipe"),
    ("cpu_wiki18_mini.sh", ["data", "precious"], "precious exists and is no run of this recipe"),
    ("cpu_wiki18_mini.sh", ["nowhere"], "nowhere/wiki18-mini/corpus.jsonl is missing. Fix: python -m"),
    ("cpu_smollm2.sh", ["nowhere", "precious"], "precious exists and is no run of this recipe"),
    ("cpu_smollm2.sh", ["nowhere", "new"], "nowhere/corpus.jsonl is missing. Fix: python -m"),
    (
        "paper_sd_search.sh",
        ["data", "sd_search.alpha=0"],
        "RUN_DIR is missing: sd_search.alpha=0 is an override",
    ),
    ("paper_grpo.sh", ["data", "+trainer.x=0"], "RUN_DIR is missing"),
    ("search_r1.sh", ["data", "seed=1"], "RUN_DIR is missing: seed=1 is an override"),
    ("paper_async.sh", ["data", "seed=1", "colocate"], "RUN_DIR is missing: seed=1 is an override"),
    ("paper_compare.sh", ["nowhere", "runs"], "no question set is there. Fix: recipes/paper_data.sh nowhere"),
    ("paper_ablations.sh", ["data", "runs", "mse labels"], "no ablation labels; there are "),
    ("compare_methods.sh", ["nothing", "0"], "no method nothing"),
]


@pytest.mark.parametrize(("recipe", "arguments", "says"), REFUSED)
def test_wrong_arguments_of_a_recipe_are_named_before_anything_is_done(
    recipe: str, arguments: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError) as caught:
        commands(recipe, *arguments, folder=tmp_path)
    assert says in str(caught.value)
    assert (tmp_path / "calls").read_text() == ""
    assert (tmp_path / "precious" / "thesis").exists()


@pytest.mark.parametrize(
    ("recipe", "arguments"), [("world_compare.sh", ["0"]), ("compare_methods.sh", ["grpo", "0"])]
)
def test_a_comparison_in_the_world_replaces_only_its_own_runs(
    recipe: str, arguments: list[str], tmp_path: Path
) -> None:
    """Those of paper_compare.sh, which take days, have the same names."""
    run = tmp_path / "runs" / "grpo-seed0"
    (run / "global_step_200").mkdir(parents=True)
    with pytest.raises(AssertionError, match="grpo-seed0 exists and is no run of this recipe"):
        commands(recipe, *arguments, "runs", folder=tmp_path)
    assert (tmp_path / "calls").read_text() == ""
    with pytest.raises(AssertionError, match=r"RUN_DIR is missing: seed=1"):
        commands(recipe, *arguments, "seed=1", folder=tmp_path)
    (run / "world").mkdir()
    commands(recipe, *arguments, "runs", folder=tmp_path)
    assert not (run / "global_step_200").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_without_arguments_says_how_it_is_used(recipe: str, tmp_path: Path) -> None:
    text = (REPO / "recipes" / recipe).read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert f"\n# usage: {recipe} " in text
    assert os.access(REPO / "recipes" / recipe, os.X_OK)
    if "${1:?" in text:
        done = subprocess.run([REPO / "recipes" / recipe], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode != 0
        assert f"usage: {recipe} " in done.stderr


@pytest.mark.parametrize("policy", ["qwen3_1.7b", "qwen3_4b", "qwen3_8b", "qwen3.5_4b"])
def test_tool_calls_of_newer_models(policy: str, tmp_path: Path) -> None:
    arguments = ["data", "run", f"policy={policy}", "start=tool_call"]
    (started,) = trainings("paper_sd_search.sh", *arguments, folder=tmp_path)
    config = composed(*started)
    assert wrong_with(config) == []
    family = "qwen3_coder" if policy == "qwen3.5_4b" else "hermes"
    assert (config.search.protocol, config.search.tool_call.family) == ("tool_call", family)
    name, size = policy.split("_")
    assert config.actor_rollout_ref.model.path == f"Qwen/{name.capitalize()}-{size.upper()}"
    assert config.data.apply_chat_template_kwargs.enable_thinking is False
    # The longest rollout fits, with 32 tokens of the template around each result.
    search = config.search
    turns = search.max_turns * (search.max_turn_tokens + search.max_observation_tokens + 32)
    assert turns + search.max_turn_tokens <= config.data.max_response_length

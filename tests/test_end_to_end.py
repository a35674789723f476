"""One whole run on the CPU: main_ppo with Ray, vLLM, FSDP2 and the retrieval server, as `make demo` does it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from support.cli import local
from support.processes import has_ended

from sd_search_verl.protocol import get
from sd_search_verl.scoring import exact_match, token_f1
from sd_search_verl.verl_adapter.preflight.changed_options import check_changed_options

REPO = Path(__file__).resolve().parents[1]
STEPS = 3
WARMUP = 1

METRICS = [
    "critic/score/mean",
    "actor/pg_loss",
    "actor/grad_norm",
    "sd_search/alpha",
    "sd_search/homogeneous_groups",
    "search/searches_per_rollout",
    "search/distinct_queries_per_group",
    "search/gold_in_documents",
    "search/failures",
    "search/latency_s_p50",
    "search/latency_s_p99",
    "search/truncated_observations",
    "search/malformed",
]
WITH_ALPHA = [
    "sd_search/loss",
    "sd_search/jsd",
    "sd_search/query_tokens",
    "sd_search/teacher_entropy",
    "sd_search/student_entropy",
    "sd_search/entropy_gap",
    "sd_search/top_k_mass",
    "sd_search/teacher_student_top1",
    "timing_s/sd_search_prepare",
    "timing_s/sd_search_teacher",
]


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        f"sd_search.warmup_steps={WARMUP}",
        f"trainer.save_freq={STEPS}",
        f"trainer.test_freq={STEPS}",
        "data.val_max_samples=8",
        # A reference policy, as the paper's runs have one: another worker role, and KL in the loss.
        "actor_rollout_ref.actor.use_kl_loss=True",
        "trainer.logger=[console,tensorboard]",
    ]
    done = subprocess.run(
        local(folder, world, "--steps", str(STEPS), *overrides),
        capture_output=True,
        text=True,
        timeout=540,
        # The machine belongs to another Ray cluster, which the run must leave alone.
        env={**os.environ, "TENSORBOARD_DIR": str(folder / "tensorboard"), "RAY_ADDRESS": "127.0.0.1:1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert str(folder / "report.html") in done.stdout
    assert "RAY_ADDRESS is not used" in done.stdout
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(600)
def test_every_metric_is_present_and_finite(run: Path) -> None:
    steps = read(run / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    for step in steps:
        teaching = step["step"] > WARMUP
        assert step["sd_search/alpha"] == (0.3 if teaching else 0.0)
        for name in METRICS + (WITH_ALPHA if teaching else []):
            assert math.isfinite(step[name]), name
        assert ("sd_search/jsd" in step) == teaching  # warm-up computes nothing
        if teaching:
            assert 0 < step["sd_search/jsd"] < math.log(2)
            assert step["sd_search/query_tokens"] > 0
        assert step["search/searches_per_rollout"] > 0.5
        assert step["search/failures"] == 0
        # Tokens, masks and weights are those the rollout engine had: its log-probs are the trainer's.
        assert abs(step["rollout_corr/kl"]) < 1e-4
    assert any(step["critic/score/mean"] > 0 for step in steps)
    assert all(math.isfinite(step["actor/kl_loss"]) for step in steps)
    # Validation runs the same agent loop and the same scorer.
    assert any(name.startswith("val-") and name.endswith("/em/mean@1") for name in steps[-1])


def test_the_same_command_would_go_on_with_the_options_it_began_with(run: Path) -> None:
    config = OmegaConf.load(run / "hydra" / ".hydra" / "config.yaml")
    assert isinstance(config, DictConfig)
    config.trainer.resume_mode = "auto"
    assert [*check_changed_options(config)] == []
    config.sd_search.alpha = 0
    (finding,) = check_changed_options(config)
    assert "sd_search.alpha=0 (was 0.3)" in finding.found


def test_loggers_get_the_same_numbers(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for step in read(run / "metrics.jsonl"):
        for name in step.keys() & {*METRICS, *WITH_ALPHA, "health/alarms", "health/correct_log_prob"}:
            found = {event.step: event.value for event in events.Scalars(name)}
            assert found[step["step"]] == pytest.approx(step[name], rel=1e-5), name
    log = (run / "train.log").read_text(errors="replace")
    assert re.search(
        rf"step +{STEPS}  reward [\d.]+  EM [\d.]+  searches [\d.]+  .*  alpha 0\.3  JSD [\d.]+", log
    )


def test_the_weights_changed(run: Path, world: Path) -> None:
    (shard,) = (run / f"global_step_{STEPS}" / "actor").glob("model_world_size_1_rank_0.pt")
    after = torch.load(shard, weights_only=False)
    before = load_file(world / "model" / "model.safetensors")
    for name, weight in before.items():
        trained = after[name].full_tensor() if hasattr(after[name], "full_tensor") else after[name]
        assert trained.isfinite().all()
        assert not torch.equal(trained.float(), weight.float()), name


def test_traces_hold_what_the_policy_did(run: Path) -> None:
    traces = read(run / "traces.jsonl")
    assert len(traces) == STEPS * 40
    searched, divergences = 0, []
    retriever = json.loads((run / "retriever.json").read_text())
    assert (retriever["backend"], len(retriever["version"])) == ("bm25", 16)
    for trace in traces:
        assert retriever["version"] in trace["retriever"]
        tokens, mask = trace["tokens"], trace["mask"]
        assert "".join(tokens) == trace["response"]
        assert len(tokens) == len(mask)
        parsed = get("search_r1").parse(trace["response"])
        assert parsed.queries == trace["queries"]
        assert parsed.answer == trace["answer"]
        assert exact_match(trace["answer"], trace["golden_answers"]) == trace["em"] == trace["score"]
        assert token_f1(trace["answer"], trace["golden_answers"]) == trace["f1"]
        for (start, end), query in zip(trace["spans"], trace["queries"], strict=True):
            searched += 1
            assert "".join(tokens[start:end]).strip() == query
            assert all(mask[start:end])
            assert "".join(tokens[:start]).endswith("<search>")
            assert "".join(tokens[end:]).lstrip().startswith("</search>")
        assert ("<information>" in trace["response"]) == (0 in mask) or trace["status"] != "answered"
        if trace["step"] > WARMUP and trace["queries"]:
            (block,) = trace["blocks"]
            assert all(query in block for query in trace["queries"])
            assert block.count("CORRECT:") == 5
            assert "<information>" not in block
            for values in (trace["credit"], trace["divergence"]):
                assert [len(part) for part in values] == [end - start for start, end in trace["spans"]]
                assert all(math.isfinite(value) for part in values for value in part)
            divergences += [value for part in trace["divergence"] for value in part]
        else:
            assert trace["credit"] == trace["divergence"] == []
    assert searched > STEPS * 20
    # Every rollout is traced, so their credit adds up to what the loss reports.
    teaching = [step for step in read(run / "metrics.jsonl") if step["step"] > WARMUP]
    expected = sum(step["sd_search/jsd"] * step["sd_search/query_tokens"] for step in teaching)
    assert sum(divergences) == pytest.approx(expected, rel=1e-3)


def test_nothing_was_left_running(run: Path) -> None:
    left = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline"])
        if str(run) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process_and_no_port(world: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(local(tmp_path, world), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        log = tmp_path / "train.log"
        deadline = time.monotonic() + 150
        # In the middle of Ray's start, when the most processes are neither ours nor yet anybody's.
        while not (log.exists() and "Started a local Ray instance" in log.read_text(errors="replace")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(3)
        started = psutil.Process(process.pid).children(recursive=True)
        names = {child.name() for child in started}
        assert any("raylet" in name for name in names), names
        port = int((tmp_path / "retriever.url").read_text().rsplit(":", 1)[1].strip("/ \n"))
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert [child for child in started if not has_ended(child.pid)] == []
    listening = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert port not in listening

"""One whole run in tool calls on the CPU: main_ppo with Ray, vLLM, FSDP2 and the retrieval server."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.cli import local, sd_search

from sd_search_verl.protocol import get

STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world, folder = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("run")
    subprocess.run(sd_search("world", "build", "--protocol", "tool_call", "--out", world), check=True)
    overrides = ["search.protocol=tool_call", "sd_search.warmup_steps=1", "data.train_batch_size=4"]
    overrides.append("actor_rollout_ref.actor.ppo_mini_batch_size=4")
    # The demo ends a turn at its first call, by the texts that tests/rollout/test_stop.py tries.
    overrides.append("search.tool_call.parallel=true")
    done = subprocess.run(
        local(folder, world, "--steps", str(STEPS), *overrides), capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(600)
def test_the_policy_calls_the_tool_and_is_taught_at_its_queries(run: Path) -> None:
    before, teaching = read(run / "metrics.jsonl")
    assert "sd_search/jsd" not in before
    assert 0 < teaching["sd_search/jsd"] < math.log(2)
    for step in (before, teaching):
        assert step["search/searches_per_rollout"] > 0.5
        assert step["search/failures"] == step["search/malformed/unlocated"] == 0
        # Tokens, masks and weights are those the rollout engine had: its log-probs are the trainer's.
        assert abs(step["rollout_corr/kl"]) < 1e-4


def test_traces_hold_calls_and_their_queries(run: Path) -> None:
    traces = read(run / "traces.jsonl")
    assert len(traces) == STEPS * 20
    protocol, searched = get("tool_call:hermes"), 0
    for trace in traces:
        tokens, mask = trace["tokens"], trace["mask"]
        assert "".join(tokens) == trace["response"]
        assert protocol.parse(trace["response"]).queries == trace["queries"]
        assert protocol.parse(trace["response"]).answer == trace["answer"]
        for (start, end), query in zip(trace["spans"], trace["queries"], strict=True):
            searched += 1
            assert "".join(tokens[start:end]).strip() == query
            assert all(mask[start:end])
            assert "".join(tokens[:start]).endswith('"query": "')
            assert "".join(tokens[end:]).startswith('"}}\n</tool_call><|im_end|>')
        seen = "".join(token for token, wrote in zip(tokens, mask, strict=True) if not wrote)
        assert seen.count("<tool_response>") == len(trace["gold_in_documents"])
        if trace["step"] == STEPS and trace["queries"]:
            assert all(query in trace["blocks"][0] for query in trace["queries"])
            assert [len(part) for part in trace["credit"]] == [end - start for start, end in trace["spans"]]
    assert searched > 20
    assert '"call"' in (run / "report.html").read_text()

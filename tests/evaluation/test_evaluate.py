"""``sd-search evaluate`` as a user runs it: vLLM on the CPU, the retrieval server, the shipped model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from support import identity_server

from sd_search_verl.cli import main
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.engine import check_context
from sd_search_verl.evaluation.model import resolve_model
from sd_search_verl.fingerprint import fingerprint
from sd_search_verl.protocol import get
from sd_search_verl.scoring import exact_match
from sd_search_verl.world.model import load_model

LIMITS = ["max_prompt_tokens=64", "max_response_tokens=192", "search.top_k=1", "search.max_turns=3"]
LIMITS += ["search.max_turn_tokens=24", "search.max_observation_tokens=64", "sample=24", "concurrency=10"]


@pytest.fixture
def retriever(world: Path, tmp_path: Path) -> Iterator[str]:
    """The server's address."""
    corpus, index, address = world / "corpus.jsonl", tmp_path / "index", tmp_path / "url"
    # Of the two BM25 back ends the one without Java: two Java runtimes are half of what this test would take.
    build = [sys.executable, "-m", "retriever_server.build_index", "--backend", "bm25s"]
    subprocess.run([*build, "--corpus", corpus, "--index", index], check=True, capture_output=True)
    serve = [sys.executable, "-m", "retriever_server", "--backend", "bm25s", "--port", "0"]
    server = subprocess.Popen([*serve, "--corpus", corpus, "--index", index, "--port-file", address])
    try:
        deadline = time.monotonic() + 60
        while not address.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield address.read_text().strip()
    finally:
        server.terminate()
        server.wait(timeout=30)


def arguments(world: Path, retriever: str, out: Path) -> list[str]:
    where = ["--model", str(world / "model"), "--retriever", retriever, "--out", str(out)]
    files = ["--questions", f"a={world / 'val.parquet'}", "--questions", f"b={world / 'train.parquet'}"]
    return ["evaluate", *where, *files, "--set", *LIMITS]


@pytest.mark.timeout(200)
def test_a_long_path_of_temporary_files_does_no_harm(world: Path, retriever: str, tmp_path: Path) -> None:
    long = tmp_path / ("t" * 120)
    long.mkdir()
    given = [*arguments(world, retriever, tmp_path / "out"), "--set", *LIMITS, "sample=2"]
    environment = os.environ | {"TMPDIR": str(long)}
    command = [sys.executable, "-m", "sd_search_verl.cli", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path for path in long.rglob("*") if path.is_socket()] == []


@pytest.mark.timeout(400)
def test_evaluate_and_start_again(
    world: Path, retriever: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    program = "import sys; from sd_search_verl.cli import main; code = main(sys.argv[1:]); "
    program += "assert 'verl' not in sys.modules, 'verl was imported'; sys.exit(code)"
    line = [sys.executable, "-c", program, *arguments(world, retriever, out)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "trajectories.jsonl").read_text().splitlines()]
    assert len({(row["set"], row["id"]) for row in rows}) == len(rows) == 48
    for row in rows:
        parsed = get("search_r1").parse(row["response"])
        assert (parsed.queries, parsed.answer) == (row["queries"], row["answer"])
        assert row["em"] == exact_match(row["answer"], row["golden_answers"])
    first = (out / "results.json").read_bytes()
    results = json.loads(first)
    assert results["sets"]["a"]["searches_per_question"] > 0.5
    assert results["sets"]["a"]["search_failed"] == 0
    assert results["protocol_hash"]
    assert results["training_protocol_hash"] is None
    assert results["retriever"]["backend"] == "bm25s"
    assert results["retriever"]["passages"] == len((world / "corpus.jsonl").read_text().splitlines())
    assert "macro average" in done.stdout
    assert "config is unknown" in done.stderr

    # Everything is answered: neither the model nor the retriever is needed, and the results are the same.
    assert main(arguments(world, "http://127.0.0.1:9", out)) == 0
    assert (out / "results.json").read_bytes() == first
    # A killed evaluation does not go on with another index.
    run = out / "run.json"
    asked = json.loads(run.read_text())
    run.write_text(json.dumps({**asked, "retriever": {**asked["retriever"], "version": "another"}}))
    trajectories = out / "trajectories.jsonl"
    whole = trajectories.read_bytes()
    trajectories.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert main(arguments(world, retriever, out)) == 1
    assert "holds an evaluation with another retriever" in capsys.readouterr().err
    run.write_text(json.dumps(asked))
    trajectories.write_bytes(whole)
    # Another protocol in the same folder would mix two evaluations.
    assert main([*arguments(world, retriever, out), "--set", "search.max_turns=2"]) == 1
    assert "holds an evaluation with another protocol_hash, config" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_engine_that_ends_is_one_line_and_the_same_command_goes_on(
    world: Path, retriever: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-m", "sd_search_verl.cli", *arguments(world, retriever, out)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 200
        while not any(out.glob("trajectories.jsonl")) or not (out / "trajectories.jsonl").read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if "EngineCore" in child.name()).kill()
        shown, _ = process.communicate(timeout=100)
    kept = (out / "trajectories.jsonl").read_text()
    assert process.returncode == 1
    assert shown.rstrip().splitlines()[-1].startswith("sd-search: vLLM's engine ended"), shown[-2000:]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = (out / "trajectories.jsonl").read_text()
    assert whole.startswith(kept)
    assert len(whole.splitlines()) == 48


def test_rollouts_of_which_nothing_says_how_they_were_made_are_not_taken_over(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trajectories.jsonl").write_text('{"set": "a", "id": "0", "seed": 0}\n')
    assert main(arguments(world, "http://127.0.0.1:9", tmp_path)) == 1
    assert f"{tmp_path / 'run.json'} is missing, which says how" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


def test_a_silent_retriever_is_noticed_before_the_model_is_loaded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(world, "http://127.0.0.1:9", tmp_path), "--set", "search.max_retries=0"]) == 1
    shown = capsys.readouterr().err
    assert "the retriever does not answer" in shown
    assert "loading" not in shown


@pytest.mark.parametrize("command", ["evaluate", "ask"])
def test_a_prompt_that_the_template_refuses_is_named_before_the_model_is_loaded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Every row with a system message is refused, the first has none."""
    model = shutil.copytree(world / "model", tmp_path / "model")
    says = "{{ raise_exception('no system role') }}"
    template = (
        "{% if messages[0].role == 'system' or 'who is 2?' in messages[0].content %}" + says + "{% endif %}x"
    )
    (model / "chat_template.jinja").write_text(template)
    rows = [verl_row("s", "own", i, str(i), f"who is {i}?", ["a"], get("search_r1")) for i in range(2)]
    rows[1]["prompt"] = [{"role": "system", "content": "Be brief."}, *rows[1]["prompt"]]
    write_parquet(tmp_path / "q.parquet", rows)
    asked = ["--questions", str(tmp_path / "q.parquet"), "--out", str(tmp_path / "out")]
    with identity_server.server(identity_server.READY) as url:
        arguments = [command, *(asked if command == "evaluate" else ["who is 2?"])]
        assert main([*arguments, "--model", str(model), "--retriever", url]) == 1
    said = capsys.readouterr().err
    assert f"the chat template of {model} cannot render" in said
    assert "no system role. Fix: " in said
    assert "loading" not in said


@pytest.mark.parametrize("question", ["", "  ", "what\udcff?"])
def test_a_question_that_cannot_be_asked_is_refused(
    world: Path, capsys: pytest.CaptureFixture[str], question: str
) -> None:
    assert main(["ask", question, "--model", str(world / "model"), "--retriever", "http://127.0.0.1:9"]) == 1
    assert "the question" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_the_engine_cannot_load_is_one_line(world: Path, tmp_path: Path) -> None:
    model = shutil.copytree(world / "model", tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"no weights")
    line = [sys.executable, "-m", "sd_search_verl.cli"]
    with identity_server.server(identity_server.READY) as url:
        line += ["ask", "who?", "--model", str(model), "--retriever", url, "--set", *LIMITS[:-2]]
        done = subprocess.run(line, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"sd-search: vLLM cannot load {model}"), done.stderr[-2000:]
    assert "Fix: " in last


@pytest.mark.timeout(200)
def test_a_model_of_nan_gets_no_result(world: Path, retriever: str, tmp_path: Path) -> None:
    """vLLM samples padding from it, without a word."""
    policy = load_model(world / "model")
    with torch.no_grad():
        policy.model.norm.weight.fill_(torch.nan)
    shutil.copytree(world / "model", tmp_path / "nan")
    policy.save_pretrained(tmp_path / "nan")
    given = [*arguments(world, retriever, tmp_path / "out"), "--model", str(tmp_path / "nan")]
    done = subprocess.run(
        [sys.executable, "-m", "sd_search_verl.cli", *given], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 1
    assert f"the probabilities of {tmp_path / 'nan'} are not finite" in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.timeout(200)
def test_ctrl_c_while_the_engine_starts_ends_it(world: Path, retriever: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sd_search_verl.cli", *arguments(world, retriever, tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    next(line for line in process.stderr if "into vLLM" in line)
    time.sleep(2)
    for _ in range(2):  # as a terminal does it: to all processes of the command
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(2)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing is left running" in said


def test_a_damaged_file_that_the_engine_passes_over_is_named(world: Path, tmp_path: Path) -> None:
    model = shutil.copytree(world / "model", tmp_path / "model")
    (model / "generation_config.json").write_text('{"eos_token_id": [1')
    with pytest.raises(UserError, match=r"generation_config\.json is not JSON"):
        check_context(model, EvaluationConfig(max_prompt_tokens=8, max_response_tokens=8))


def test_models_are_told_apart_and_absent_ones_named(world: Path, tmp_path: Path) -> None:
    model = world / "model"
    assert resolve_model(model, tmp_path) == model
    with pytest.raises(UserError, match="holds no model"):
        resolve_model(tmp_path, tmp_path)
    before = fingerprint(model)
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert fingerprint(model) != before
    weights.write_bytes(whole)
    assert fingerprint(model) == before

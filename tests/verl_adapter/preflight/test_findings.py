"""Every check's finding names what is wrong and the fix."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED, change
from support.tiny import byte_tokenizer

from sd_search_verl import protocol as protocols
from sd_search_verl.config import ConfigError
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.finding import Finding, show
from sd_search_verl.verl_adapter import preflight


def bad(findings: Iterable[Finding]) -> str:
    """The failed finding as the doctor and `sd-search check` show it."""
    failed = [finding for finding in findings if not finding.ok]
    assert len(failed) == 1, failed
    return show(failed)


def missing_column(config: DictConfig, folder: Path) -> str:
    table = pq.read_table(config.data.train_files).drop_columns(["reward_model"])
    pq.write_table(table, folder / "bad.parquet")
    return bad(preflight.check_data(change(config, data__train_files=str(folder / "bad.parquet"))))


def no_such_file(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_data(change(config, data__val_files=[str(folder / "none.parquet")])))


def not_parquet(config: DictConfig, folder: Path) -> str:
    (folder / "text.parquet").write_text("question\n")
    return bad(preflight.check_data(change(config, data__val_files=str(folder / "text.parquet"))))


def other_protocol(config: DictConfig, folder: Path) -> str:
    rows = [verl_row("nq", "train", i, "", "q", ["a"], protocols.get("autorefine")) for i in range(8)]
    write_parquet(folder / "autorefine.parquet", rows)
    return bad(preflight.check_data(change(config, data__train_files=str(folder / "autorefine.parquet"))))


def too_few_rows(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_data(change(config, data__train_batch_size=512)))


def no_chat_template(config: DictConfig, folder: Path) -> str:
    shutil.copytree(config.actor_rollout_ref.model.path, folder / "model")
    (folder / "model" / "chat_template.jinja").unlink()
    return bad(preflight.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "model"))))


def resized(config: DictConfig, folder: Path, factor: float) -> str:
    shutil.copytree(config.actor_rollout_ref.model.path, folder / "model")
    described = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(
        json.dumps({**described, "vocab_size": int(factor * described["vocab_size"])})
    )
    return bad(preflight.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "model"))))


def no_model(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_policy(change(config, actor_rollout_ref__model__path=str(folder / "nothing"))))


def disk_too_small(config: DictConfig, folder: Path) -> str:
    # The header of a model of a trillion parameters, without their bytes.
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 0]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return bad(preflight.check_disk(change(config, actor_rollout_ref__model__path=str(folder))))


def key_of_ours(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_verl(change(config, sd_search__warmup=3))) + bad(
        preflight.check_keys(change(config, sd_search__warmup=3))
    )


def key_of_verl_in_a_file(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_keys(change(config, trainer__total_training_step=3)))


def section_in_a_file(config: DictConfig, folder: Path) -> str:
    return bad(preflight.check_keys(change(config, traner={"nnodes": 2})))


def key_on_the_command_line(config: DictConfig, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight.compose(["--config-name=paper", "sd_search.alfa=1"])
    return str(caught.value)


def whole_rollouts_in_a_short_block(config: DictConfig, folder: Path) -> str:
    values = {"sd_search__hindsight__content": "full", "data__max_response_length": 5632}
    return bad(preflight.check_hindsight(change(config, **values)))


FAILURES: list[tuple[Callable[[DictConfig, Path], str], list[str]]] = [
    (
        disk_too_small,
        ["GiB free at", "2 + 1 checkpoints of 11175.9 GiB need", "trainer.max_actor_ckpt_to_keep"],
    ),
    (
        key_of_ours,
        [
            "sd_search.warmup=3 is not a field. Fix: write sd_search.warmup",
            "did you mean warmup_steps?",
        ],
    ),
    (
        key_of_verl_in_a_file,
        ["trainer.total_training_step is a key that neither", "did you mean total_training_steps?"],
    ),
    (section_in_a_file, ["traner is a key that neither", "did you mean trainer?"]),
    (key_on_the_command_line, ["Could not override 'sd_search.alfa'", "Key 'alfa' is not in struct"]),
    (
        missing_column,
        ["bad.parquet has no column reward_model; it has data_source", "`sd-search data own NAME FILE`"],
    ),
    (
        whole_rollouts_in_a_short_block,
        [
            "sd_search.hindsight.max_tokens=1024 is less than data.max_response_length=5632",
            "the teacher equals the student",
            "set sd_search.hindsight.max_tokens to at least 5632, better 28160 for a group of 5",
        ],
    ),
    (no_such_file, ["none.parquet does not exist", "build it with `sd-search data build --out DIR`"]),
    (not_parquet, ["text.parquet is not parquet", "build it with `sd-search data build --out DIR`"]),
    (
        other_protocol,
        [
            "speak autorefine, but search.protocol=search_r1",
            "--protocol search_r1 of `sd-search data build` or `data own`, or set search.protocol",
        ],
    ),
    (too_few_rows, ["512 is more than the 8 rows of data.train_files", "lower it, or add rows"]),
    (no_chat_template, ["has no chat template", 'set "actor_rollout_ref.model.custom_chat_template=']),
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
    findings = [f for f in preflight.check_run(good) if not f.ok]
    assert [finding.name for finding in findings] == [f"retriever {UNLISTENED}"]


def test_a_block_of_queries_and_grpo_need_no_room_for_whole_rollouts(good: DictConfig) -> None:
    long = {"data__max_response_length": 5632}
    full = {**long, "sd_search__hindsight__content": "full"}
    assert [*preflight.check_hindsight(change(good, **long))] == []
    assert [*preflight.check_hindsight(change(good, **full, sd_search__alpha=0))] == []
    (finding,) = preflight.check_hindsight(change(good, **full, sd_search__hindsight__max_tokens=5632))
    assert finding.ok


def test_the_trainer_refuses_whole_rollouts_in_a_short_block(good: DictConfig) -> None:
    values = {"sd_search__hindsight__content": "full", "data__max_response_length": 5632}
    with pytest.raises(ConfigError, match=r"sd_search\.hindsight\.max_tokens=1024"):
        preflight.refuse_bad_start(change(good, **values))


def test_the_fix_for_a_missing_chat_template_works(good: DictConfig, tmp_path: Path) -> None:
    """The override, typed in a shell as it is printed, is one that Hydra takes; the template joins the messages."""
    message = no_chat_template(good, tmp_path)
    (override,) = shlex.split(message.split("set ", 1)[1].split(" for a base model")[0])
    config = preflight.compose(
        ["--config-name=cpu_demo", override, f"actor_rollout_ref.model.path={tmp_path}/model"]
    )
    assert [finding.ok for finding in preflight.check_policy(config)] == [True]
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
    assert all(finding.ok for finding in preflight.check_policy(config))


@pytest.mark.parametrize(
    ("values", "name", "says"),
    [
        (
            {"search__retriever_urls": UNLISTENED},
            "search section",
            f"must be a valid list. Fix: set search.retriever_urls=[{UNLISTENED}]",
        ),
        ({"search__protocol": "react"}, "search section", "search.protocol='react' must be"),
        ({"search": None}, "search section", "the config section 'search' is missing"),
        ({"sd_search__alpha": "0,3"}, "sd_search section", "sd_search.alpha='0,3' must be"),
        ({"sd_search": "default"}, "sd_search section", "so the plugin was not loaded"),
        (
            {"sd_search__use": "advantage", "sd_search__alpha": "x"},
            "sd_search section",
            "sd_search.alpha='x' must be",
        ),
    ],
)
def test_what_follows_from_a_refused_section_is_not_found_too(
    good: DictConfig, values: dict[str, object], name: str, says: str
) -> None:
    (finding,) = [one for one in preflight.check_run(change(good, **values)) if not one.ok]
    assert finding.fatal
    assert finding.name == name
    assert says in finding.found


def test_a_key_in_an_address_that_is_no_list_is_refused(good: DictConfig) -> None:
    (finding,) = preflight.check_addresses(change(good, search__retriever_urls="http://:hidden@b:1/retrieve"))
    assert "http://b:1/retrieve is given with a key" in finding.found
    assert "hidden" not in str(finding)


def test_several_machines_with_an_address_of_their_own_are_warned_about(good: DictConfig) -> None:
    urls = ["http://:hidden@127.0.0.1:8000/retrieve", "http://head:8000/retrieve"]
    two = change(good, trainer__nnodes=2, search__retriever_urls=urls)
    (finding,) = preflight.check_machines(two)
    assert finding.warning
    assert (
        "http://127.0.0.1:8000/retrieve is another server on every machine, and trainer.nnodes=2"
        in finding.found
    )
    assert not [*preflight.check_machines(change(two, trainer__nnodes=1))]
    rollouts = change(two, trainer__nnodes=1, actor_rollout_ref__rollout__nnodes=3)
    (finding,) = preflight.check_machines(rollouts)
    assert "actor_rollout_ref.rollout.nnodes=3" in finding.found
    assert not [*preflight.check_machines(change(two, trainer__nnodes="two", search__retriever_urls=urls[1]))]


def test_every_check_of_the_package_is_made() -> None:
    """A check that nobody calls would stand in docs/refused.md and refuse nothing."""
    folder = Path(preflight.__file__).parent
    texts = {path: path.read_text() for path in folder.glob("[!_]*.py")}
    made = {check.__name__ for check in (*preflight.CHECKS, *preflight.READING, *preflight.SLOW)}
    for path, text in texts.items():
        for name in re.findall(r"^def (check_\w+)\(", text, re.MULTILINE):
            called = any(f"{name}(" in other.replace(f"def {name}(", "") for other in texts.values())
            assert name in made or called, f"{path.name}: {name}"

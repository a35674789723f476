"""What a killed run goes on from: a whole checkpoint, and the next batch of questions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from support.engine import (
    batch_of,
    compose,
    full,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.tiny import byte_tokenizer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from sd_search_verl.errors import UserError
from sd_search_verl.verl_adapter.trainer.checkpoints import (
    BUFFER,
    TRACKER,
    before_saving,
    is_whole,
    point_to_whole_checkpoint,
    remove_surplus,
)

QUESTIONS, BATCH = 10, 3  # 3 batches an epoch, one question left over


def save(run: Path, step: int, mark: bool = True) -> Path:
    """A checkpoint in verl's form."""
    folder = run / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    for name in ("model", "optim", "extra_state"):
        torch.save({"x": torch.zeros(64)}, folder / "actor" / f"{name}_world_size_1_rank_0.pt")
    torch.save({"loader": step}, folder / "data.pt")
    if mark:
        (run / TRACKER).write_text(str(step))
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def latest(run: Path) -> str | None:
    point_to_whole_checkpoint(run)
    path = find_latest_ckpt_path(str(run))
    return Path(path).name if path else None


def test_a_whole_checkpoint_is_left_as_verl_names_it(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4, mark=False)  # a later one, of a run that was set back to 2
    assert latest(tmp_path) == "global_step_2"


@pytest.mark.parametrize("tracker", ["", "4", "6", None])
def test_the_tracker_is_mended(tmp_path: Path, tracker: str | None) -> None:
    """Killed while it was written; after its checkpoint was removed for the next; before it was ever written."""
    save(tmp_path, 2)
    gone = save(tmp_path, 4)
    shutil.rmtree(gone / "actor")
    (tmp_path / TRACKER).unlink() if tracker is None else (tmp_path / TRACKER).write_text(tracker)
    assert latest(tmp_path) == "global_step_2"


@pytest.mark.parametrize(
    "part", ["data.pt", "actor/model_world_size_1_rank_0.pt", "actor/optim_world_size_1_rank_0.pt"]
)
def test_half_a_checkpoint_is_not_taken(tmp_path: Path, part: str) -> None:
    save(tmp_path, 2)
    half = save(tmp_path, 4)
    cut(half / part)
    assert not is_whole(half)
    assert latest(tmp_path) == "global_step_2"
    (half / part).unlink()
    assert is_whole(half) == part.startswith("actor/optim")  # a run may be told to save no optimizer state


def test_a_checkpoint_of_which_some_shards_are_gone_is_not_taken(tmp_path: Path) -> None:
    """Killed while verl removed it to make room."""
    save(tmp_path, 2)
    half = save(tmp_path, 4)
    for kind in ("model", "optim", "extra_state"):
        for rank in range(4):
            name = f"{kind}_world_size_{{}}_rank_{rank}.pt"
            shutil.copy(half / "actor" / f"{kind}_world_size_1_rank_0.pt", half / "actor" / name.format(4))
    assert is_whole(half)
    (half / "actor" / "optim_world_size_4_rank_2.pt").unlink()
    assert not is_whole(half)
    assert latest(tmp_path) == "global_step_2"


def test_a_resumed_run_keeps_no_more_checkpoints_than_it_is_told_to(tmp_path: Path) -> None:
    """verl counts those only that its own process saved, and never removes a buffer of rollouts."""
    for step in (2, 4, 6, 8, 10):
        for part in ("critic", BUFFER):
            (save(tmp_path, step) if part == "critic" else tmp_path / f"global_step_{step}").joinpath(
                part
            ).mkdir()
    shutil.copytree(tmp_path / "global_step_2", tmp_path / "global_step_2_best")
    left = {"max_actor_ckpt_to_keep": None, "max_critic_ckpt_to_keep": None}
    remove_surplus(tmp_path, 8, OmegaConf.create(left))
    assert len(list(tmp_path.glob("*/actor"))) == 6
    remove_surplus(tmp_path, 8, OmegaConf.create(left | {"max_actor_ckpt_to_keep": 2}))

    def kept(part: str) -> set[str]:
        return {path.parent.name.removeprefix("global_step_") for path in tmp_path.glob(f"*/{part}")}

    # Step 10 is another run's, which this one went back from.
    assert kept("actor") == kept(BUFFER) == {"6", "8", "10", "2_best"}
    assert kept("critic") == {"2", "4", "6", "8", "10", "2_best"}
    assert all(is_whole(tmp_path / f"global_step_{step}") for step in (6, 8, 10))


def test_verl_alone_leaves_the_checkpoint_that_a_run_was_resumed_from(model: Path, tmp_path: Path) -> None:
    single_rank_environment()
    first, second = (str(tmp_path / f"global_step_{step}" / "actor") for step in (1, 2))
    make_worker(compose(model)).save_checkpoint(first, None, 1, max_ckpt_to_keep=1)
    resumed = make_worker(compose(model))
    resumed.load_checkpoint(first)
    resumed.save_checkpoint(second, None, 2, max_ckpt_to_keep=1)
    assert Path(first).exists()
    remove_surplus(tmp_path, 2, OmegaConf.create({"max_actor_ckpt_to_keep": 1}))
    assert [path.parent.name for path in tmp_path.glob("*/actor")] == ["global_step_2"]


def test_a_copy_of_a_checkpoint_under_another_name_is_none(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, 3), tmp_path / "global_step_3_best")
    (tmp_path / TRACKER).write_text("")
    assert latest(tmp_path) == "global_step_3"


def test_nothing_to_go_on_from_is_a_start_or_a_clear_error(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    (tmp_path / TRACKER).write_text("")
    cut(save(tmp_path, 2, mark=False) / "data.pt")
    assert latest(tmp_path) is None
    (tmp_path / TRACKER).write_text("2")
    with pytest.raises(UserError, match=r"names checkpoint '2', which is not whole.*resume_mode=disable"):
        latest(tmp_path)


def test_a_checkpoint_that_is_written_again_is_not_whole_meanwhile(tmp_path: Path) -> None:
    folder = save(tmp_path, 2)
    assert before_saving(tmp_path, 2) == folder
    assert not is_whole(folder)


def test_an_asynchronous_run_needs_its_buffer_of_rollouts(tmp_path: Path) -> None:
    """verl saves it after ``data.pt``; it moves the finished folder into place."""
    (save(tmp_path, 2) / BUFFER).mkdir()
    half = save(tmp_path, 4, mark=False)
    (half / f"{BUFFER}.tmp").mkdir()
    (tmp_path / TRACKER).write_text("")
    point_to_whole_checkpoint(tmp_path, buffered=True)
    assert (tmp_path / TRACKER).read_text() == "2"
    # A synchronous run goes on asynchronously from the checkpoint that verl names: it has no buffer.
    (tmp_path / TRACKER).write_text("4")
    point_to_whole_checkpoint(tmp_path, buffered=True)
    assert (tmp_path / TRACKER).read_text() == "4"
    before_saving(tmp_path, 2)
    assert not (tmp_path / "global_step_2" / BUFFER).exists()


def loader(model: Path, data: Path, shuffle: bool) -> PPOTrainerSync:
    """A new trainer of verl with its data loader."""
    files = data / "questions.parquet"
    if not files.exists():
        prompts = [[{"role": "user", "content": f"Question: {i}?"}] for i in range(QUESTIONS)]
        extra = [{"index": i} for i in range(QUESTIONS)]
        pd.DataFrame({"prompt": prompts, "data_source": "x", "extra_info": extra}).to_parquet(files)
    overrides = [f"data.train_files={files}", f"data.val_files={files}", f"data.train_batch_size={BATCH}"]
    overrides += [f"data.shuffle={shuffle}", "data.seed=7", "data.dataloader_num_workers=0"]
    trainer = PPOTrainerSync(compose(model, [*overrides, "data.filter_overlong_prompts=False"]))
    trainer.tokenizer, trainer.processor = byte_tokenizer(), None
    trainer._init_dataloader()
    return trainer


def batches(trainer: PPOTrainerSync, count: int) -> list[list[int]]:
    found = []
    for _ in range(count):
        batch: Any = trainer._fetch_one_gen_batch()
        found.append([int(index) for index in batch["index"]])
    return found


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_next_batch_is_the_one_that_would_have_come(model: Path, tmp_path: Path, shuffle: bool) -> None:
    """At every step of four epochs, ends of epochs included."""
    whole = loader(model, tmp_path, shuffle)
    steps = 4 * (QUESTIONS // BATCH)
    expected, states = [], []
    for _ in range(steps):
        expected += batches(whole, 1)
        states.append(whole.train_dataloader.state_dict())
    assert len({tuple(batch) for batch in expected}) > QUESTIONS // BATCH or not shuffle
    for step in range(1, steps):
        torch.save(states[step - 1], tmp_path / "data.pt")
        resumed = loader(model, tmp_path, shuffle)
        resumed.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
        assert batches(resumed, steps - step) == expected[step:], f"resumed after step {step}"


def test_weights_and_optimizer_go_on_bitwise(model: Path, tmp_path: Path) -> None:
    """Three updates in one go, against one, a checkpoint, a new worker and two more; warm-up of the rate included."""
    single_rank_environment()
    config = compose(
        model,
        [
            "actor_rollout_ref.actor.optim.lr_warmup_steps=4",
            "actor_rollout_ref.actor.optim.total_training_steps=8",
        ],
    )
    rows = recorded_rows(byte_tokenizer())

    def update(worker: Any, step: int) -> None:
        part = rows[4 * step : 4 * step + 8]
        worker.update_actor(batch_of(part, teacher_inputs(part, settings(), byte_tokenizer()), 0.3))

    whole, first = make_worker(config), make_worker(config)
    for step in range(3):
        update(whole, step)
    update(first, 0)
    first.save_checkpoint(str(tmp_path / "actor"), None, 1, None)
    resumed = make_worker(config)
    resumed.load_checkpoint(str(tmp_path / "actor"))
    for step in (1, 2):
        update(resumed, step)
    left, right = weights(whole), weights(resumed)
    assert any(not torch.equal(left[name], value) for name, value in weights(first).items())
    assert all(torch.equal(left[name], right[name]) for name in left)
    states = [worker.actor.engine.optimizer.state_dict() for worker in (whole, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for parameter, moments in states[0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(full(value), full(states[1]["state"][parameter][name])), (parameter, name)

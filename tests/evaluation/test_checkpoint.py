"""A checkpoint of verl's, in FSDP shards, becomes a model that an evaluation loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import sharded_ranks
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
from support.tiny import byte_tokenizer, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.model import find_weights, resolve_model
from sd_search_verl.fingerprint import fingerprint


class _Runs:
    """Makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.timeout(300)
def test_shards_are_merged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    single_rank_environment()
    start = save_tiny_model(tmp_path / "start")
    worker = make_worker(compose(start))
    step = tmp_path / "run" / "global_step_3"
    worker.save_checkpoint(str(step / "actor"))
    out = tmp_path / "out"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # whoever sets it for others' checkpoints
    merged = resolve_model(step, out)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    assert merged == out / f"model-{fingerprint(step / 'actor')}"
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (start, merged))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight.bfloat16(), after[name].bfloat16()), name  # as verl writes it
    assert len(AutoTokenizer.from_pretrained(merged)) == len(AutoTokenizer.from_pretrained(start))
    # A second start finds it; its actor folder is the same model.
    capsys.readouterr()
    assert resolve_model(step / "actor", out) == merged
    assert "merging" not in capsys.readouterr().err
    assert fingerprint(merged) != fingerprint(start)
    # Other weights at the same place are another model.
    shard = step / "actor" / "model_world_size_1_rank_0.pt"
    state = torch.load(shard, weights_only=False)
    next(value for name, value in state.items() if "mlp" in name)._local_tensor.add_(1.0)
    torch.save(state, shard)
    other = out / f"model-{fingerprint(step / 'actor')}"
    assert other != merged
    # A shard is a pickle: code in it does not run.
    torch.save(state | {"name": _Runs(tmp_path / "ran")}, shard)
    with pytest.raises(UserError, match="Weights only load failed"):
        resolve_model(step, out)
    assert not (tmp_path / "ran").exists()
    torch.save(state, shard)
    # A merge that was killed leaves a partial folder, which is not taken for a model.
    part = other.with_name(other.name + ".part")
    part.mkdir()
    (part / "model-00001-of-00002.safetensors").write_bytes(b"half")
    assert resolve_model(step, out) == other
    assert "merging" in capsys.readouterr().err
    assert not part.exists()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Base model, checkpoint of a worker with trained adapters, and the worker's weights."""
    single_rank_environment()
    folder = tmp_path_factory.mktemp("adapted")
    base = save_tiny_model(folder / "base")
    worker = make_worker(compose(base, [*sharded_ranks.ADAPTERS, "actor_rollout_ref.actor.optim.lr=1e-2"]))
    rows = recorded_rows(byte_tokenizer())[:8]
    inputs = teacher_inputs(rows, settings(), byte_tokenizer())
    for _ in range(4):
        worker.update_actor(batch_of(rows, inputs, 0.7))
    worker.save_checkpoint(str(folder / "global_step_2" / "actor"))
    return base, folder / "global_step_2", weights(worker)


@pytest.mark.timeout(300)
def test_adapters_are_merged_into_the_weights(
    adapted: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    base, step, trained = adapted
    merged = resolve_model(step, tmp_path)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
        for path in (base, merged)
    )
    assert before.keys() == after.keys()
    changed = 0
    for name, found in after.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before[name]
        if f"{stem}.lora_A.default.weight" in trained:
            update = trained[f"{stem}.lora_B.default.weight"] @ trained[f"{stem}.lora_A.default.weight"]
            assert float(update.abs().max()) > 0.01
            expected = expected + 2.0 * update  # scale = lora_alpha / rank = 8 / 4
            changed += 1
        # Base, update and sum are each rounded to bfloat16, which has 8 significant bits.
        assert torch.allclose(found, expected, rtol=2**-6, atol=2**-8 * float(expected.abs().max())), name
    assert changed == 14
    assert not any(path.is_dir() for path in merged.iterdir())


@pytest.mark.timeout(300)
def test_adapters_of_unknown_scale_are_refused(
    adapted: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    step = tmp_path / "global_step_2"
    shutil.copytree(adapted[1], step)
    (step / "actor" / "lora_train_meta.json").unlink()
    with pytest.raises(UserError, match="has no lora_alpha"):
        resolve_model(step, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.endswith(".part")]


def test_a_folder_of_adapters_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = save_tiny_model(tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(network, LoraConfig(r=4, target_modules="all-linear")).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(UserError, match="holds LoRA adapters"):
        find_weights(tmp_path / "adapter")
    # transformers would load adapters beside a model's weights, vLLM would not.
    shutil.copytree(tmp_path / "adapter", base, dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds LoRA adapters"):
        find_weights(base)


def test_models_that_differ_inside_a_large_file_are_told_apart(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weight = bytearray(8 << 20)
    (model / "model.safetensors").write_bytes(weight)
    before = fingerprint(model)
    weight[4 << 20] = 1
    (model / "model.safetensors").write_bytes(weight)
    assert fingerprint(model) != before


def test_a_model_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for length in (4, 1000, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model.safetensors is incomplete"):
            find_weights(model)
    file.write_bytes(whole)
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    with pytest.raises(UserError, match=r"model-2\.safetensors is missing"):
        find_weights(model)
    for name in ("3", '["model.safetensors"]', "null"):
        (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"x": {name}}}}}')
        with pytest.raises(UserError, match="has no weight_map"):
            find_weights(model)


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ([(2, 0)], r"has 1 of the shards of 2 ranks; rank 1 is missing.*Fix: copy the shards of every node"),
        ([(4, 0), (4, 1)], r"has 2 of the shards of 4 ranks; rank 2 is missing"),
        ([(2, 0), (2, 1), (4, 0)], r"holds shards of 2 and of 4 ranks.*Fix: remove"),
    ],
)
def test_shards_that_are_no_whole_checkpoint_are_refused(
    tmp_path: Path, shards: list[tuple[int, int]], says: str
) -> None:
    """Nodes without a shared disk keep the shards of their own ranks."""
    actor = tmp_path / "global_step_1" / "actor"
    actor.mkdir(parents=True)
    for size, rank in shards:
        (actor / f"model_world_size_{size}_rank_{rank}.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=says):
        find_weights(tmp_path / "global_step_1")

"""What a local run reads of its config before verl composes it."""

from pathlib import Path

import pytest
import torch

from sd_search_verl.errors import UserError
from sd_search_verl.launch.local import LocalRun, run_local, setting

CONFIGS = Path(__file__).resolve().parents[2] / "hydra_configs"


@pytest.mark.parametrize(
    ("config", "overrides", "device", "steps"),
    [
        ("cpu_demo", [], "cpu", 14),
        ("gpu_demo", [], "cuda", 14),
        ("cpu_demo", ["sd_search.alpha=0", "trainer.device=npu", "+trainer.device=cuda"], "cuda", 14),
        ("paper", [], None, 200),
        ("nothing", [], None, None),
    ],
)
def test_the_device_is_the_configs(
    config: str, overrides: list[str], device: str | None, steps: int | None
) -> None:
    job = LocalRun(Path("run"), Path("inputs"), CONFIGS, config, overrides=overrides)
    assert setting(job, "trainer.device") == device
    assert setting(job, "trainer.total_training_steps") == steps


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_config_for_a_gpu_is_refused_without_one(tmp_path: Path) -> None:
    for part in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        (tmp_path / part).touch()
    with pytest.raises(UserError, match=r"gpu_demo runs on trainer\.device=cuda, and no GPU is found here"):
        run_local(LocalRun(tmp_path / "run", tmp_path, CONFIGS, "gpu_demo"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("steps", "overrides", "message"),
    [
        (0, [], "--steps=0 must be a whole number, at least 1"),
        (-3, [], "--steps=-3 must be"),
        (
            None,
            ["trainer.total_training_steps=null"],
            r"total_training_steps=null must be .* Fix: give --steps",
        ),
        (None, ["++trainer.total_training_steps=many"], "total_training_steps=many must be"),
    ],
)
def test_a_number_of_steps_that_is_none_is_refused_before_anything_starts(
    tmp_path: Path, steps: int | None, overrides: list[str], message: str
) -> None:
    for part in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        (tmp_path / part).touch()
    job = LocalRun(tmp_path / "run", tmp_path, CONFIGS, "cpu_demo", steps, overrides)
    with pytest.raises(UserError, match=message):
        run_local(job)
    assert not (tmp_path / "run").exists()


def test_a_config_is_before_its_defaults_and_the_last_default_before_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\ny: 1\nz: 1\n")
    (tmp_path / "b.yaml").write_text("x: 2\ny: 2\n")
    (tmp_path / "c.yaml").write_text("defaults: [a, {group: b}, b, _self_]\nx: 3\n")
    job = LocalRun(tmp_path, tmp_path, tmp_path, "c")
    assert [setting(job, key) for key in "xyz"] == [3, 2, 1]

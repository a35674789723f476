"""Folders that the run could not write are refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.verl_adapter.preflight.disk import FOLDERS, check_disk


@pytest.mark.parametrize("option", FOLDERS)
def test_a_folder_that_cannot_be_made_is_refused(good: DictConfig, option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("/proc/run", f"{tmp_path}/file", f"{tmp_path}/file/run"):
        findings = check_disk(change(good, **{option.replace(".", "__"): folder}))
        refused = [finding for finding in findings if finding.fatal]
        assert [finding.name for finding in refused] == [option], folder
        assert f"{folder} cannot be written" in refused[0].found


@pytest.mark.parametrize("option", FOLDERS)
def test_an_address_in_place_of_a_folder_is_refused(good: DictConfig, option: str) -> None:
    findings = [*check_disk(change(good, **{option.replace(".", "__"): "s3://bucket/run"}))]
    (refused,) = [finding for finding in findings if finding.fatal]
    assert "is no folder of this machine" in refused.found
    assert "named 's3:'" in refused.found


def test_a_folder_that_does_not_exist_yet_is_not_made_by_the_check(good: DictConfig, tmp_path: Path) -> None:
    config = change(good, trainer__default_local_dir=str(tmp_path / "new" / "run"))
    assert all(finding.ok for finding in check_disk(config))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("values", "each"),
    [
        ({}, "11.2"),
        ({"model__lora_rank": 8}, "3.7"),  # Adam has moments of the adapters alone
        ({"actor__checkpoint__save_contents": ["model", "extra"]}, "3.7"),
    ],
    ids=str,
)
def test_a_checkpoint_is_as_large_as_what_is_in_it(
    good: DictConfig, tmp_path: Path, values: dict[str, Any], each: str
) -> None:
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [10**6, 10**3], "data_offsets": [0, 0]}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    changes = {f"actor_rollout_ref__{name}": value for name, value in values.items()}
    found = [*check_disk(change(good, **changes, actor_rollout_ref__model__path=str(tmp_path)))]
    assert f"checkpoints of {each} GiB" in found[-1].found

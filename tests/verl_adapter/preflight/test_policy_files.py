"""The policy's files are asked for once where no hub answers: each time takes half a minute of retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.verl_adapter.preflight import check_config, describe_run, policy_files


def test_a_hub_that_does_not_answer_is_asked_once(
    good: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def refuse(name: str, **_: Any) -> None:
        asked.append(name)
        # As transformers does, where neither the hub answers nor its cache holds the file.
        raise OSError("no connection") from None if Path(name).is_dir() else LocalEntryNotFoundError("")

    for kind in (transformers.AutoConfig, transformers.AutoTokenizer):
        monkeypatch.setattr(kind, "from_pretrained", refuse)
    monkeypatch.setattr(policy_files, "_unanswered", {})
    config = change(good, actor_rollout_ref__model__path="someone/model")
    (finding,) = [one for one in check_config(config) if one.fatal]
    assert "someone/model cannot be read: no connection" in finding.found
    assert "policy:    unknown (no connection)" in "\n".join(describe_run(config))
    assert asked == ["someone/model"]
    check_config(change(good, actor_rollout_ref__model__path=str(tmp_path)))
    assert len(asked) > 2  # a folder may be mended between two tries

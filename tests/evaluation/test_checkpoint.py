"""A checkpoint of verl's, in FSDP shards, becomes a model that an evaluation loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.engine import compose, make_worker, single_rank_environment
from support.tiny import save_tiny_model

from sd_search_verl.evaluation.model import resolve_model
from sd_search_verl.fingerprint import fingerprint


@pytest.mark.timeout(300)
def test_shards_are_merged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    single_rank_environment()
    start = save_tiny_model(tmp_path / "start")
    worker = make_worker(compose(start))
    step = tmp_path / "run" / "global_step_3"
    worker.save_checkpoint(str(step / "actor"))
    out = tmp_path / "out"
    merged = resolve_model(step, out)
    assert merged == out / "model"
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

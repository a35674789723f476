"""A run with nothing wrong but its retriever, and changes to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from sd_search_verl import protocol as protocols
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.world.config import CHECKPOINT

UNLISTENED = "http://127.0.0.1:9/retrieve"


def good_config(folder: Path) -> DictConfig:
    """Its config; questions and model lie in ``folder``."""
    return preflight.compose(good_inputs(folder))


def good_inputs(folder: Path) -> list[str]:
    """Write its questions and model into ``folder`` and return its command line."""
    protocol = protocols.get("search_r1")
    for name, word in (("questions", "question"), ("validation", "exercise")):  # of one length
        rows = [verl_row("nq", "train", i, str(i), f"{word} {i}", ["yes"], protocol) for i in range(8)]
        write_parquet(folder / f"{name}.parquet", rows)
    model = shutil.copytree(CHECKPOINT, folder / "model")
    described = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**described, "max_position_embeddings": 4096}))
    return [
        "--config-name=cpu_demo",
        f"data.train_files={folder}/questions.parquet",
        f"data.val_files={folder}/validation.parquet",
        f"actor_rollout_ref.model.path={model}",
        f"trainer.default_local_dir={folder}/run",
        f"search.retriever_urls=[{UNLISTENED}]",
        "search.timeout_s=0.1",
        "data.max_prompt_length=1024",  # the prompts are no text of the world: a token each byte
        "actor_rollout_ref.rollout.max_model_len=2048",
        "trainer.save_freq=7",
    ]


def change(config: DictConfig, **values: object) -> DictConfig:
    """A copy with other values; two underscores in a name stand for a dot."""
    changed = OmegaConf.create(OmegaConf.to_container(config))
    with open_dict(changed):
        for name, value in values.items():
            OmegaConf.update(changed, name.replace("__", "."), value, force_add=True)
    return changed

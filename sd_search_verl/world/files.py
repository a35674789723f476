"""The world on disk: the corpus a retriever indexes, the questions verl reads, and the model to train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sd_search_verl.config import read_config
from sd_search_verl.errors import UserError
from sd_search_verl.files import make_new_folder, read_json, write_json
from sd_search_verl.world import text
from sd_search_verl.world.config import CHECKPOINT, DIFFICULTY, WorldConfig
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.questions import questions

WORLD_FILE = "world.json"
"""File in a checkpoint's folder: the kind of world that it was trained for."""
ORACLE = "oracle.json"
"""File in a world's folder: its config and right phrasings."""


def write_difficulty(config: WorldConfig, checkpoint: Path) -> None:
    """Write the kind of world that a checkpoint was trained for beside it; the seed is left out."""
    fields = {name: value for name, value in config if name in DIFFICULTY}
    write_json(checkpoint / WORLD_FILE, fields)


def difficulty(checkpoint: Path) -> WorldConfig:
    """Return the kind of world that a checkpoint was trained for.

    Raises:
        UserError: the folder does not say, or names fields that a world does not have.
    """
    path = checkpoint / WORLD_FILE
    if not path.is_file():
        raise UserError(
            f"{checkpoint} holds no {WORLD_FILE}, so it was not made for a world; make one that is with: "
            "sd-search world warmstart --out NEW_FOLDER"
        )
    return read_config(WorldConfig, read_json(path), str(path))


def write_world(world: World, directory: Path, checkpoint: Path = CHECKPOINT) -> None:
    """Write ``corpus.jsonl``, ``{train,val}.parquet``, ``oracle.json`` and ``model/`` into ``directory``.

    Raises:
        UserError: ``checkpoint`` is no model, or ``directory`` holds files and no world.
    """
    if not (checkpoint / "config.json").is_file():
        raise UserError(
            f"{checkpoint} holds no model; make one with: sd-search world warmstart --out NEW_FOLDER"
        )
    if not (directory / ORACLE).is_file():
        make_new_folder(directory)
    write_json(directory / ORACLE, oracle(world))  # first: it marks a world's folder
    with (directory / "corpus.jsonl").open("w") as file:
        for index, contents in enumerate(world.passages()):
            file.write(json.dumps({"id": str(index), "contents": contents}) + "\n")
    for split in ("train", "val"):
        rows = [row(world, question, split, i) for i, question in enumerate(questions(world, split))]
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{split}.parquet")
    model = directory / "model"
    model.mkdir(exist_ok=True)
    for source in checkpoint.iterdir():
        shutil.copyfile(source, model / source.name)


def row(world: World, question: Question, split: str, index: int) -> dict[str, Any]:
    """Return a question in verl's RL format."""
    return {
        "data_source": "world",
        "prompt": text.prompt(question.text),
        "ability": "search",
        "reward_model": {"style": "rule", "ground_truth": {"target": [world.answer(question)]}},
        "extra_info": {
            "index": index,
            "split": split,
            "question": question.text,
            "hops": len(question.relations),
            "right_queries": world.right_queries(question),
        },
    }


def oracle(world: World) -> dict[str, Any]:
    """Return the world's config and, of every relation, the candidate phrasings and the right one."""
    relations = {
        relation: {"phrasings": list(world.phrasings(relation)), "right": world.right_phrasing(relation)}
        for relation in world.relations
    }
    return {"config": world.config.model_dump(), "relations": relations}

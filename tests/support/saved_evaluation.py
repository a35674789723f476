"""Folders as ``sd-search evaluate`` leaves them, made of given scores."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from sd_search_verl.evaluation.results import summarize
from support.scripted import rows_of


def save(
    folder: Path,
    sets: dict[str, list[int]],
    shuffled: bool = False,
    protocol: str = "p1",
    top_k: int = 3,
    texts: Sequence[str] = (),
    index: str = "a1",
) -> Path:
    folder.mkdir()
    rows = rows_of(sets)
    lines = [
        {
            "set": key[0],
            "id": key[1],
            "seed": key[2],
            "question": texts[int(key[1])] if texts else f"q{key[1]}",
            "golden_answers": ["g"],
            **row,
        }
        for key, row in rows.items()
    ]
    if shuffled:
        random.Random(0).shuffle(lines)
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"temperature": 1.0, "search": {"top_k": top_k}}
    results = {
        "protocol_hash": protocol,
        "questions": "same",
        "config": config,
        "retriever": {"version": index},
        **summarize(rows),
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder

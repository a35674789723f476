"""Good inputs of every command, for tests that then spoil one of them or the place of the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.world.compare import COLUMNS
from sd_search_verl import cli, protocol
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.world.config import CHECKPOINT
from support.faults import write_lines

REPO = Path(__file__).resolve().parents[1]
QUESTIONS = [{"question": f"who is {i}?", "golden_answers": [f"{i}"]} for i in range(3)]
PASSAGES = [{"id": str(i), "contents": f'"title {i}"\ntext {i}'} for i in range(3)]
TITLED = [{"doc_id": str(i), "title": f"title {i}", "text": f"text {i}"} for i in range(3)]
SD = cli.main
ANYWHERE = "http://127.0.0.1:9"


def write_inputs(folder: Path) -> Path:
    """Write inputs with which every command works; returns the folder."""
    write_lines(folder / "questions.jsonl", QUESTIONS)
    write_lines(folder / "corpus.jsonl", PASSAGES)
    write_lines(folder / "titled.jsonl", TITLED)
    form = protocol.get("search_r1")
    rows = [verl_row("s", "own", i, str(i), f"who is {i}?", ["a"], form) for i in range(3)]
    write_parquet(folder / "questions.parquet", rows)
    assert (
        cli.main(["data", "own", "s", str(folder / "questions.jsonl"), "--out", str(folder / "built")]) == 0
    )
    run = folder / "trained"
    run.mkdir()
    write_lines(run / "metrics.jsonl", [{"step": 1, "critic/score/mean": 0.5}])
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    scores = {"em": 1.0, "f1": 1.0, "cover_em": 1.0}
    row = {
        "set": "s",
        "id": "0",
        "seed": 0,
        "question": "q",
        **scores,
        "answer": "a",
        "golden_answers": ["a"],
    }
    write_lines(evaluation / "trajectories.jsonl", [row])
    seeds = {metric: {"values": {"0": 1.0}} for metric in scores}
    results = {"protocol_hash": "x", "questions": "y", "sets": {}, "seeds": seeds}
    (evaluation / "results.json").write_text(json.dumps(results))
    traces = [
        {"question": f"who is {i}?", "response": f"<search> {i} </search>", "golden_answers": ["a"]}
        for i in range(3)
    ]
    write_lines(folder / "traces.jsonl", traces)
    (folder / "source" / "nq").mkdir(parents=True)
    write_lines(
        folder / "source" / "nq" / "train.jsonl", [{"id": str(i), **row} for i, row in enumerate(QUESTIONS)]
    )
    (folder / "inputs").mkdir()  # the parts that `local` looks for
    for part in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        (folder / "inputs" / part).touch()
    (folder / "wiki").mkdir()
    shutil.copy(folder / "questions.jsonl", folder / "wiki" / "questions_nq.jsonl")
    (folder / "rows.csv").write_text(",".join(COLUMNS) + "\n")
    shutil.copytree(run, folder / "sd-seed0")
    (folder / "sd-seed0" / "world").mkdir()
    (folder / "sd-seed0" / "world" / "oracle.json").write_text('{"relations": {}}')
    return folder


def filled(line: str, good: Path, out: Path) -> list[str]:
    """Return a command's arguments, MODEL, OUT and the names of inputs replaced by paths."""
    return [
        str({"OUT": out, "MODEL": CHECKPOINT}.get(part, good / part if (good / part).exists() else part))
        for part in line.split()
    ]

"""``sd-search evaluate``: settings, questions, engine and retriever put together, and the files it leaves.

``run.json``           what was asked of what, written before the first question; a second start must agree with it
``trajectories.jsonl`` a line per episode, in the order in which they ended
``results.json``       the numbers; the same for the same trajectories
``timing.json``        latencies, which no second run repeats
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl import protocol as protocols
from sd_search_verl.data.questions import Question, read_questions
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import (
    EvaluationConfig,
    ResolvedConfig,
    identity,
    protocol_hash,
)
from sd_search_verl.evaluation.model import resolve_model
from sd_search_verl.evaluation.results import in_order, summarize, timing
from sd_search_verl.evaluation.run import ask_all
from sd_search_verl.evaluation.session import open_session
from sd_search_verl.evaluation.trajectories import TrajectoryFile
from sd_search_verl.fingerprint import fingerprint

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: ``questions`` are files with the name of their set, or None for the file's own."""

    model: Path
    questions: Sequence[tuple[str | None, Path]]
    out: Path
    settings: ResolvedConfig


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Ask what is not answered yet and write the results; returns them.

    Raises:
        ConfigError, FileNotFoundError, ValueError: the job cannot be done as given.
        RuntimeError: the folder holds another evaluation, or search failed too often.
    """
    config = job.settings.config
    protocol = protocols.get(config.search.protocol)
    questions = [
        question
        for name, path in job.questions
        for question in read_questions(path, name, protocol, config.sample)
    ]
    _refuse_shared_names(questions, job.questions)
    job.out.mkdir(parents=True, exist_ok=True)
    model = resolve_model(job.model, job.out)
    asked = _describe(job, model, questions)
    _check_same(job.out / "run.json", asked)
    keys = [(q.set, q.id, seed) for seed in config.seeds for q in questions]
    with TrajectoryFile(job.out / "trajectories.jsonl") as file:
        if any(key not in file.rows for key in keys):
            asyncio.run(_ask(questions, model, config, file))
        rows = in_order(file.rows, keys)
    results = {"format": FORMAT, **asked, **summarize(rows)}
    _write(job.out / "results.json", results)
    _write(job.out / "timing.json", timing(rows.values()))
    return results


async def _ask(
    questions: Sequence[Question], model: Path, config: EvaluationConfig, file: TrajectoryFile
) -> None:
    async with open_session(model, config) as session:
        await ask_all(questions, session.generate, session.search, session.tokenizer, config, file)


def _describe(job: Evaluation, model: Path, questions: Sequence[Question]) -> dict[str, Any]:
    """What the answers depend on. Where the retriever stands and how much runs at once does not belong to it."""
    config = identity(job.settings.config)
    training = job.settings.training
    return {
        "model": str(job.model),
        "model_fingerprint": fingerprint(model),
        "protocol": config["search"]["protocol"],
        "protocol_hash": protocol_hash(job.settings.config),
        "training_protocol_hash": protocol_hash(training) if training else None,
        "warnings": job.settings.warnings(),
        "config": config,
        "questions": _digest([dataclasses.asdict(question) for question in questions]),
    }


def _check_same(path: Path, asked: dict[str, Any]) -> None:
    """Write what is asked; where it was written before it must be the same."""
    if not path.exists():
        _write(path, asked)
        return
    before = json.loads(path.read_text())
    changed = [
        name for name in asked if name not in ("model", "warnings") and before.get(name) != asked[name]
    ]
    if changed:
        raise UserError(
            f"{path.parent} holds an evaluation with another {', '.join(changed)} (see {path.name}); "
            "choose another --out, or give what was given then"
        )


def _refuse_shared_names(questions: Sequence[Question], files: Sequence[tuple[str | None, Path]]) -> None:
    seen: set[tuple[str, str]] = set()
    for question in questions:
        if (question.set, question.id) in seen:
            raise UserError(
                f"question {question.id!r} of set {question.set!r} stands in two of "
                f"{', '.join(str(path) for _, path in files)}; name the sets apart: --questions NAME=FILE"
            )
        seen.add((question.set, question.id))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)

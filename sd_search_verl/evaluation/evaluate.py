"""``sd-search evaluate``: run questions through a checkpoint and write these files.

``run.json``           model, config, questions, retriever; written before the first question, and a restart must agree
``trajectories.jsonl`` a line per rollout, in order of completion
``results.json``       the metrics; equal trajectories give an equal file
``timing.json``        latencies, apart because no second run repeats them
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl.data.questions import Question, read_questions
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import (
    EvaluationConfig,
    ResolvedConfig,
    digest,
    identity,
    protocol_hash,
)
from sd_search_verl.evaluation.engine import open_session
from sd_search_verl.evaluation.model import find_weights, resolve_model
from sd_search_verl.evaluation.results import ordered, summarize, timing
from sd_search_verl.evaluation.run import run_questions
from sd_search_verl.evaluation.trajectories import TrajectoryFile
from sd_search_verl.files import read_json, write_json
from sd_search_verl.fingerprint import fingerprint
from sd_search_verl.retriever_client.identity import Identity, IndexWatch, identify
from sd_search_verl.rollout.dialogue import protocol_of

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate. ``questions``: files with the name of their set, or None for the file's own."""

    model: Path
    questions: Sequence[tuple[str | None, Path]]
    out: Path
    resolved: ResolvedConfig


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Run the questions that have no trajectory yet, write the results and return them.

    Raises:
        UserError: the job cannot be done as given, the folder holds another evaluation, or search failed too often.
    """
    config = job.resolved.config
    protocol = protocol_of(config.search)
    questions = [
        question
        for name, path in job.questions
        for question in read_questions(path, name, protocol, config.sample)
    ]
    _refuse_shared_names(questions, job.questions)
    job.out.mkdir(parents=True, exist_ok=True)
    run = job.out / "run.json"
    keys = [(q.set, q.id, seed) for seed in config.seeds for q in questions]
    with TrajectoryFile(job.out / "trajectories.jsonl") as file:
        if file.rows and not run.is_file():
            raise UserError(
                f"{run} is missing, which says how the rollouts in trajectories.jsonl were made. Fix: restore it, or "
                "choose another --out"
            )
        missing = any(key not in file.rows for key in keys)
        asked = _describe(job, questions)
        asked["retriever"] = identify(config.search.retriever_urls) if missing else None
        asked = _check_same(run, asked)
        if missing:
            asyncio.run(_ask(questions, resolve_model(job.model, job.out), config, file, asked["retriever"]))
        rows = ordered(file.rows, keys)
    results = {"format": FORMAT, **asked, **summarize(rows)}
    write_json(job.out / "results.json", results)
    write_json(job.out / "timing.json", timing(rows.values()))
    return results


async def _ask(
    questions: Sequence[Question],
    model: Path,
    config: EvaluationConfig,
    file: TrajectoryFile,
    retriever: Identity,
) -> None:
    async with open_session(model, config, questions) as session:
        watch = IndexWatch(session.search, config.search.retriever_urls, retriever)
        await run_questions(questions, dataclasses.replace(session, search=watch.search), config, file)


def _describe(job: Evaluation, questions: Sequence[Question]) -> dict[str, Any]:
    """Return everything that an answer depends on; see :func:`.config.identity`."""
    config = identity(job.resolved.config)
    training = job.resolved.training
    return {
        "model": str(job.model),
        "model_fingerprint": fingerprint(find_weights(job.model)),
        "protocol": config["search"]["protocol"],
        "protocol_hash": protocol_hash(job.resolved.config),
        "training_protocol_hash": protocol_hash(training) if training else None,
        "warnings": job.resolved.warnings(),
        "config": config,
        "questions": digest([dataclasses.asdict(question) for question in questions]),
    }


def _check_same(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Write ``run.json``, or require that it holds the same; return the content.

    The retriever is None, and taken from the file, where no question is left to ask.
    """
    before = read_json(path) if path.exists() else None
    if before is None:
        write_json(path, asked)
        return asked
    if asked["retriever"] is None:
        asked = {**asked, "retriever": before.get("retriever")}
    changed = [
        name for name in asked if name not in ("model", "warnings") and before.get(name) != asked[name]
    ]
    if changed:
        raise UserError(
            f"{path.parent} holds an evaluation with another {', '.join(changed)} (see {path.name}); "
            "choose another --out, or give what was given then"
        )
    return asked


def _refuse_shared_names(questions: Sequence[Question], files: Sequence[tuple[str | None, Path]]) -> None:
    seen: set[tuple[str, str]] = set()
    for question in questions:
        if (question.set, question.id) in seen:
            raise UserError(
                f"question {question.id!r} of set {question.set!r} stands in two of "
                f"{', '.join(str(path) for _, path in files)}; name the sets apart: --questions NAME=FILE"
            )
        seen.add((question.set, question.id))

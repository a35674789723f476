"""``sd-search probe``: groups of rollouts in, the four numbers and the verdict out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl import protocol as protocols
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import read_settings
from sd_search_verl.evaluation.evaluate import Evaluation, evaluate
from sd_search_verl.evaluation.model import resolve_model
from sd_search_verl.files import read_json
from sd_search_verl.hindsight.block import is_correct
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.groups import Group, read_groups
from sd_search_verl.probe.measures import SENTENCES, Measures, describe, verdict
from sd_search_verl.probe.scores import load_model, score_groups
from sd_search_verl.runs.schema import OPTIONS_FILE
from sd_search_verl.table import render


@dataclass(frozen=True)
class Probe:
    """What to probe. Rollouts come from ``traces``, or are made: of ``questions``, with ``retrievers``."""

    model: Path
    config: ProbeConfig
    traces: Path | None = None
    questions: Path | None = None
    retrievers: Sequence[str] = ()


def probe(job: Probe) -> dict[str, Any]:
    """Score the groups of a job.

    Returns:
        ``label_sensitivity``, ``copy_share``, ``sign_accuracy``, ``leave_one_out_gain`` as ``{mean, low, high, n}``,
        ``verdict`` in words, ``reasons``, ``conditions`` with the means of every block, and what was scored.

    Raises:
        UserError: no model, no groups of several rollouts, nothing to make them from, or too much.
    """
    if job.traces and (job.questions or job.retrievers):
        raise UserError(
            "--traces gives the rollouts: --questions and --retriever would make others. Fix: leave out either"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = resolve_model(job.model, Path(folder))
        traces = job.traces or _make_rollouts(job, path, Path(folder))
        model, tokenizer = load_model(path, job.config)
        protocol, template = protocols.get(job.config.protocol), json.loads(job.config.chat_template_kwargs)
        read = read_groups(traces, tokenizer, protocol, template)
    several = [group for group in read if len(group) > 1]
    if not several:
        raise UserError(
            f"{traces} holds one rollout of each question, and a block is made of a group's. Fix: rollouts of several "
            "seeds at a temperature above 0"
        )
    groups = _chosen(several, job.config)
    scored = score_groups(model, tokenizer, groups, job.config)
    if not any(scored):
        raise UserError(f"{traces}: no rollout has a query that fits the model's context")
    credits = [reading.credit for group in scored for one in group for reading in one.readings.values()]
    if not all(credit.isfinite().all() for credit in credits):
        raise UserError(
            f"the probabilities of {job.model} are not finite: its weights hold NaN or infinite values. Fix: another "
            "checkpoint"
        )
    found = Measures.of(scored)
    short, reasons = verdict(found)
    return {
        **found.as_dict(),
        "verdict": SENTENCES[short],
        "reasons": reasons,
        "conditions": describe(scored),
        "groups": len(groups),
        "groups_of_one": len(read) - len(several),
        "mixed_groups": sum(_mixed(group, job.config) for group in groups),
        "rollouts": sum(map(len, groups)),
        "scored_rollouts": sum(map(len, scored)),
        "query_tokens": sum(len(rollout.tokens) for group in scored for rollout in group),
        "device": str(model.device),
        "config": json.loads(job.config.model_dump_json()),
        "other_block": _other_block(job),
    }


def table(found: dict[str, Any]) -> str:
    """Return the result as text for the terminal."""
    conditions = [["block", "JSD", "entropy gap", "credit, CORRECT", "credit, INCORRECT"]]
    conditions += [[name, *map(_number, values.values())] for name, values in found["conditions"].items()]
    numbers = [["", "mean", "low", "high", "groups"]]
    numbers += [
        [
            name.replace("_", " "),
            *(_number(found[name][key]) for key in ("mean", "low", "high")),
            str(found[name]["n"]),
        ]
        for name in Measures.__dataclass_fields__
    ]
    counts = (
        f"{found['scored_rollouts']} of {found['rollouts']} rollouts scored, in {found['groups']} groups, "
        f"{found['mixed_groups']} with both outcomes; {found['query_tokens']} query tokens"
    )
    if found["groups_of_one"]:
        counts += f"; {found['groups_of_one']} questions with one rollout left out"
    reasons = [f"- {reason}" for reason in found["reasons"]]
    if found["other_block"]:
        reasons.append(
            f"- the run had another block: --set {' '.join(found['other_block'])} reads with that one"
        )
    verdict_line = f"This policy {found['verdict']}."
    return "\n".join([render(conditions), "", render(numbers), "", counts, "", verdict_line, *reasons])


def _other_block(job: Probe) -> list[str]:
    """Return the run's options of the block that are not those of the probe, where a run folder holds them."""
    folders = [path.parent for path in (job.traces, job.model) if path is not None]
    options = next((folder / OPTIONS_FILE for folder in folders if (folder / OPTIONS_FILE).is_file()), None)
    if options is None:
        return []
    run, read = read_json(options), json.loads(job.config.hindsight.model_dump_json())
    values = {name: run[key] for name in read if (key := f"sd_search.hindsight.{name}") in run}
    changed = {name: value for name, value in values.items() if value != read[name]}
    return [f"hindsight.{name}={'null' if value is None else value}" for name, value in changed.items()]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _chosen(groups: list[Group], config: ProbeConfig) -> list[Group]:
    """Return the first groups, those with both outcomes first."""
    return sorted(groups, key=lambda group: not _mixed(group, config))[: config.groups]


def _mixed(group: Group, config: ProbeConfig) -> bool:
    return len({is_correct(rollout, config.hindsight) for rollout in group}) > 1


def _make_rollouts(job: Probe, model: Path, folder: Path) -> Path:
    """Ask every question ``size`` times at temperature 1; return the file of trajectories."""
    if job.questions is None or not job.retrievers:
        raise UserError(
            "there is nothing to probe with. Fix: give --traces FILE of recorded rollouts, or --questions FILE and "
            "--retriever URL to make some"
        )
    config = job.config
    seeds = [config.seed + i for i in range(config.size)]
    options = [
        f"seeds={seeds}",
        "temperature=1.0",
        f"search.protocol={config.protocol}",
        f"chat_template_kwargs={config.chat_template_kwargs}",
        "gpu_memory_utilization=0.5",
    ]
    if config.groups is not None:
        options.append(f"sample={config.groups}")
    settings = read_settings(None, options, job.retrievers)
    evaluate(Evaluation(model, [(None, job.questions)], folder / "rollouts", settings))
    return folder / "rollouts" / "trajectories.jsonl"

"""``sd-search compare``: paired differences of two systems, each with one evaluation or several (training seeds)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.results import METRICS, per_question
from sd_search_verl.evaluation.schema import Results, Row
from sd_search_verl.evaluation.spread import over_runs, spread_of
from sd_search_verl.evaluation.statistics import (
    Estimate,
    bootstrap,
    macro_average,
    micro_average,
    signed_percent,
)
from sd_search_verl.evaluation.trajectories import Key, read_trajectories
from sd_search_verl.files import read_json
from sd_search_verl.table import render

Scores = dict[str, dict[str, float]]
"""Set -> question id -> mean score over seeds and runs."""


@dataclass(frozen=True)
class Run:
    """A finished evaluation, read from its folder."""

    folder: Path
    results: dict[str, Any]
    rows: dict[Key, dict[str, Any]]


def read_run(folder: Path) -> Run:
    """Return the evaluation in a folder.

    Raises:
        UserError: it holds none that has finished, or a part of one.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: no evaluation has finished in {folder}")
    results = read_json(path)
    try:
        Results.model_validate(results)
    except ValidationError as error:
        raise UserError(
            f"{path} holds no results of `sd-search evaluate` ({_first(error)}). Fix: evaluate into {folder} again"
        ) from None
    rows = read_trajectories(folder / "trajectories.jsonl")
    if not rows:
        raise UserError(
            f"{folder / 'trajectories.jsonl'} is missing or empty. Fix: evaluate into {folder} again"
        )
    _check_rows(folder / "trajectories.jsonl", rows, results)
    return Run(folder, results, rows)


def _check_rows(path: Path, rows: Mapping[Key, Mapping[str, Any]], results: Mapping[str, Any]) -> None:
    """Check the fields of every row, and that no question and seed of the results is missing."""
    asked = Counter((name, seed) for name, _, seed in rows)
    for (name, question, seed), row in rows.items():
        try:
            Row.model_validate(row)
        except ValidationError as error:
            raise UserError(
                f"{path}: set {name}, question {question}, seed {seed}: {_first(error)}. Fix: remove the line and "
                "evaluate again, which asks that question alone"
            ) from None
    seeds = [int(seed) for seed in results["seeds"]["em"]["values"]]
    for (name, of_set), seed in product(results["sets"].items(), seeds):
        if asked[name, seed] < (expected := of_set.get("questions", 0)):
            raise UserError(
                f"{path} has {asked[name, seed]} of the {expected} questions of set {name}, seed {seed}. "
                "Fix: copy it again, or evaluate again, which asks the others"
            )


def _first(error: ValidationError) -> str:
    """Return field and rule of pydantic's first error."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"


def compare(a: Sequence[Run], b: Sequence[Run]) -> dict[str, Any]:
    """Return paired differences B - A of every metric, the questions whose EM changed, and warnings.

    Raises:
        UserError: no question is common to both.
    """
    by_text = _ids_disagree(a, b)
    if by_text:
        a, b = ([_keyed_by_text(run) for run in side] for side in (a, b))
    sides = {"a": [str(run.folder) for run in a], "b": [str(run.folder) for run in b]}
    result: dict[str, Any] = {"runs": sides, "metrics": {}, "warnings": _warnings(a, b)}
    if by_text:
        result["warnings"].append(
            "one id names different questions in the evaluations; they are paired by text"
        )
    alone = [len(one - other) for one, other in ((_asked(a), _asked(b)), (_asked(b), _asked(a)))]
    if any(alone):
        result["warnings"].append(
            f"{alone[0]} questions of A and {alone[1]} of B are not in the other, and not compared"
        )
    rows = [[run.rows for run in side] for side in (a, b)]
    for metric in METRICS:
        before, after = _common(_mean_scores(a, metric), _mean_scores(b, metric))
        differences = {
            name: [after[name][question] - score for question, score in questions.items()]
            for name, questions in before.items()
        }
        of_runs = over_runs(rows[0], rows[1], metric, before)
        result["metrics"][metric] = {
            "sets": {
                name: {
                    "a": fmean(before[name].values()),
                    "b": fmean(after[name].values()),
                    **bootstrap(of_set).as_dict(),
                }
                for name, of_set in differences.items()
            },
            "macro": macro_average(differences).as_dict(),
            "micro": micro_average(differences).as_dict(),
            "spread": {"a": spread_of(rows[0], metric, before), "b": spread_of(rows[1], metric, after)},
            "over_runs": of_runs,
        }
    result["changed"] = _changed(a, b)
    return result


def table(result: Mapping[str, Any], shown: int) -> str:
    """Return the comparison as text, with the first ``shown`` questions gained and lost."""
    parts = [f"{side.upper()}: {', '.join(folders)}" for side, folders in result["runs"].items()]
    parts += [f"warning: {warning}" for warning in result["warnings"]]
    parts += [*_legend(result["metrics"]["em"]["over_runs"]), ""]
    for metric, label in METRICS.items():
        values = result["metrics"][metric]
        parts.append(render(_lines(label, values)))
        for side, spread in values["spread"].items():
            if len(spread["values"]) > 1:
                mean, sd = 100 * spread["mean"], 100 * spread["sd"]
                count = f"{len(spread['values'])} {spread['over']}"
                parts.append(f"{side.upper()}: macro average {mean:.1f} ± {sd:.1f} (s.d. of {count})")
        parts.append("")
    for direction in ("gained", "lost"):
        questions = [q for q in result["changed"] if (q["difference"] > 0) == (direction == "gained")]
        right = "B is right more often than A" if direction == "gained" else "A is right more often than B"
        parts.append(f"{len(questions)} questions {direction} in EM ({right})")
        for q in questions[:shown]:
            parts.append(f"  {q['set']}/{q['id']}  {q['question']}\n    A: {q['a']}  B: {q['b']}")
            parts.append(f"    golden: {', '.join(q['golden_answers'][:4])}")
    return "\n".join(parts)


def _legend(of_runs: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield what each interval covers."""
    yield (
        "%; B - A is paired by question, with a 95% bootstrap interval over questions: what other questions would give "
        "with these very runs, not what other trainings would"
    )
    if of_runs:
        yield f"over {of_runs['over']}: 95% t interval, what other trainings would give with these questions"
    else:
        yield "to speak of methods, give several runs of other seeds on both sides: compare A1 A2 --with B1 B2"


def _lines(label: str, values: Mapping[str, Any]) -> list[list[str]]:
    """Return a metric's table: a line per set and average, and a column over runs where both sides have several."""
    sets, of_runs = values["sets"], values["over_runs"]
    averages = ("macro", "micro") if len(sets) > 1 else ()
    rows = [(name, [f"{100 * found[side]:.1f}" for side in "ab"], found) for name, found in sets.items()]
    rows += [(f"{average} average", ["", ""], values[average]) for average in averages]
    lines = [[label, "n", "A", "B", "B - A"]]
    lines += [[name, str(found["n"]), *sides, _difference(found)] for name, sides, found in rows]
    if of_runs is None:
        return lines
    column = [*(of_runs["sets"][name] for name in sets), *(of_runs[average] for average in averages)]
    cells = [f"over {of_runs['over']}", *map(_difference, column)]
    return [[*line, cell] for line, cell in zip(lines, cells, strict=True)]


def _difference(found: Mapping[str, Any] | None) -> str:
    keys = ("mean", "low", "high", "n")
    return signed_percent(Estimate(*(found[key] for key in keys))) if found else "-"


def _asked(runs: Sequence[Run]) -> set[tuple[str, str]]:
    return {key[:2] for run in runs for key in run.rows}


def _ids_disagree(a: Sequence[Run], b: Sequence[Run]) -> bool:
    """Return whether one set and id names two questions, as line numbers do in files of another order."""
    texts: dict[tuple[str, str], str] = {}
    rows = (item for run in (*a, *b) for item in run.rows.items())
    return any(texts.setdefault(key[:2], row["question"]) != row["question"] for key, row in rows)


def _keyed_by_text(run: Run) -> Run:
    """Return the run with the question's text in place of its id, numbered where a set asks one text repeatedly."""
    rows: dict[Key, dict[str, Any]] = {}
    repeats: dict[Key, int] = {}
    for (name, _, seed), row in sorted(
        run.rows.items(), key=lambda item: (item[1]["golden_answers"], item[0])
    ):
        key = (name, row["question"], seed)
        repeats[key] = repeats.get(key, 0) + 1
        text = row["question"] if repeats[key] == 1 else f"{row['question']} ({repeats[key]})"
        rows[name, text, seed] = row
    return replace(run, rows=rows)


def _mean_scores(runs: Sequence[Run], metric: str) -> Scores:
    """Return a question's score, a mean over the runs that asked it."""
    every: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for name, questions in per_question(run.rows, metric).items():
            for question, score in questions.items():
                every.setdefault(name, {}).setdefault(question, []).append(score)
    return {name: {q: fmean(scores) for q, scores in of_set.items()} for name, of_set in every.items()}


def _common(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """Return both restricted to their common questions, in one order: an interrupted run has another than the file."""
    both = {name: sorted(q for q in a[name] if q in b[name]) for name in a if name in b}
    both = {name: questions for name, questions in both.items() if questions}
    if not both:
        raise UserError("the evaluations have no question in common; compare runs of the same question files")
    first, second = ({name: {q: s[name][q] for q in qs} for name, qs in both.items()} for s in (a, b))
    return first, second


def _changed(a: Sequence[Run], b: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the questions whose mean EM differs, with the answers of both sides."""
    before, after = _common(_mean_scores(a, "em"), _mean_scores(b, "em"))
    rows = [_by_question(runs) for runs in (a, b)]
    found = []
    for name, questions in before.items():
        for question, score in questions.items():
            if (difference := after[name][question] - score) != 0:
                # Of several seeds, answers that show the difference.
                picks = (min, max) if difference > 0 else (max, min)
                first, second = (
                    pick(of_side[name, question], key=lambda row: row["em"])
                    for pick, of_side in zip(picks, rows, strict=True)
                )
                found.append(
                    {
                        "set": name,
                        "id": question,
                        "question": first["question"],
                        "golden_answers": first["golden_answers"],
                        "difference": difference,
                        "a": first["answer"],
                        "b": second["answer"],
                    }
                )
    return found


def _by_question(runs: Sequence[Run]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        for key, row in run.rows.items():
            rows.setdefault(key[:2], []).append(row)
    return rows


def _warnings(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    runs = [*a, *b]
    found = []
    for name, meaning in (("protocol_hash", "protocols"), ("questions", "questions")):
        values = {run.results[name] for run in runs}
        if len(values) > 1:
            found.append(f"the evaluations have different {meaning} ({', '.join(sorted(values))})")
    retrievers = {json.dumps(run.results.get("retriever"), sort_keys=True) for run in runs}
    if len(retrievers) > 1:
        found.append(f"the evaluations have different retrievers ({', '.join(sorted(retrievers))})")
    options = [_options(run.results.get("config", {})) for run in runs]
    names = sorted(set().union(*options) - {"seeds"})
    if changed := [name for name in names if len({str(of_run.get(name)) for of_run in options}) > 1]:
        found.append(f"the evaluations have different options: {', '.join(changed)}")
    return found


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by dotted name."""
    search = {f"search.{name}": value for name, value in config.get("search", {}).items()}
    return {**{name: value for name, value in config.items() if name != "search"}, **search}

"""Credit of the queries of a run in the synthetic world, beside the oracle's and GRPO's advantage.

``python -m benchmarks.world.credit RUN`` counts, per kind of group, how often the sign of a query's credit and of its
rollout's advantage is right: positive for the right wording of a hop, negative for a wrong one. ``--question TEXT``
prints one group.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.table import write_rows
from benchmarks.world.from_runs import relations_of
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.errors import UserError
from sd_search_verl.report.trajectories import question
from sd_search_verl.runs.reader import read_traces
from sd_search_verl.runs.schema import Trace
from sd_search_verl.table import render

KINDS = ("mixed", "all incorrect", "all correct")


@dataclass(frozen=True)
class Decision:
    """The wording of one query.

    Attributes:
        credit: log-probability by the teacher minus that by the student, summed over the query's tokens, in nats.
        divergence: JSD at these tokens, in nats, summed.
        advantage: GRPO's, of the whole rollout: reward minus the group's mean over its standard deviation.
    """

    step: int
    question: str
    kind: str
    rollout: int
    outcome: str
    query: str
    right: bool
    credit: float
    divergence: float
    advantage: float


def decisions(run: Path) -> Iterator[Decision]:
    """Yield the scored queries of a run whose world lies in ``RUN/world``."""
    oracle = json.loads((run / "world" / "oracle.json").read_text(encoding="utf-8"))["relations"]
    traces = read_traces(run)
    groups: dict[tuple[int, str], list[Trace]] = {}
    for trace in traces.load(traces.refs):
        groups.setdefault((trace.step, trace.group), []).append(trace)
    for group in groups.values():
        yield from _group(group, {relation: one["right"] for relation, one in oracle.items()})


def _group(group: Sequence[Trace], right: dict[str, str]) -> Iterator[Decision]:
    rewards = [trace.score for trace in group]
    kind = KINDS[0] if 0 < sum(trace.f1 > 0 for trace in group) < len(group) else KINDS[1 + (group[0].f1 > 0)]
    spread = statistics.stdev(rewards) if len(set(rewards)) > 1 else 0.0
    for number, trace in enumerate(group, start=1):
        advantage = (trace.score - statistics.fmean(rewards)) / spread if spread else 0.0
        asked = question(trace.prompt)
        scored = zip(
            relations_of(asked), trace.queries, trace.credit or (), trace.divergence or (), strict=False
        )
        for relation, query, credit, divergence in scored:
            yield Decision(
                step=trace.step,
                question=asked,
                kind=kind,
                rollout=number,
                outcome="CORRECT" if trace.f1 > 0 else "INCORRECT",
                query=query,
                right={*right[relation].split()} <= {*query.split()},
                credit=round(sum(value or 0.0 for value in credit), 3),
                divergence=round(sum(value or 0.0 for value in divergence), 4),
                advantage=round(advantage, 3),
            )


def shares(found: Iterable[Decision]) -> list[dict[str, object]]:
    """Return, per kind of group, decisions and the share whose credit and whose advantage has the right sign."""
    rows: list[dict[str, object]] = []
    by_kind: dict[str, list[Decision]] = {kind: [] for kind in KINDS}
    for one in found:
        by_kind[one.kind].append(one)
    for kind, of_kind in by_kind.items():
        if of_kind:
            rows.append(
                {
                    "kind": kind,
                    "queries": len(of_kind),
                    "credit": _share((one.credit > 0) == one.right for one in of_kind),
                    "advantage": _share(
                        (one.advantage > 0) == one.right and one.advantage != 0 for one in of_kind
                    ),
                    "mean_divergence": round(statistics.fmean(one.divergence for one in of_kind), 4),
                }
            )
    return rows


def _share(values: Iterable[bool]) -> float:
    return round(statistics.fmean(values), 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.world.credit", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run of the demo, with traces.jsonl and world/")
    parser.add_argument("--question", help="print the queries of this question's group (default: none)")
    parser.add_argument(
        "--step", type=int, metavar="STEP", help="with --question: of this step (default: all)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="table of all queries to write (default: none)"
    )
    parser.set_defaults(action=_main)
    return run_command(parser, argv)


def _main(options: argparse.Namespace) -> int:
    found = list(decisions(options.run))
    if not found:
        raise UserError(f"{options.run} has no scored query; give a run that was trained with SD-Search")
    rows = shares(found)
    print(render([[*rows[0]], *([str(value) for value in row.values()] for row in rows)]))
    chosen = [d for d in found if d.question == options.question and options.step in (None, d.step)]
    if chosen:
        heads = [field.name for field in fields(Decision)][3:]
        print(render([heads, *([str(asdict(one)[name]) for name in heads] for one in chosen)]))
    if options.csv:
        device = {"device": "main_ppo, 2 CPU cores"}
        write_rows(options.csv, (device | asdict(one) for one in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

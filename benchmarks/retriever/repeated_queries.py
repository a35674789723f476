"""How many search queries of recorded rollouts had been asked before about the same question: what a cache can save.

    python -m benchmarks.retriever.repeated_queries --data DIR

``DIR/wiki18-mini/trajectories_nq.jsonl.gz`` holds one rollout of each of two agents for every question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import command_parser
from benchmarks.cost.trajectories import records
from sd_search_verl.protocol import get


def repeats(queries: Sequence[tuple[str, str]]) -> int:
    """Return the (question, query) pairs that occurred before."""
    return len(queries) - len(set(queries))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded trajectories")
    options = parser.parse_args()
    protocol = get("search_r1")
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in records(options.data):
        found = protocol.parse(record["response"]).queries
        asked[record["run"]] += [(record["id"], query.strip()) for query in found]
    together = [pair for pairs in asked.values() for pair in pairs]
    for name, pairs in {**asked, "together": together}.items():
        count = repeats(pairs)
        print(
            f"{name:>10} {len(pairs)} queries, {count} asked before about the same question ({count / len(pairs):.0%})"
        )


if __name__ == "__main__":
    main()

"""How often a golden answer stands in the top 3 documents, per question set and server.

    python -m benchmarks.retriever.gold --server bm25=http://127.0.0.1:8000 --questions DIR

``DIR`` holds ``questions_*.jsonl`` with ``question`` and ``golden_answers``; the question itself is the query. Rows go
to ``benchmarks/retriever/gold.csv``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import string
import urllib.request
from pathlib import Path

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows, read_json_lines

PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))


def normalise(text: str) -> str:
    """Return text in lower case without punctuation and articles, with single spaces and one at both ends.

    Punctuation parts words here, and not in ``sd_search_verl.scoring``: 16 of 3,000 questions differ.
    """
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()
    return f" {' '.join(words)} "


def search(url: str, queries: list[str]) -> list[list[str]]:
    """Return the contents of the top 3 documents of each query."""
    found = []
    for start in range(0, len(queries), 100):
        body = json.dumps({"queries": queries[start : start + 100], "topk": 3}).encode()
        with urllib.request.urlopen(f"{url}/retrieve", body, timeout=120) as response:
            found += [[item["contents"] for item in items] for items in json.loads(response.read())["result"]]
    return found


def gold_share(url: str, questions: Path) -> float:
    """Return the share of questions with a golden answer in the top 3."""
    rows = read_json_lines(questions)
    found = search(url, [row["question"] for row in rows])
    hits = 0
    for row, contents in zip(rows, found, strict=True):
        text = " ".join(map(normalise, contents))
        hits += any(
            normalise(answer) in text for answer in row["golden_answers"] if normalise(answer).strip()
        )
    return hits / len(rows)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="NAME=URL",
        help="a server and its name in the table; may be repeated",
    )
    parser.add_argument(
        "--questions", type=Path, required=True, help="JSON lines with question and golden_answers"
    )
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    add_option(parser, "--device", device, "name of this machine in the table")
    add_option(parser, "--csv", Path(__file__).with_suffix(".csv"), "file of the rows")
    options = parser.parse_args()
    for text in options.server:
        name, _, url = text.partition("=")
        for path in sorted(options.questions.glob("questions_*.jsonl")):
            questions = path.stem.removeprefix("questions_")
            share = gold_share(url, path)
            row = {"device": options.device, "server": name, "questions": questions}
            append_rows(options.csv, [row | {"gold_in_top_3": round(share, 3)}])
            print(f"{name} {questions} {share:.3f}")


if __name__ == "__main__":
    main()

"""The public question sets, in the layout of ``RUC-NLPIR/FlashRAG_datasets``: ``SET/SPLIT.jsonl``.

Names, splits and row counts are those of the repository's card (https://huggingface.co/datasets/RUC-NLPIR/
FlashRAG_datasets) and of the table in FlashRAG's README (https://github.com/RUC-NLPIR/FlashRAG). Each line is
``{"id": str, "question": str, "golden_answers": list of str, "metadata": object}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl.data import hub
from sd_search_verl.data.jsonl import Problem, check_text, read_objects
from sd_search_verl.errors import UserError

REPOSITORY = "RUC-NLPIR/FlashRAG_datasets"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


@dataclass(frozen=True)
class Split:
    """A split of a question set; ``rows`` is the number of questions of its published version."""

    name: str
    rows: int


TRAIN = {"nq": Split("train", 79_168), "hotpotqa": Split("train", 90_447)}
"""Training sets of Search-R1 and its successors; together 169,615 questions."""

EVALUATION = {
    "nq": Split("test", 3_610),
    "triviaqa": Split("test", 11_313),
    "popqa": Split("test", 14_267),
    "hotpotqa": Split("dev", 7_405),
    "2wikimultihopqa": Split("dev", 12_576),
    "musique": Split("dev", 2_417),
    "bamboogle": Split("test", 125),
}
"""The seven evaluation sets. HotpotQA, 2Wiki and MuSiQue use the dev split: their test answers are not public."""


@dataclass(frozen=True)
class SourceQuestion:
    """A well-formed row; ``dropped`` is the number of empty golden answers removed from it."""

    id: str
    question: str
    golden_answers: list[str]
    dropped: int


def source_file(source: str, name: str, split: str, downloads: Path) -> Path:
    """Return the file of a split, from a local folder or downloaded from a repository into ``downloads``.

    Raises:
        UserError: the file is not in the folder, or cannot be downloaded.
    """
    if Path(source).is_dir():
        candidates = [Path(source) / name / f"{split}{suffix}" for suffix in _SUFFIXES]
        for path in candidates:
            if path.is_file():
                return path
        raise UserError(f"{candidates[0]} is missing (also tried: {', '.join(_SUFFIXES[1:])})")
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"--source {source} is neither a folder nor the name of a hub repository")
    path = downloads / name / f"{split}.jsonl"
    return path if path.is_file() else hub.download(hub.find(source, f"{name}/{split}.jsonl"), path)


def read_split(path: Path) -> Iterator[tuple[int, SourceQuestion | Problem]]:
    """Yield row number and question, or problem, for every row of a split, streamed through ``datasets``.

    Raises:
        UserError: the file as a whole cannot be read; the message names the malformed lines of a JSON file.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = "parquet" if path.suffix == ".parquet" else "json"
    try:
        stream = load_dataset(kind, data_files=[str(path)], split="train", streaming=True)
        for number, row in enumerate(stream, start=1):
            yield number, _checked(number, row)
    # StopIteration: of an empty file.
    except (DatasetGenerationError, OSError, ValueError, StopIteration) as error:
        bad = [] if kind == "parquet" else [str(p) for _, p in read_objects(path) if isinstance(p, Problem)]
        raise UserError(
            "\n  ".join([f"{path} cannot be read ({str(error) or 'it is empty'})", *bad])
        ) from error


def _checked(number: int, row: dict[str, Any]) -> SourceQuestion | Problem:
    if (problem := check_text(number, "question", row.get("question"))) is not None:
        return problem
    golden = row.get("golden_answers")
    golden = [golden] if isinstance(golden, str) else golden
    if not isinstance(golden, list) or not all(isinstance(answer, (str, type(None))) for answer in golden):
        return Problem(number, "golden_answers", "must be a list of texts")
    kept = [answer for answer in golden if answer and answer.strip()]
    if not kept:
        return Problem(number, "golden_answers", "holds no answer")
    identity = row.get("id")
    return SourceQuestion(
        str(number - 1 if identity is None else identity), row["question"], kept, len(golden) - len(kept)
    )

"""Real questions, a real tokenizer and a tiny model that searches: from a folder of data to what verl trains on.

``python -m benchmarks.data.wiki18_mini DATA_DIR TOKENIZER_DIR --out DIR`` reads ``questions_nq.jsonl`` and
``trajectories_nq.jsonl.gz`` and writes ``train.parquet``, ``val.parquet`` and ``model/``. The corpus stays where it
is: the retriever indexes ``DATA_DIR/corpus.jsonl``. The model has seen the form of real trajectories only: its
queries are made of the question's words, its answers are guesses.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.arguments import add_option
from sd_search_verl import protocol as protocols
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.data.jsonl import Problem, read_objects
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.errors import UserError
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.world.config import FitConfig
from sd_search_verl.world.model import build_model
from sd_search_verl.world.sampling import next_token_logits
from sd_search_verl.world.supervised import Encoded, fit

PROTOCOL = protocols.get("search_r1")
QUESTIONS, TRAJECTORIES = "questions_nq.jsonl", "trajectories_nq.jsonl.gz"
VAL_QUESTIONS = 100
FIT = FitConfig(steps=800, batch=32)
LESSONS = 8000
MOST_QUERY_TOKENS, PROBED = 24, 20


class DataError(UserError):
    """A file is missing or malformed. The message names file, line and what is expected."""


@dataclass(frozen=True)
class Trajectory:
    """A recorded rollout: ``documents[i]`` are the passages, ``"title\\ntext"``, that answered ``queries[i]``."""

    question: str
    queries: Sequence[str]
    documents: Sequence[Sequence[str]]
    answer: str


def read_lines(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file (gzipped if so named), each checked to have ``fields``.

    Raises:
        DataError: no such file, it ends too early, or a line is no object or lacks a field.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; give the folder that holds {path.name} as the first argument")
    try:
        for number, found in read_objects(path):
            if isinstance(found, Problem):
                raise DataError(f"{path}:{number}: {found.reason}")
            for field in fields:
                if not found.get(field):
                    raise DataError(f"{path}:{number}: no {field!r}; each line needs {', '.join(fields)}")
            yield found
    except (UserError, OSError) as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error


def write_questions(data: Path, out: Path) -> tuple[list[str], list[str]]:
    """Write ``train.parquet`` and ``val.parquet`` in verl's RL format; returns the questions of both."""
    lines = list(read_lines(data / QUESTIONS, ("question", "golden_answers")))
    if len(lines) <= VAL_QUESTIONS:
        raise DataError(
            f"{data / QUESTIONS} has {len(lines)} questions; more than {VAL_QUESTIONS} are needed"
        )
    Random(0).shuffle(lines)
    train, val = lines[VAL_QUESTIONS:], lines[:VAL_QUESTIONS]
    for split, part in (("train", train), ("val", val)):
        rows = (
            verl_row("nq", split, i, str(q.get("id", i)), q["question"], q["golden_answers"], PROTOCOL)
            for i, q in enumerate(part)
        )
        write_parquet(out / f"{split}.parquet", rows)
    return [line["question"] for line in train], [line["question"] for line in val]


def read_trajectories(path: Path, questions: Iterable[str]) -> list[Trajectory]:
    """Return the well-formed trajectories (every query clean and answered, an answer at the end) of ``questions``.

    Raises:
        DataError: the file is malformed, or has none.
    """
    wanted = set(questions)
    found = []
    for line in read_lines(path, ("question", "response")):
        parsed = PROTOCOL.parse(line["response"])
        documents = recorded_documents(line["response"])
        clean = parsed.queries and not any("<" in query for query in parsed.queries)
        if line["question"] in wanted and clean and parsed.answer and len(documents) == len(parsed.queries):
            found.append(Trajectory(line["question"], parsed.queries, documents, parsed.answer))
    if not found:
        raise DataError(f"{path} has no well-formed trajectory of the questions in {QUESTIONS}")
    return found


def encode(trajectory: Trajectory, tokenizer: Any, draw: Random, short: bool) -> Encoded:
    """Return a trajectory as the agent loop would hold it, with loss on the policy's tokens only.

    Thinking is left out and documents are cut at a random length, to keep sequences short.

    Args:
        short: leave out the prompt's constant instructions and most of the documents: the form, and copying from the
            question, are learnt as well without them, in a fraction of the time.
    """
    ids = tokenizer.encode(_prompt_text(trajectory.question, tokenizer, short))
    weights = [0.0] * len(ids)
    top_k, most_words = (1, 4) if short else (draw.randint(1, 3), draw.choice((4, 8, 16, 40)))
    for query, documents in zip(trajectory.queries, trajectory.documents, strict=True):
        cut = [" ".join(document.split(" ")[:most_words]) for document in documents[:top_k]]
        turn = tokenizer.encode(f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}")
        seen = encode_text(PROTOCOL.observation(PROTOCOL.documents(cut)), tokenizer)
        ids += [*turn, *seen]
        weights += [1.0] * len(turn) + [0.0] * len(seen)
    last = tokenizer.encode(f"{PROTOCOL.answer_open} {trajectory.answer} {PROTOCOL.answer_close}")
    return [*ids, *last, tokenizer.eos_token_id], [*weights, *[1.0] * (len(last) + 1)]


def warm_start(
    trajectories: Sequence[Trajectory], questions: Sequence[str], tokenizer: Any, config: FitConfig
) -> Any:
    """Train a tiny random model: copying on questions of random words, and ``trajectories``.

    A full softmax over 151,665 tokens would cost most of the time, and most tokens never occur. All that occur
    neither in ``questions`` nor in what the policy writes share one row while training, whose logit counts for all of
    them; so the loss is exactly the full vocabulary's.
    """
    draw = Random(config.seed)
    count = min(LESSONS, config.steps * config.batch)
    lessons = [encode(_lesson(draw, questions), tokenizer, draw, short=i % 8 > 0) for i in range(count)]
    short = [encode(trajectory, tokenizer, draw, short=True) for trajectory in trajectories]
    whole = [encode(trajectory, tokenizer, draw, short=False) for trajectory in trajectories]
    written = {
        i for ids, weights in [*lessons, *whole] for i, weight in zip(ids, weights, strict=True) if weight
    }
    seen = sorted(
        written.union(*(tokenizer.encode(_prompt_text(question, tokenizer)) for question in questions))
    )
    row_of = {token: row for row, token in enumerate(seen)}
    lessons, short, whole = (
        [([row_of.get(i, len(seen)) for i in ids], weights) for ids, weights in part]
        for part in (lessons, short, whole)
    )

    model = build_model(tokenizer, config.seed)
    learnt = _share_unseen_rows(model, len(seen))

    def examples(progress: float) -> list[Encoded]:
        # Never one kind alone: a switch would undo the copying that took most of the steps to emerge.
        shares = (8, 2, 0) if progress < 0.6 else (3, 3, 4)
        return [draw.choice(kind) for kind in draw.choices((lessons, short, whole), shares, k=config.batch)]

    fit(model, examples, config)
    every = learnt.detach()[-1].repeat(len(tokenizer), 1)
    every[seen] = learnt.detach()[:-1]
    model.model.embed_tokens = torch.nn.Embedding.from_pretrained(every, freeze=False)
    model.lm_head = torch.nn.Linear(every.shape[1], every.shape[0], bias=False)
    model.tie_weights()
    return model.eval()


def _prompt_text(question: str, tokenizer: Any, short: bool = False) -> str:
    messages = PROTOCOL.prompt(question)
    if short:
        messages[0]["content"] = "Question:" + messages[0]["content"].rpartition("Question:")[2]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _lesson(draw: Random, questions: Sequence[str]) -> Trajectory:
    """Return a question of random words, whose query repeats it and whose answer stands in the document.

    Real queries are mostly made of the question's words, but too few to learn copying from: here nothing else helps.
    """
    words = [draw.choice(draw.choice(questions).split()) for _ in range(draw.randint(3, 9))]
    answer = draw.choice(words)
    return Trajectory(" ".join(words), [" ".join(words)], [[f"{answer}\n{answer}"]], answer)


def _share_unseen_rows(model: Any, seen: int) -> torch.nn.Parameter:
    """Give ``model`` an embedding of ``seen`` rows and one for all other tokens, tied to its head; returns it."""
    vocabulary, width = model.model.embed_tokens.weight.shape
    rows = torch.nn.Parameter(model.model.embed_tokens.weight.detach()[: seen + 1].clone())
    model.model.embed_tokens = torch.nn.Embedding(seen + 1, width, _weight=rows)
    model.lm_head = torch.nn.Linear(width, seen + 1)
    model.model.embed_tokens.weight = model.lm_head.weight = rows
    bias = torch.zeros(seen + 1)
    bias[seen] = math.log(vocabulary - seen)
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    return rows


def recorded_documents(response: str) -> list[list[str]]:
    """Return the passages, ``"title\\ntext"``, of each observation of a recorded rollout."""
    opening, closing = re.escape(PROTOCOL.observation_open), re.escape(PROTOCOL.observation_close)
    return [_documents(text) for text in re.findall(f"{opening}(.*?){closing}", response, re.DOTALL)]


def _documents(observation: str) -> list[str]:
    """Return the passages of a rendered observation, title and text."""
    parts = re.split(r"^Doc \d+\(Title: (.*?)\) ", observation, flags=re.MULTILINE)[1:]
    return [f"{title}\n{text.strip()}" for title, text in zip(parts[::2], parts[1::2], strict=True)]


def query_rate(model: Any, tokenizer: Any, questions: Sequence[str]) -> float:
    """Return the share of first turns, sampled at temperature 1, that issue a query."""
    generator = torch.Generator().manual_seed(0)
    prompts = [tokenizer.encode(_prompt_text(question, tokenizer)) for question in questions]
    rows = [list(prompt) for prompt in prompts]
    for _ in range(MOST_QUERY_TOKENS):
        probabilities = next_token_logits(model, rows).softmax(-1)
        for row, token in zip(
            rows, torch.multinomial(probabilities, 1, generator=generator).tolist(), strict=True
        ):
            row += token
    written = [tokenizer.decode(row[len(prompt) :]) for row, prompt in zip(rows, prompts, strict=True)]
    return sum(PROTOCOL.query(next(PROTOCOL.turns(text))) is not None for text in written) / len(written)


def build(data: Path, tokenizer_dir: Path, out: Path, config: FitConfig) -> str:
    """Write the questions and the model into ``out``; returns what was made, as a line of text.

    Raises:
        DataError: see :func:`read_lines`, :func:`write_questions` and :func:`read_trajectories`.
    """
    if not (tokenizer_dir / "tokenizer.json").is_file():
        raise DataError(
            f"{tokenizer_dir / 'tokenizer.json'} is missing; give a tokenizer's folder as the second argument"
        )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    out.mkdir(parents=True, exist_ok=True)
    train, val = write_questions(data, out)
    trajectories = read_trajectories(data / TRAJECTORIES, train)
    model = warm_start(trajectories, [*train, *val], tokenizer, config)
    rate = query_rate(model, tokenizer, val[:PROBED])
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    return f"{out}: train.parquet, val.parquet, model/; {rate:.0%} of sampled first turns issue a query"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.data.wiki18_mini", description=__doc__)
    parser.add_argument("data", type=Path, help=f"folder with {QUESTIONS} and {TRAJECTORIES}")
    parser.add_argument("tokenizer", type=Path, help="folder of a transformers tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_option(parser, "--seed", FIT.seed, "of the warm start", "SEED")
    add_option(parser, "--steps", FIT.steps, "of the warm start", "STEPS")
    parser.set_defaults(action=_build)
    return run_command(parser, argv)


def _build(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    config = FIT.replace(seed=options.seed, steps=options.steps)
    print(build(options.data, options.tokenizer, options.out, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One scorer for the reward, the outcome labels, evaluation and the demo.

Normalisation is SQuAD's (lower case, no punctuation, no articles, single spaces), as in Search-R1 and FlashRAG.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sd_search_verl import protocol as protocols
from sd_search_verl.errors import UserError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
METRICS = ("em", "f1")
DEFAULT_METRIC = "em"


def extract_answer(response: str, protocol: str | None = None) -> str | None:
    """Return the policy's last closed ``<answer>`` in a response, stripped, or None.

    Text of the environment does not count: an ``<answer>`` inside a retrieved passage is not the policy's.

    Args:
        response: the whole response, observations included.
        protocol: name of its protocol; None = detect it.
    """
    found = protocols.get(protocol) if protocol else protocols.detect(response)
    return found.parse(response).answer


def normalize_answer(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str | None, golden_answers: str | Sequence[str]) -> float:
    """Return 1.0 if the normalised prediction equals a normalised golden answer, else 0.0; 0.0 without a prediction.

    Natural Questions has answers such as `---`, which normalisation empties: every prediction that it empties too
    matches them, as in Search-R1's and FlashRAG's scorers.
    """
    if prediction is None:
        return 0.0
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(golden) == predicted for golden in _as_list(golden_answers)))


def cover_exact_match(prediction: str | None, golden_answers: str | Sequence[str]) -> float:
    """Return 1.0 if the prediction contains a golden answer, normalised and in whole words, else 0.0. Never below EM.

    Whole words, because `1` is not an answer in `1912`; an answer that is empty after normalisation is in no text.
    """
    if prediction is None:
        return 0.0
    return max(exact_match(prediction, golden_answers), float(contains_answer([prediction], golden_answers)))


def token_f1(prediction: str | None, golden_answers: str | Sequence[str]) -> float:
    """Return the best token F1 of the normalised prediction over the golden answers, in [0, 1].

    ``yes``, ``no`` and ``noanswer`` get no partial credit, as in HotpotQA's official scorer; two texts without a word
    share none, so that F1 is 0 where :func:`exact_match` is 1 for `---`.
    """
    if prediction is None:
        return 0.0
    return max(
        (_f1(normalize_answer(prediction), normalize_answer(g)) for g in _as_list(golden_answers)),
        default=0.0,
    )


def _f1(predicted: str, golden: str) -> float:
    if predicted != golden and {"yes", "no", "noanswer"} & {predicted, golden}:
        return 0.0
    predicted_tokens, golden_tokens = predicted.split(), golden.split()
    common = sum((Counter(predicted_tokens) & Counter(golden_tokens)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted_tokens), common / len(golden_tokens)
    return 2 * precision * recall / (precision + recall)


def contains_answer(documents: Sequence[str], golden_answers: str | Sequence[str]) -> bool:
    """Return whether any document contains a golden answer, normalised and in whole words."""
    padded = [f" {normalize_answer(document)} " for document in documents]
    wanted = [f" {answer} " for g in _as_list(golden_answers) if (answer := normalize_answer(g))]
    return any(answer in document for answer in wanted for document in padded)


def golden_answers(ground_truth: Any) -> list[str]:
    """Return the golden answers from any form of data sets: a string, a list, or ``{"target": ...}``.

    Raises:
        UserError: there is none.
    """
    if isinstance(ground_truth, Mapping):
        if "target" not in ground_truth:
            raise UserError(f"reward_model.ground_truth has no 'target'; its keys are {sorted(ground_truth)}")
        ground_truth = ground_truth["target"]
    if ground_truth is None:
        raise UserError(
            "reward_model.ground_truth is missing; give a string, a list of strings, or {'target': ...}"
        )
    if not isinstance(ground_truth, (str, Sequence)) and not hasattr(ground_truth, "tolist"):
        raise UserError(
            f"reward_model.ground_truth={ground_truth!r} is neither a string nor a list; write the answer as a string"
        )
    return _as_list(ground_truth)


def _as_list(answers: str | Sequence[str]) -> list[str]:
    return [answers] if isinstance(answers, str) else [str(answer) for answer in answers]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    metric: str = DEFAULT_METRIC,
) -> dict[str, float]:
    """Score a response, with verl's reward signature. ``score`` is the ``metric``; ``em`` and ``f1`` come with it.

    The answer is the one that the agent loop recorded from its own tokens, ``extra_info["sd_search"]["answer"]``;
    without such a record it is extracted from ``solution_str``.

    Raises:
        UserError: unknown metric, or no golden answer.
    """
    if metric not in METRICS:
        raise UserError(f"metric={metric!r} is not one of {', '.join(METRICS)}")
    recorded = (extra_info or {}).get("sd_search")
    answer = recorded["answer"] if recorded else extract_answer(solution_str)
    golden = golden_answers(ground_truth)
    scores = {"em": exact_match(answer, golden), "f1": token_f1(answer, golden)}
    return {"score": scores[metric], **scores}

"""Exact match and token F1: against recorded scores of real agents, and on the traps of this field."""

from __future__ import annotations

import gzip
import json
import random
import re
import string
from pathlib import Path

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.protocol import get
from sd_search_verl.scoring import (
    compute_score,
    contains_answer,
    cover_exact_match,
    exact_match,
    extract_answer,
    golden_answers,
    token_f1,
)


def test_every_recorded_score(real_data: Path) -> None:
    with gzip.open(real_data / "wiki18-mini" / "trajectories_nq.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    assert len(records) == 2000
    for record in records:
        answer = extract_answer(record["response"])
        assert (answer or "") == record["pred"]
        assert exact_match(answer, record["golden_answers"]) == record["metric"]["em"]
        assert token_f1(answer, record["golden_answers"]) == pytest.approx(record["metric"]["f1"], abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "golden", "em", "f1"),
    [
        ("The Beatles!", ["beatles"], 1.0, 1.0),
        ("Jesus", ["Jesus Christ"], 0.0, 2 / 3),
        ("a the an", ["x"], 0.0, 0.0),
        ("yes", ["yes it is"], 0.0, 0.0),
        ("yes", ["yes"], 1.0, 1.0),
        ("b", ["a b", "b"], 1.0, 1.0),
        ("Zürich", "zürich", 1.0, 1.0),
        (None, ["x"], 0.0, 0.0),
        ("", ["x"], 0.0, 0.0),
        ("x", [], 0.0, 0.0),
        ("new new york", ["new york"], 0.0, 0.8),
        # Nothing is left of these after normalisation: equal to each other and to nothing else, and without a word.
        ("---", ["---"], 1.0, 0.0),
        ("", ["---"], 1.0, 0.0),
        ("The", [")", "x"], 1.0, 0.0),
        (None, ["---"], 0.0, 0.0),
        ("Many", ["---"], 0.0, 0.0),
        ("×", ["*"], 0.0, 0.0),  # not ASCII: it stays
        # Unicode: lower case by Unicode's rules, punctuation of ASCII only, no other form of a letter.
        ("MÜNCHEN.", ["münchen"], 1.0, 1.0),
        ("São Paulo", ["Sa\u0303o Paulo"], 0.0, 0.5),
        ("1912–1913", ["1912-1913"], 0.0, 0.0),
        ("“Help!”", ["Help"], 0.0, 0.0),
        ("a-ha", ["A-ha", "the a ha"], 1.0, 1.0),
        ("U.S.A.", ["USA"], 1.0, 1.0),
        ("theatre of  the\tabsurd", ["Theatre of Absurd!"], 1.0, 1.0),
    ],
)
def test_scores(prediction: str | None, golden: list[str] | str, em: float, f1: float) -> None:
    assert exact_match(prediction, golden) == em
    assert token_f1(prediction, golden) == pytest.approx(f1)


def test_an_answer_in_a_passage_is_not_the_policys() -> None:
    r1 = get("search_r1")
    response = f"<search>q</search>{r1.observation('<answer>leak</answer>')}<answer> mine </answer>"
    assert extract_answer(response) == "mine"
    assert extract_answer(response.replace("<answer> mine </answer>", "")) is None
    refined = f"<search>q</search>{get('autorefine').observation('<answer>leak</answer>')}"
    assert extract_answer(refined) is None


def test_the_prompts_example_does_not_count() -> None:
    """A scorer that wants two answers, because the prompt holds one, gives 0 for a correct response."""
    assert extract_answer("<answer> Beijing </answer>") == "Beijing"


def test_compute_score_is_verls_signature() -> None:
    score = compute_score("nq", "<answer>Jesus</answer>", {"target": ["Jesus Christ"]})
    assert score == {"score": 0.0, "em": 0.0, "f1": pytest.approx(2 / 3)}
    assert compute_score("nq", "<answer>x</answer>", ["x"], None, metric="f1")["score"] == 1.0


def test_options_that_would_have_no_effect_are_refused() -> None:
    """Elsewhere ``format_score`` is accepted and dropped."""
    with pytest.raises(TypeError, match="format_score"):
        compute_score("nq", "x", ["x"], None, format_score=0.1)  # type: ignore[call-arg]


def test_the_agent_loops_own_answer_wins() -> None:
    recorded = {"sd_search": {"answer": None}}
    assert compute_score("nq", "<answer>x</answer>", ["x"], recorded)["score"] == 0.0


@pytest.mark.parametrize("bad", [{"goal": 1}, None, {"target": None}])
def test_a_missing_golden_answer_is_named(bad: object) -> None:
    with pytest.raises(UserError, match="ground_truth"):
        golden_answers(bad)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UserError, match="metric='acc' is not one of em, f1"):
        compute_score("nq", "", ["x"], None, metric="acc")


def test_gold_in_documents_compares_whole_words() -> None:
    assert contains_answer(["T\nThe Mona Lisa hangs there."], ["mona lisa"])
    assert not contains_answer(["concatenate"], ["cat"])
    assert not contains_answer([], ["cat"])
    assert not contains_answer(["x"], ["the"])


@pytest.mark.parametrize(
    ("prediction", "golden", "cover"),
    [
        ("It was the Mona Lisa, I think.", ["Mona Lisa"], 1.0),
        ("concatenate", ["cat"], 0.0),  # a substring is not a word
        ("in 1912", ["1", "1911"], 0.0),
        ("lisa mona", ["Mona Lisa"], 0.0),
        ("Paris", ["the Paris of the East", "paris"], 1.0),
        ("anything", ["the", "!"], 0.0),  # nothing of these is left after normalisation
        ("", ["x"], 0.0),
        (None, ["x"], 0.0),
    ],
)
def test_cover_exact_match(prediction: str | None, golden: list[str], cover: float) -> None:
    assert cover_exact_match(prediction, golden) == cover


def test_scores_are_those_of_the_definition() -> None:
    """A naive twin, word by word, on arbitrary texts."""

    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    def f1(prediction: str, golden: str) -> float:
        a, b = words(prediction), words(golden)
        if a != b and ["yes"] in (a, b):
            return 0.0
        left, same = list(b), 0
        for word in a:
            if word in left:
                left.remove(word)
                same += 1
        return 2 * same / (len(a) + len(b)) if same else 0.0

    draw = random.Random(0)
    pieces = [
        "a",
        "The",
        "an",
        "yes",
        "Paris",
        "paris!",
        "-",
        "U.S.",
        "1",
        "é",
        " ",
        "\n",
        "new-york",
        "thea",
    ]
    for _ in range(3000):
        prediction, *golden = (" ".join(draw.choices(pieces, k=draw.randint(0, 4))) for _ in range(3))
        assert exact_match(prediction, golden) == any(words(prediction) == words(g) for g in golden)
        assert token_f1(prediction, golden) == pytest.approx(max(f1(prediction, g) for g in golden))


def test_cover_exact_match_is_never_below_exact_match() -> None:
    assert exact_match("The The", "A") == cover_exact_match("The The", "A") == 1.0


@pytest.mark.parametrize("truth", [1990, 1.5, True, {"target": 7}])
def test_a_ground_truth_that_is_no_text_is_named(truth: object) -> None:
    with pytest.raises(UserError, match=r"reward_model\.ground_truth=.* is neither a string nor a list"):
        golden_answers(truth)

"""The comparison on real questions: rollouts, an update, margins and the table, with the world's small policy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.real_model.effect.compare import compare, read_results
from benchmarks.real_model.effect.data import Question
from benchmarks.real_model.effect.measure import Candidates, margins, read_candidates
from benchmarks.real_model.effect.prepare import line
from benchmarks.real_model.effect.runs import Held, Plan, arms, run, training_questions, write
from benchmarks.real_model.effect.sampling import Retrieve, retriever, rollouts
from benchmarks.real_model.effect.train import items, update
from sd_search_verl.config import HindsightConfig, SDSearchConfig
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.model import load_model

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
ON = SDSearchConfig(alpha=1.0, hindsight=HindsightConfig(label="reward"))


class ShortQuestion(Question):
    """A question that the world's policy can read."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"Question: {self.text}\n"}]


@pytest.fixture(scope="module")
def retrieve(tmp_path_factory: pytest.TempPathFactory) -> Retrieve:
    folder = tmp_path_factory.mktemp("effect")
    corpus = folder / "corpus.jsonl"
    lines = [
        {"id": str(i), "contents": f"{word}\n{word} of Ada is Eve"}
        for i, word in enumerate(("tutor", "mentor"))
    ]
    corpus.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return retriever(corpus, folder / "index")


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_model(CHECKPOINT)


@pytest.fixture(scope="module")
def batch(policy: Any, retrieve: Retrieve) -> list[Rollout]:
    asked = [question for question in questions("Ada", "Otto") for _ in range(4)]
    found = rollouts(policy, TOKENIZER, asked, retrieve, seed=3)
    for place, rollout in enumerate(found):
        rollout.reward = float(place == 1)  # the second group's rewards are equal
    return found


def questions(*names: str) -> list[Question]:
    return [ShortQuestion(f"tutor of {name} ?", ("Eve",)) for name in names]


def test_a_rollout_holds_its_query_the_observation_and_a_second_turn(batch: list[Rollout]) -> None:
    searching = [rollout for rollout in batch if rollout.queries]
    assert searching
    for rollout in searching:
        (start, end), ids = rollout.spans[0], rollout.response_ids
        assert decode(ids[start:end], TOKENIZER).strip() == rollout.queries[0]
        assert "<information>" in decode(
            [t for t, m in zip(ids, rollout.response_mask, strict=True) if not m], TOKENIZER
        )
        assert rollout.turns == 2
        assert len(ids) == len(rollout.response_mask)


def test_equal_seeds_sample_equal_rollouts(policy: Any, retrieve: Retrieve, batch: list[Rollout]) -> None:
    asked = [question for question in questions("Ada", "Otto") for _ in range(4)]
    again = rollouts(policy, TOKENIZER, asked, retrieve, seed=3)
    assert [rollout.response_ids for rollout in again] == [rollout.response_ids for rollout in batch]
    other = rollouts(policy, TOKENIZER, asked, retrieve, seed=4)
    assert [rollout.response_ids for rollout in other] != [rollout.response_ids for rollout in batch]


def test_greedy_rollouts_are_those_without_the_cache(policy: Any) -> None:
    found = rollouts(policy, TOKENIZER, questions("Ada", "Otto"), lambda q: [["Eve"]] * len(q), None)
    for greedy in found:
        row = torch.tensor([greedy.prompt.token_ids + greedy.response_ids])
        with torch.no_grad():
            best = policy(row).logits[0].argmax(-1)
        start = len(greedy.prompt.token_ids) - 1
        written = [place for place, wrote in enumerate(greedy.response_mask) if wrote]
        assert [int(best[start + place]) for place in written] == [
            greedy.response_ids[place] for place in written
        ]


def trained(policy: Any, batch: list[Rollout], method: SDSearchConfig) -> Any:
    taught = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(taught.parameters(), lr=1e-3)
    update(taught, optimizer, batch, items(batch, 4, method, TOKENIZER, 1), method)
    return taught


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_an_empty_block_is_grpo_to_the_bit(policy: Any, batch: list[Rollout]) -> None:
    grpo = trained(policy, batch, SDSearchConfig(alpha=0.0))
    empty = trained(policy, batch, ON.replace(hindsight=HindsightConfig(content="none", label="reward")))
    assert same(grpo, empty)
    assert not same(grpo, trained(policy, batch, ON))
    assert not same(grpo, policy)


def test_groups_with_equal_rewards_teach_hindsight_only(policy: Any, batch: list[Rollout]) -> None:
    flat = [copy.copy(rollout) for rollout in batch]
    for rollout in flat:
        rollout.reward = 0.0
    assert items(flat, 4, SDSearchConfig(alpha=0.0), TOKENIZER, 1) == []
    assert all(item.kept == item.rollout.spans[-1][1] for item in items(flat, 4, ON, TOKENIZER, 1))
    assert not same(policy, trained(policy, flat, ON))


def test_the_margin_is_of_queries_that_found_against_those_that_did_not(
    policy: Any, batch: list[Rollout], tmp_path: Path
) -> None:
    lines = [
        line(rollout) | {"question": "tutor of Ada ?", "queries": ["tutor Ada"], "found": [True]}
        for rollout in batch[:1]
    ]
    lines += [
        {**lines[0], "queries": ["Eve Eve"], "found": [False]},
        {**lines[0], "question": "tutor of Ida ?"},
    ]
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    (found,) = read_candidates(path)
    assert (found.finding, found.missing) == (["tutor ada"], ["eve eve"])
    (there,) = margins(policy, TOKENIZER, [found])
    (back,) = margins(policy, TOKENIZER, [type(found)(found.question, found.missing, found.finding)])
    assert there == pytest.approx(-back, abs=1e-4)


def test_arms_of_a_seed_ask_the_same_questions() -> None:
    pool = [Candidates(question, ["a"], ["b"]) for question in questions("Ada", "Otto", "Ida", "Max", "Eve")]
    held = Held([], [], pool, lambda queries: [])
    plan = Plan(steps=3, learning_rate=1e-5, questions=4)
    first = training_questions(held, 1, plan)
    assert len(first) == 12
    assert first == training_questions(held, 1, plan)
    assert first != training_questions(held, 2, plan)
    assert len(set(first[:5])) == 5


def test_a_run_of_each_arm_ends_in_a_policy_and_margins(
    policy: Any, retrieve: Retrieve, tmp_path: Path
) -> None:
    policy.save_pretrained(tmp_path / "lessons")
    TOKENIZER.save_pretrained(tmp_path / "lessons")
    pool = [Candidates(question, ["tutor ada"], ["eve"]) for question in questions("Ada", "Otto")]
    held = Held(questions("Ida"), pool, pool, retrieve)
    plan = Plan(steps=1, learning_rate=1e-3, questions=2)
    chosen = arms(1.0)
    found = {
        name: run(chosen[name], 1, plan, held, tmp_path, tmp_path / name, "cpu")
        for name in ("sd_lessons", "sd_lessons_contrast", "sd_lessons_gate", "sd_lessons_flipped")
    }
    assert [len(one["after"]["margins"]) for one in found.values()] == [2, 2, 2, 2]
    first = [one["steps"][0] for one in found.values()]
    assert len({(step["reward"], step["distinct_queries"]) for step in first}) == 1, (
        "paired arms sample alike"
    )
    assert len({step["sd"] for step in first}) == 4
    assert held.greedy(load_model(tmp_path / "sd_lessons"), TOKENIZER, False)["searches"] in ([0.0], [1.0])


def test_the_table_pairs_arms_by_seed_and_start(tmp_path: Path) -> None:
    values = {name: [0.0, 1.0] for name in ("margins", "training_margins", "gold", "f1", "em", "searches")}
    for name, shift in (("grpo", 0.0), ("sd", 0.5), ("sd_flipped", 0.2), ("grpo_lessons", 0.0)):
        for seed in (1, 2):
            after = {key: [value + shift for value in of_key] for key, of_key in values.items()}
            write(tmp_path / f"{name}-{seed}.json", {"after": after})
    chosen = arms(1.0)
    before = {"warm": {"after": values}, "lessons": {"after": values}}
    rows = compare(read_results(tmp_path), before, chosen)
    paired = [row for row in rows if row["beside"] == "grpo" and row["measure"] == "margins"]
    row = next(row for row in paired if row["arm"] == "sd")
    assert (row["arm"], row["seeds"], row["difference"], row["low"], row["high"]) == ("sd", 2, 0.5, 0.5, 0.5)
    assert row["seeds_with_sign"] == 2
    assert not [row for row in rows if row["beside"] == "grpo_lessons"]
    (control,) = (r for r in rows if r["beside"] == "sd_flipped" and r["measure"] == "margins")
    assert (control["arm"], control["difference"]) == ("sd", 0.3)

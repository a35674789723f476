"""The formulas of ``objectives/`` on small cases and against loops; test_methods.py has the engine."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.engine import recorded_rows
from support.methods import gain_inputs, naive_penalty, scale, turns_of
from support.tiny import byte_tokenizer

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.objectives.advantage import advantage_factors
from sd_search_verl.objectives.gate import gated
from sd_search_verl.objectives.information_gain import gains
from sd_search_verl.objectives.moving_average import MovingAverage
from sd_search_verl.objectives.regularizer import penalties
from sd_search_verl.objectives.turns import row_numbers, turn_numbers

MASK = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 0, 1, 1, 1]], dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_turn_is_an_unbroken_run_of_policy_tokens_of_one_row() -> None:
    assert turn_numbers(MASK).tolist() == [0, 0, 1, 2, 2, 3, 4, 5, 5, 5]
    assert row_numbers(MASK).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_penalties_and_their_gradient_are_those_of_a_loop() -> None:
    totals: dict[str, list[float]] = {"llds": [], "llds_response": [], "sapo": []}
    for seed, kind in itertools.product(range(10), totals):
        log_probs, old = (0.3 * draw(3, 5, seed=seed)).requires_grad_(), 0.3 * draw(3, 5, seed=seed + 10)
        advantages = draw(3, 5, seed=seed + 20).round().clamp(-1, 1)  # signs differ within a turn
        units = row_numbers if kind == "llds_response" else turn_numbers
        total = penalties(kind, log_probs[MASK], old[MASK], advantages[MASK], units(MASK)).sum()
        (ours,) = torch.autograd.grad(total, log_probs)
        expected = torch.zeros(())
        for row in range(3):
            turns = turns_of(MASK[row].tolist())
            grouped = [[at for turn in turns for at in turn]] if kind == "llds_response" else turns
            arguments = (old[row].tolist(), advantages[row].tolist())
            expected = expected + naive_penalty(kind, grouped, log_probs[row], *arguments)
        (theirs,) = torch.autograd.grad(expected, log_probs)
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
        assert torch.equal(ours, theirs)
        totals[kind].append(float(total))
    assert all(max(values) > 0 for values in totals.values())
    assert len(set(map(tuple, totals.values()))) == 3


@pytest.mark.parametrize("kind", ["llds", "llds_response", "sapo"])
def test_on_the_sampling_policy_a_regularizer_is_zero(kind: str) -> None:
    log_probs = draw(10).requires_grad_()
    total = penalties(kind, log_probs, log_probs.detach(), torch.ones(10), turn_numbers(MASK)).sum()
    (gradient,) = torch.autograd.grad(total, log_probs)
    assert float(total) == 0
    assert not gradient.any()


def test_what_became_likelier_or_has_a_negative_advantage_is_not_penalised() -> None:
    old = torch.full((10,), -2.0)
    for kind in ("llds", "sapo"):
        assert not penalties(kind, old + 1, old, torch.ones(10), turn_numbers(MASK)).any()
        assert not penalties(kind, old - 1, old, -torch.ones(10), turn_numbers(MASK)).any()


def test_the_gate_is_a_half_where_teacher_and_student_agree_and_has_no_gradient() -> None:
    config = SDSearchConfig(gate="sigmoid", gate_beta=5.0)
    credit = torch.tensor([0.0, 2.0, -2.0], requires_grad=True)
    found = gated(torch.ones(3), credit, config)
    assert not found.requires_grad
    assert found.tolist() == pytest.approx([0.5, 0.9999546, 4.5398e-5], rel=1e-4)
    weights = torch.rand(3)
    assert gated(weights, credit, SDSearchConfig()) is weights


def test_the_gate_of_labels_is_open_where_all_credit_turns_with_them_and_closed_where_none_does() -> None:
    config = SDSearchConfig(gate="labels")
    credit, labelled = torch.tensor([0.8, 0.8, 0.0, 1.0]), torch.tensor([0.8, 0.0, 0.0, -0.5])
    found = gated(torch.full((4,), 2.0), credit, config, labelled)
    assert found.tolist() == pytest.approx([2.0, 0.0, 0.0, 2 * 0.5 / (0.5 + 1.5)])


def test_factors_are_those_of_a_loop_bounded_and_keep_every_sign() -> None:
    advantages, scored = draw(3, 5, seed=3), MASK & (draw(3, 5, seed=4) > -0.5)
    clipped: list[bool] = []
    sizes = itertools.product((0.3, 3.0), ((1.0, 0.5), (0.5, 0.2), (1.9, 0.5)))
    for size, (alpha, bound) in sizes:
        gaps = size * draw(3, 5, seed=2)
        factors = advantage_factors(
            advantages[MASK], gaps[MASK], scored[MASK], turn_numbers(MASK), alpha, bound
        )
        scaled = advantages[MASK] * factors
        expected = []
        for row in range(3):
            values = advantages[row].tolist()
            known = {at: float(gaps[row, at]) for at in range(5) if scored[row, at]}
            scale(values, turns_of(MASK[row].tolist()), known, alpha, bound)
            expected += [value for value, wrote in zip(values, MASK[row].tolist(), strict=True) if wrote]
        assert scaled.tolist() == pytest.approx(expected, rel=1e-5)
        assert (factors - 1).abs().max() <= alpha * bound + 1e-6
        clipped += torch.isclose((factors - 1).abs(), torch.tensor(alpha * bound)).tolist()
        assert torch.equal(scaled.sign(), advantages[MASK].sign())
    assert 10 < sum(clipped) < len(clipped) - 10
    unscored = torch.zeros(10, dtype=torch.bool)
    untouched = advantage_factors(advantages[MASK], gaps[MASK], unscored, turn_numbers(MASK), 1, 0.5)
    assert torch.equal(untouched, torch.ones(10))


def test_a_divergence_added_to_the_advantage_would_teach_nothing_and_the_factor_does() -> None:
    """The exact expected gradient over the sampled token, at one position, for both signs of the reward."""
    student, teacher = draw(12, seed=5).double().requires_grad_(), draw(12, seed=6).double()
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)

    def expected_gradient(worth: torch.Tensor) -> torch.Tensor:
        surrogate = (log_q.exp().detach() * worth * log_q).sum()
        return torch.autograd.grad(surrogate, student, retain_graph=True)[0]

    top = log_p.topk(4).indices
    kl = (log_p[top].exp() * (log_p[top] - log_q[top].detach())).sum()
    assert kl > 0.1
    assert expected_gradient(kl.expand(12)).abs().max() < 1e-12
    for sign in (1.0, -1.0):
        advantage = torch.full((12,), sign).double()
        gaps, alone = log_p - log_q.detach(), torch.arange(12)
        factors = advantage_factors(advantage, gaps, gaps == gaps, alone, 1.0, 0.5)
        gradient = expected_gradient(advantage * factors)
        assert gradient.abs().max() > 1e-2
        assert (gradient * (log_p.exp() - log_q.exp().detach())).sum() > 0  # towards the teacher


def rows_for_gain() -> list[Any]:
    rows = recorded_rows(byte_tokenizer(), groups=3, size=3, seed=2)
    for number, row in enumerate(rows):
        prompt = replace(row.rollout.prompt, golden_answers=[f"GOLD{number // 3}", "another"])
        row.rollout = replace(row.rollout, prompt=prompt)
    return rows


def test_gain_rows_hold_own_documents_then_those_of_other_questions_before_the_gold_answer() -> None:
    tokenizer, rows = byte_tokenizer(), rows_for_gain()
    seen = 0
    for row, item in zip(rows, gain_inputs(rows), strict=True):
        rollout = row.rollout
        assert item.spans == rollout.spans
        assert len(item.rows) == 4 * len(item.spans)
        own = {search.documents for search in rollout.searches}
        for number, (ids, positions) in enumerate(zip(item.rows, item.positions, strict=True)):
            text, gold = tokenizer.decode(ids), rollout.prompt.golden_answers[0]
            assert text.endswith(f"</information>\n\n<answer> {gold}")
            assert tokenizer.decode([ids[at + 1] for at in positions]) == f" {gold}"
            query = rollout.queries[number // 4]
            last = text.rsplit("<search>", 1)[1]
            assert last.startswith(f" {query} </search>")
            document = last.split("<information>")[1].split("</information>")[0]
            if number % 4 == 0:
                assert document == rollout.searches[number // 4].documents
            seen += number % 4 > 0 and document not in own
    assert seen > 10


def test_the_notice_of_a_failed_search_is_no_document() -> None:
    tokenizer, rows = byte_tokenizer(), rows_for_gain()
    times = Counter(search.documents for row in rows for search in row.rollout.searches)
    first = next(
        row for row in rows if row.rollout.searches and times[row.rollout.searches[0].documents] == 1
    )
    spans, (search, *others) = first.rollout.spans, first.rollout.searches
    before = gain_inputs(rows)
    searches = [replace(search, error="no server replied"), *others]
    first.rollout = replace(first.rollout, searches=searches)
    found = gain_inputs(rows)
    assert found[rows.index(first)].spans == spans[1:]

    def read(inputs: list[Any]) -> str:
        return "".join(tokenizer.decode(ids).rsplit("<search>", 1)[1] for item in inputs for ids in item.rows)

    assert all("</information>" in text for text in read(found).split("<answer>")[:-1])
    assert f">{search.documents}<" in read(before)
    assert f">{search.documents}<" not in read(found)


def test_a_query_that_was_never_sent_is_known_by_what_follows_it() -> None:
    rows = rows_for_gain()
    before = gain_inputs(rows)
    for row in rows:
        row.rollout = replace(row.rollout, searches=[])
    assert gain_inputs(rows) == before


def test_a_question_alone_and_one_without_an_answer_have_no_gain() -> None:
    rows = rows_for_gain()
    assert not any(item.rows for item in gain_inputs(rows[:3]))
    rows[0].rollout = replace(rows[0].rollout, prompt=replace(rows[0].rollout.prompt, golden_answers=[]))
    assert not gain_inputs(rows)[0].rows


def test_the_gain_is_the_difference_to_the_mean_of_the_others_shaped_by_a_logarithm() -> None:
    better = [[-1.0, -3.0], [-4.0, -4.0], [-7.0, -7.0], [-4.0, -4.0]]
    worse = [[-6.0], [-2.0], [-4.0], [-6.0]]
    assert gains([*better, *worse]) == pytest.approx([1.3862944, -1.0986123])  # log(1 + 3), -log(1 + 2)
    assert gains([]) == []


def test_a_moving_average_of_half_precision_follows_steps_that_it_cannot_hold() -> None:
    """5 % of a small gap is less than half a unit in the last place of bf16."""
    module, average = torch.nn.Linear(8, 8).bfloat16(), MovingAverage()
    average.update(module, 0.95)
    with torch.no_grad():
        module.weight *= 1.03
    live = module.weight.detach().clone()
    for _ in range(400):
        average.update(module, 0.95)
    with average.in_place_of(module):
        assert torch.equal(module.weight, live)
    assert torch.equal(module.weight, live)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_moving_average_follows_and_is_swapped_in_and_out_to_the_bit(dtype: torch.dtype) -> None:
    module, average = torch.nn.Linear(3, 2).to(dtype), MovingAverage()
    module.bias.requires_grad_(False)
    average.update(module, 0.9)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    live = module.weight.detach().clone()
    average.update(module, 0.9)
    with average.in_place_of(module):
        expected = 0.9 * before.float() + 0.1 * live.float()
        assert torch.allclose(module.weight, expected.to(dtype))
    assert torch.equal(module.weight, live)
    assert average.values is not None
    assert len(average.values) == 1  # what is not trained is not copied

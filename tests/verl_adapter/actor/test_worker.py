"""The teacher pass and the loss in verl's real FSDP2 engine, against plain PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from support.agreement import ALPHA, reference, relative_difference, sd_gradients
from support.engine import (
    Row,
    batch_of,
    compose,
    gradients,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.reference import naive_divergence
from support.tiny import byte_tokenizer
from transformers import AutoModelForCausalLM
from verl.workers.engine.fsdp.transformer_impl import _scale_logits_by_temperature

from sd_search_verl.config import ConfigError, Divergence, HindsightConfig, SDSearchConfig
from sd_search_verl.config_base import ConfigModel
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.verl_adapter.actor.teacher_pass import scaled

COMBINATIONS = [
    {"divergence": divergence, "top_k": top_k, "support": support, "tail": tail}
    for divergence, top_k, support, tail in itertools.product(
        get_args(Divergence),
        (1, 50, None),
        ("teacher", "union"),
        ("bucket", "renormalize"),
    )
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return recorded_rows(byte_tokenizer())


def use(worker: Any, config: SDSearchConfig) -> None:
    worker.loss_fn.config = config


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_gradient_equals_the_reference(
    worker: Any,
    model: Path,
    rows: list[Row],
    combination: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    """The difference goes into ``--junitxml``, from which ``benchmarks.correctness.agreement`` makes its CSV."""
    _, top_k, support, tail = combination.values()
    if (top_k, support, tail) == (1, "teacher", "renormalize"):
        with pytest.raises(ConfigError, match="zero loss"):
            settings(**combination)
        return
    config = settings(**combination)
    ours, metrics = sd_gradients(worker, rows[:8], config)
    theirs, loss = reference(model, rows[:8], config)
    # fp32 log-probabilities carry about 1e-7; the gradient is what counts.
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(loss, rel=1e-5, abs=2e-7)
    difference = relative_difference(ours, theirs)
    record_property("relative_difference", difference)
    assert difference < 1e-5


def every_value() -> list[dict[str, Any]]:
    """One change for every allowed value of every field that is a choice, and some that combine."""
    numbers = [{"correct_above_f1": 0.5}, {"max_tokens": 200}]
    combined = [
        {"placement": "after_question", "labels": "none"},
        {"placement": "system", "labels": "shuffled", "group": "leave_one_out"},
    ]
    nested = [*choices(HindsightConfig), *numbers, *combined]
    changes = [*choices(SDSearchConfig), *({"hindsight": change} for change in nested)]
    changes.remove({"hindsight": {"content": "none"}})  # no gradient at all: a test of its own
    # Those of objectives/ have theirs in test_methods.py.
    elsewhere = ("gate", "use", "regularizer")
    return [change for change in changes if not any(name in change for name in elsewhere)]


def choices(model: type[ConfigModel]) -> list[dict[str, Any]]:
    """One change for every value of every field that is a choice."""
    hints = [(name, field.annotation) for name, field in model.model_fields.items()]
    return [{name: value} for name, hint in hints if get_origin(hint) is Literal for value in get_args(hint)]


@pytest.mark.parametrize("changes", every_value(), ids=str)
def test_options_reach_the_engine(worker: Any, model: Path, rows: list[Row], changes: dict) -> None:
    config = settings(**changes)
    ours, _ = sd_gradients(worker, rows[:8], config)
    theirs, _ = reference(model, rows[:8], config)
    assert relative_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_temperature_is_the_same_number_for_teacher_and_student(dtype: torch.dtype) -> None:
    logits = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    student = _scale_logits_by_temperature(logits, torch.full((64, 1), 0.7), is_unit_temperature=False)
    assert torch.equal(scaled(logits, 0.7), student)


def test_empty_block_gives_no_divergence(worker: Any, rows: list[Row]) -> None:
    seen: list[torch.Tensor] = []
    compare = type(worker.loss_fn)._on_logits

    def record(self: Any, logits: torch.Tensor, data: Any, teacher: Any) -> dict[str, torch.Tensor]:
        columns = compare(self, logits, data, teacher)
        seen.append(columns["sd_divergence"].detach())
        return columns

    worker.loss_fn._on_logits = record.__get__(worker.loss_fn)
    try:
        _, metrics = sd_gradients(worker, rows, settings(hindsight={"content": "none"}, top_k=None))
    finally:
        del worker.loss_fn._on_logits
    assert seen
    assert max(float(values.max()) for values in seen) <= 1e-6
    assert float(metrics["sd_search/jsd"][0]) <= 1e-6
    assert float(metrics["sd_search/teacher_student_top1"][0]) == pytest.approx(1.0)


def test_in_bf16_an_empty_block_makes_the_teacher_the_student_to_the_bit(
    model: Path, rows: list[Row]
) -> None:
    """At a temperature that bf16 rounds, 0.7: a teacher scaled by the unrounded number would differ.

    All tokens of the policy are scored and rows go one by one, so both forwards have the same shapes.
    """
    single_rank_environment()
    overrides = [
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    ]
    worker = make_worker(compose(model, overrides))
    config = settings(hindsight={"content": "none"}, positions="response")
    options = {"temperature": 0.7, "micro_batch_size_per_gpu": 1}
    gradient, metrics = sd_gradients(worker, rows[:8], config, **options)
    assert metrics["sd_search/jsd"] == [0.0]
    assert all(not value.any() for value in gradient.values())


def test_uniform_target_pulls_towards_uniform(worker: Any, model: Path, rows: list[Row]) -> None:
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    terms = []
    for row, item in zip(rows[:8], teacher_inputs(rows[:8], settings(), byte_tokenizer()), strict=True):
        for scored in item.rows:
            with torch.no_grad():
                student = torch.tensor([row.rollout.prompt.token_ids + row.rollout.response_ids])
                logits = policy(student).logits[0][scored.student_positions]
            uniform = torch.zeros(logits.shape[1])
            values = [naive_divergence(one, uniform, "jsd", None, "teacher", "bucket") for one in logits]
            terms.append(torch.stack(values).mean())
    _, metrics = sd_gradients(worker, rows[:8], settings(target="uniform", top_k=None))
    assert metrics["sd_search/loss"] == [pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)]


def test_padding_rows_and_row_order_do_not_matter(worker: Any, rows: list[Row]) -> None:
    config = settings()
    use(worker, config)
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in rows]
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    pairs = list(zip(still, inputs, strict=True))
    silent = [pair for pair in pairs if not pair[1].rows]
    speaking = [pair for pair in pairs if pair[1].rows][:8]
    assert silent
    padding = (still[0], TeacherInputs([], 0.0, [], 0))  # verl's filler rows get placeholders
    shuffled = [padding, *reversed(speaking), silent[0], padding, padding]

    def run(chosen: list[tuple[Row, TeacherInputs]]) -> tuple[dict, dict]:
        return gradients(worker, batch_of([row for row, _ in chosen], [item for _, item in chosen], ALPHA))

    expected, metrics = run(speaking)
    ours, other = run(shuffled)
    assert float(other["sd_search/loss"][0]) == pytest.approx(float(metrics["sd_search/loss"][0]), rel=1e-5)
    assert relative_difference(ours, expected) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_size_per_gpu": 1},
        {"micro_batch_size_per_gpu": 8},
        {"use_dynamic_bsz": True, "max_token_len_per_gpu": 600},
        {"use_remove_padding": True},
        {"use_remove_padding": True, "use_dynamic_bsz": True, "max_token_len_per_gpu": 900},
    ],
    ids=str,
)
def test_cutting_into_micro_batches_changes_nothing(worker: Any, rows: list[Row], options: dict) -> None:
    config = settings()
    use(worker, config)
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    expected, metrics = gradients(worker, batch_of(rows, inputs, ALPHA))
    ours, other = gradients(worker, batch_of(rows, inputs, ALPHA, **options))
    for name in ("sd_search/loss", "sd_search/jsd", "loss"):
        assert float(other[name][0]) == pytest.approx(float(metrics[name][0]), rel=1e-5)
    assert relative_difference(ours, expected) < 1e-5


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_teacher_pass_may_be_cut_as_it_likes(
    model: Path, worker: Any, rows: list[Row], dynamic: bool
) -> None:
    config = settings()
    use(worker, config)
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    expected, _ = gradients(worker, batch_of(rows, inputs, ALPHA))
    engine_config = worker.actor.engine_config
    # A budget below the longest row: such a row then goes alone.
    cut = {"infer_micro_batch_size_per_gpu": 3, "infer_max_token_len_per_gpu": 64, "use_dynamic_bsz": dynamic}
    before = {name: getattr(engine_config, name) for name in cut}
    vars(engine_config).update(cut)  # it is frozen
    try:
        batch = batch_of(rows, inputs, ALPHA, use_dynamic_bsz=False)
        ours, _ = gradients(worker, batch)
    finally:
        vars(engine_config).update(before)
    assert relative_difference(ours, expected) < 1e-5


def test_without_alpha_weights_are_bitwise_those_of_stock_verl(model: Path, rows: list[Row]) -> None:
    single_rank_environment()
    ours, stock = make_worker(compose(model)), make_worker(compose(model), stock=True)
    start = weights(ours)
    for step in range(3):
        part = rows[step * 4 : step * 4 + 8]
        ours.update_actor(batch_of(part, None, 0.0))
        stock.update_actor(batch_of(part, None, 0.0))
    left, right = weights(ours), weights(stock)
    assert any(not torch.equal(start[name], left[name]) for name in start)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_teacher_and_student_score_the_same_tokens(worker: Any, rows: list[Row]) -> None:
    """Decoded from the very rows the engine was given: same query text, and a block that leaks nothing."""
    tokenizer = byte_tokenizer()
    sent: list[torch.Tensor] = []
    engine = worker.actor.engine
    prepare = engine.prepare_model_inputs

    def record(micro_batch: Any) -> Any:
        if "responses" in micro_batch:  # the student's; of the method's fields verl has to cut up this one
            fields = [name for name, values in micro_batch.items() if isinstance(values, torch.Tensor)]
            assert [name for name in fields if name.startswith("sd_")] == ["sd_slots"]
        else:
            sent.extend(row for row in micro_batch["input_ids"].unbind() if len(row) > 2)
        return prepare(micro_batch=micro_batch)

    engine.prepare_model_inputs = record
    try:
        sd_gradients(worker, rows, settings())
    finally:
        del engine.prepare_model_inputs
    inputs = teacher_inputs(rows, settings(), tokenizer)
    expected = [(row, r) for row, item in zip(rows, inputs, strict=True) for r in item.rows]
    expected.sort(key=lambda pair: -len(pair[1].input_ids))
    assert len(sent) == len(expected) > 0
    for tokens, (row, r) in zip(sent, expected, strict=True):
        ids = tokens.tolist()
        student = row.rollout.prompt.token_ids + row.rollout.response_ids
        at_teacher = [ids[p + 1] for p in r.teacher_positions]
        assert at_teacher == [student[p + 1] for p in r.student_positions]
        assert tokenizer.decode(at_teacher) == "".join(f" {query} " for query in row.rollout.queries)
        prefix = tokenizer.decode(ids).split("Question:")[0]
        assert "CORRECT" in prefix
        for leak in ("THINKING", "DOCUMENT", "ANSWER", "<search>", "<information>", "<answer>"):
            assert leak not in prefix
        siblings = [other for other in rows if other.rollout.prompt.group == row.rollout.prompt.group]
        for sibling in siblings:
            assert all(query in prefix for query in sibling.rollout.queries)

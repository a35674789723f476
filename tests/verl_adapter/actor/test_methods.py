"""Every switch of ``objectives/`` through verl's real engine, against the same loss in loops."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.agreement import ALPHA, relative_difference
from support.engine import Row, compose, gradients, make_worker, settings, single_rank_environment, weights
from support.methods import CASES, method_batch, naive_gradients, rows_with_answers
from support.ranks import launch
from transformers import AutoModelForCausalLM

from sd_search_verl.verl_adapter.actor import worker as worker_module

CUTS: dict[str, dict[str, Any]] = {
    "4 at a time": {},
    "one by one": {"micro_batch_size_per_gpu": 1},
    "packed": {"use_remove_padding": True},
    "packed, dynamic": {"use_remove_padding": True, "use_dynamic_bsz": True, "max_token_len_per_gpu": 900},
}


@pytest.fixture(scope="module")
def network(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")


@pytest.fixture(scope="module")
def rows(network: Any) -> list[Row]:
    return rows_with_answers(network)


@pytest.fixture(scope="module")
def plain(worker: Any, rows: list[Row]) -> dict[str, torch.Tensor]:
    """GRPO's gradient."""
    worker.loss_fn.config = settings()
    return gradients(worker, method_batch(rows, settings(), 0.0))[0]


@pytest.mark.parametrize("case", CASES)
def test_a_switch_is_its_formula_however_the_mini_batch_is_cut(
    worker: Any, network: Any, rows: list[Row], plain: dict[str, torch.Tensor], case: str
) -> None:
    alpha, changes = CASES[case]
    config = settings(**changes)
    expected = naive_gradients(network, rows, config, alpha)
    worker.loss_fn.config = config
    for cut, options in CUTS.items():
        ours, _ = gradients(worker, method_batch(rows, config, alpha, **options))
        assert relative_difference(ours, expected) < 1e-5, cut
    assert relative_difference(ours, plain) > 1e-3  # the switch does something


@pytest.mark.slow
def test_two_ranks_compute_what_one_does(
    model: Path, network: Any, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cases = ["llds_response", "together", "advantage together"]  # every switch is in one
    found = launch(2, cases, model, tmp_path_factory.mktemp("ranks"), 240, "support.method_ranks")
    for case in cases:
        alpha, changes = CASES[case]
        expected = naive_gradients(network, rows, settings(**changes), alpha)
        for gradient in found[case]:
            assert relative_difference(gradient, expected) < 1e-5, case


def test_a_stage_of_distillation_has_no_policy_gradient(worker: Any, network: Any, rows: list[Row]) -> None:
    worker.loss_fn.config = settings(regularizer="llds")
    batch = method_batch(rows, worker.loss_fn.config, ALPHA, sd_policy_weight=0.0)
    expected = naive_gradients(network, rows, worker.loss_fn.config, ALPHA, policy_weight=0.0)
    assert relative_difference(gradients(worker, batch)[0], expected) < 1e-5


def test_the_regularizer_is_reported(worker: Any, rows: list[Row]) -> None:
    worker.loss_fn.config = settings(regularizer="llds")
    _, one = gradients(worker, method_batch(rows, settings(), 0.0))
    _, cut = gradients(worker, method_batch(rows, settings(), 0.0, micro_batch_size_per_gpu=1))
    assert float(one["sd_search/regularizer"][0]) > 0
    assert float(cut["sd_search/regularizer"][0]) == pytest.approx(
        float(one["sd_search/regularizer"][0]), rel=1e-5
    )


def test_the_teachers_time_counts_information_gain_once(
    worker: Any, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def slow(work: Any, seconds: float) -> Any:
        def wrapped(*arguments: Any) -> Any:
            now[0] += seconds
            return work(*arguments)

        return wrapped

    monkeypatch.setattr(worker_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for name, seconds in (("add_information_gain", 5.0), ("run_teacher_pass", 2.0)):
        monkeypatch.setattr(worker_module, name, slow(getattr(worker_module, name), seconds))
    worker.loss_fn.config = settings(information_gain=30.0)
    _, both = gradients(worker, method_batch(rows, worker.loss_fn.config, ALPHA))
    assert both["sd_search/teacher_s"] == [7.0]
    _, alone = gradients(worker, method_batch(rows, worker.loss_fn.config, 0.0))
    assert alone["sd_search/teacher_s"] == [5.0]


def test_switches_off_and_information_gain_without_golden_answers_are_bitwise_stock_verl(
    model: Path, rows: list[Row]
) -> None:
    single_rank_environment()
    ours, stock = make_worker(compose(model)), make_worker(compose(model), stock=True)
    ours.loss_fn.config = settings(use="advantage", gate="none", alpha=0.5, teacher="ema", schedule="cosine")
    for _ in range(2):
        ours.update_actor(method_batch(rows, settings(), 0.0))
        stock.update_actor(method_batch(rows, settings(), 0.0))
    left, right = weights(ours), weights(stock)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_moving_average_teaches_in_place_of_the_weights_and_is_in_the_checkpoint(
    model: Path, network: Any, rows: list[Row], tmp_path: Path
) -> None:
    single_rank_environment()
    config = settings(teacher="ema", teacher_decay=0.6)
    worker = make_worker(compose(model))
    worker.loss_fn.config = config
    first = weights(worker)
    worker.update_actor(method_batch(rows, config, ALPHA))
    second = weights(worker)
    worker.save_checkpoint(str(tmp_path))

    student, teacher = (AutoModelForCausalLM.from_config(network.config) for _ in range(2))
    student.load_state_dict(second, strict=False)
    teacher.load_state_dict({name: 0.6 * first[name] + 0.4 * second[name] for name in first}, strict=False)
    theirs = naive_gradients(student, rows, config, ALPHA, teacher=teacher)
    ours, _ = gradients(worker, method_batch(rows, config, ALPHA))
    assert relative_difference(ours, theirs) < 1e-5
    after = weights(worker)
    assert all(torch.equal(after[name], second[name]) for name in second)

    resumed = make_worker(compose(model))
    resumed.loss_fn.config = config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "get_device_id", lambda: 0)  # a number, as on a GPU
        resumed.load_checkpoint(str(tmp_path))
    again, _ = gradients(resumed, method_batch(rows, config, ALPHA))
    assert relative_difference(again, theirs) < 1e-5

    # A live teacher is the policy, though the checkpoint holds an average.
    resumed.loss_fn.config = settings()
    live, _ = gradients(resumed, method_batch(rows, settings(), ALPHA))
    assert relative_difference(live, naive_gradients(student, rows, settings(), ALPHA)) < 1e-5

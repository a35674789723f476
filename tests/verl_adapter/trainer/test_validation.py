"""Failed validation sessions are wrong answers in the metrics that verl makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from verl.trainer.ppo.metric_utils import process_validation_metrics

from sd_search_verl.scoring import compute_score
from sd_search_verl.verl_adapter.trainer.validation import add_failed_sessions

RIGHT = compute_score("nq", "<answer>Paris</answer>", {"target": ["Paris"]})


def metrics(sources: list[str], uids: list[str], infos: dict, expected: dict) -> tuple[dict, int]:
    *counted, failed = add_failed_sessions(sources, uids, infos, expected)
    return process_validation_metrics(*counted, expected_acc_counts=expected), failed


def test_a_question_whose_session_failed_is_wrong_in_every_metric() -> None:
    infos = {"reward": [RIGHT["score"]], **{name: [value] for name, value in RIGHT.items()}}
    expected = {("nq", "a"): 1, ("nq", "b"): 1}
    stock = process_validation_metrics(["nq"], ["a"], infos, expected_acc_counts=expected)
    assert stock["nq"]["em"]["mean@1"] == 1.0  # verl's own count
    found, failed = metrics(["nq"], ["a"], infos, expected)
    assert failed == 1
    assert set(infos) <= set(found["nq"])
    assert {name: found["nq"][name]["mean@1"] for name in infos} == dict.fromkeys(infos, 0.5)


def test_a_failed_session_of_several_is_wrong() -> None:
    infos = {"reward": [1.0], "em": [1.0]}
    found, failed = metrics(["nq"], ["a"], infos, {("nq", "a"): 4})
    assert failed == 3
    assert found["nq"]["em"]["mean@4"] == pytest.approx(0.25)


def test_question_sets_are_counted_apart() -> None:
    infos = {"reward": [1.0, 1.0]}
    found, _ = metrics(
        ["nq", "hotpotqa"], ["a", "b"], infos, {("nq", "a"): 1, ("hotpotqa", "b"): 1, ("nq", "c"): 1}
    )
    assert found["nq"]["reward"]["mean@1"] == 0.5
    assert found["hotpotqa"]["reward"]["mean@1"] == 1.0


def test_a_metric_of_one_question_set_is_not_made_for_another() -> None:
    infos = {"reward": [1.0, 1.0], "recall": [1.0, None]}
    expected = {("nq", "a"): 1, ("nq", "c"): 1, ("hotpotqa", "b"): 1, ("hotpotqa", "d"): 1}
    found, failed = metrics(["nq", "hotpotqa"], ["a", "b"], infos, expected)
    assert failed == 2
    assert found["nq"]["recall"]["mean@1"] == 0.5
    assert "recall" not in found["hotpotqa"]
    assert found["hotpotqa"]["reward"]["mean@1"] == 0.5


def test_a_question_set_that_lost_every_session_has_reward_0_and_no_other_metric() -> None:
    infos = {"reward": [1.0], "recall": [1.0]}
    found, _ = metrics(["nq"], ["a"], infos, {("nq", "a"): 1, ("hotpotqa", "b"): 1})
    assert {name: values["mean@1"] for name, values in found["hotpotqa"].items()} == {"reward": 0.0}


def test_when_every_session_failed_the_reward_is_0() -> None:
    found, failed = metrics([], [], {"reward": []}, {("nq", "a"): 1})
    assert failed == 1
    assert found["nq"]["reward"]["mean@1"] == 0.0


@pytest.mark.parametrize("right", [np.float32(1), np.int64(1), np.bool_(True), True, 1])
def test_numbers_of_any_kind_are_counted(right: Any) -> None:
    found, _ = metrics(["nq"], ["a"], {"reward": [1.0], "em": [right]}, {("nq", "a"): 1, ("nq", "b"): 1})
    assert found["nq"]["em"]["mean@1"] == 0.5


@pytest.mark.parametrize("text", ["Paris", np.str_("Paris")])
def test_texts_are_no_metric(text: str) -> None:
    """A number beside them would be one, and mixed values of one question break verl's mean."""
    infos = {"reward": [1.0, 1.0], "said": [text, 1.0]}
    found, _ = metrics(["nq", "hotpotqa"], ["a", "b"], infos, {("nq", "a"): 2, ("hotpotqa", "b"): 2})
    assert "said" not in found["nq"]
    assert found["hotpotqa"]["said"]["mean@2"] == 0.5


def test_accuracy_and_texts_stay_verls() -> None:
    infos = {"reward": [1.0], "acc": [1.0], "pred": ["Paris"]}
    found, _ = metrics(["nq"], ["a"], infos, {("nq", "a"): 1, ("nq", "b"): 1})
    assert found["nq"]["acc"]["mean@1"] == 0.5
    assert found["nq"]["acc_success_only"]["mean@1"] == 1.0
    assert "pred" not in found["nq"]


def test_nothing_changes_where_none_failed() -> None:
    infos = {"reward": [1.0, 0.0], "em": [1.0, None]}
    counted = add_failed_sessions(["nq", "nq"], ["a", "b"], infos, {("nq", "a"): 1, ("nq", "b"): 1})
    assert counted == (["nq", "nq"], ["a", "b"], infos, 0)

"""One readable line a step."""

from sd_search_verl.runs.console import format_step


def test_a_step_is_one_readable_line() -> None:
    metrics = {"step": 7, "critic/score/mean": 0.25, "sd_search/alpha": 0.001, "timing_s/step": 3.21}
    assert format_step(metrics) == "step    7  reward 0.250  alpha 0.001  3.2 s"


def test_alarms_end_the_line() -> None:
    raised = {"health/alarm/entropy": 1.0, "health/alarm/reward": 1.0, "health/alarm/searches": 0.0}
    assert format_step({"step": 12, **raised}) == "step   12  ! entropy, reward"


def test_failed_searches_are_shown_where_there_are_any() -> None:
    assert "failed searches 40" in format_step({"step": 3, "search/failures": 40.0})
    assert "failed" not in format_step({"step": 3, "search/failures": 0.0})

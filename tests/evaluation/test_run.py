"""Asking, resuming and summing up, with a policy by rule."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from statistics import fmean

import pytest
from support import scripted
from support.faults import files_no_larger_than
from support.scripted import R1, Policy, config, found, rows_of, write_questions

from sd_search_verl.data.questions import Question, read_questions
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.results import latency_line, summarize, table, timing
from sd_search_verl.evaluation.run import SearchFailedError, turn_seed
from sd_search_verl.evaluation.trajectories import TrajectoryFile, read_trajectories
from sd_search_verl.retriever_client.reply import SearchResult


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    return read_questions(write_questions(tmp_path / "digits.jsonl", 60), None, R1)


def test_every_question_once_whatever_runs_beside_it(questions: list[Question], tmp_path: Path) -> None:
    one_by_one = scripted.run(questions, tmp_path / "a", config("concurrency=1"), Policy())
    policy = Policy()
    together = scripted.run(questions, tmp_path / "b", config("concurrency=50"), policy)
    assert one_by_one == together
    rows = [json.loads(line) for line in (tmp_path / "b" / "trajectories.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(q.id for q in questions)
    assert 0 < together["sets"]["digits"]["em"]["mean"] < 1
    for row in rows:
        parsed = R1.parse(row["response"])
        assert parsed.queries == row["queries"]
        assert parsed.answer == row["answer"]


def test_a_kill_loses_nothing_that_was_written(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "killed"
    whole = scripted.run(questions, tmp_path / "whole", config(), Policy())
    # Forked, so that nothing need be imported again.
    process = multiprocessing.get_context("fork").Process(
        target=scripted.run, args=(questions, out, config("concurrency=8"), Policy(0.15)), daemon=True
    )
    process.start()
    trajectories = out / "trajectories.jsonl"
    deadline = time.monotonic() + 60
    while not (trajectories.exists() and trajectories.read_bytes().count(b"\n") >= 15):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()  # SIGKILL
    process.join()
    with trajectories.open("ab") as file:
        file.write(b'{"set": "digits", "id": "q5')  # killed in the middle of a line
    before = read_trajectories(trajectories)
    assert 15 <= len(before) < 60
    policy = Policy()
    assert scripted.run(questions, out, config(), policy) == whole
    after = read_trajectories(trajectories)
    assert [after[key] for key in before] == list(before.values())
    assert policy.first_turns >= 60 - len(before)
    again = Policy()
    assert scripted.run(questions, out, config(), again) == whole
    assert again.first_turns == 0


def test_two_evaluations_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        TrajectoryFile(tmp_path / "t.jsonl"),
        pytest.raises(UserError, match="another evaluation is writing"),
    ):
        TrajectoryFile(tmp_path / "t.jsonl")


def test_a_full_disk_names_the_file_and_loses_no_finished_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"set": "a", "id": str(i), "seed": 0, "response": "x" * 400} for i in range(9)]

    def write() -> None:
        with TrajectoryFile(path) as file:
            for row in rows:
                file.append(row)

    with files_no_larger_than(2000), pytest.raises(OSError, match="File too large") as error:
        write()
    assert error.value.filename == str(path)
    with TrajectoryFile(path) as file:
        assert [row["id"] for row in file.rows.values()] == ["0", "1", "2", "3"]
        file.append(rows[4])
    assert len(read_trajectories(path)) == 5


def test_a_damaged_line_is_named_and_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"set": "a", "id": "1", "seed": 0}\n{"set": "a"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl:2 is no trajectory"):
        read_trajectories(path)
    path.write_text('{"set": "a", "id": "1", "seed": 0}\n' * 2)
    with pytest.raises(UserError, match="question 1, seed 0 stands twice"):
        read_trajectories(path)


def test_a_dead_retriever_stops_the_run(questions: list[Question], tmp_path: Path) -> None:
    async def broken(query: str) -> SearchResult:
        return SearchResult(None, 0.0, "connection refused")

    with pytest.raises(SearchFailedError, match=r"5 of 5 searches failed.*connection refused"):
        scripted.run(questions, tmp_path / "a", config(), Policy(), broken)
    # Nothing that was answered without documents counts as finished.
    assert all(
        row["failures"] == 0 for row in read_trajectories(tmp_path / "a" / "trajectories.jsonl").values()
    )


def test_a_failed_search_is_tried_once_more(questions: list[Question], tmp_path: Path) -> None:
    failed: list[str] = []

    async def hiccup(query: str) -> SearchResult:
        if len(failed) < 3:
            failed.append(query)
            return SearchResult(None, 0.0, "busy")
        return await found(query)

    whole = scripted.run(questions, tmp_path / "whole", config(), Policy())
    assert scripted.run(questions, tmp_path / "a", config("max_failure_rate=1"), Policy(), hiccup) == whole
    assert len(failed) == 3

    async def refuses_sevens(query: str) -> SearchResult:
        return SearchResult(None, 0.0, "HTTP 400") if query == "7" else await found(query)

    summary = scripted.run(questions, tmp_path / "b", config("max_failure_rate=1"), Policy(), refuses_sevens)
    assert summary["sets"]["digits"]["questions"] == 60
    assert summary["sets"]["digits"]["search_failed"] > 0


def test_several_seeds(questions: list[Question], tmp_path: Path) -> None:
    summary = scripted.run(questions, tmp_path / "a", config("seeds=[0,1,2]"), Policy())
    single = [scripted.run(questions, tmp_path / str(s), config(f"seeds=[{s}]"), Policy()) for s in (0, 1, 2)]
    means = [one["macro"]["em"]["mean"] for one in single]
    assert list(summary["seeds"]["em"]["values"].values()) == means
    assert len(set(means)) > 1
    assert summary["macro"]["em"]["mean"] == pytest.approx(fmean(means))
    assert summary["sets"]["digits"]["questions"] == 60
    mean, sd = (100 * summary["seeds"]["em"][name] for name in ("mean", "sd"))
    assert f"EM, macro average over 3 seeds: {mean:.1f} ± {sd:.1f} (s.d.)" in table(summary)
    assert "over 1 seeds" not in table(single[0])
    assert "average  " not in table(summary)  # of one set


def test_seeds_of_turns_are_all_different(questions: list[Question]) -> None:
    seeds = {turn_seed(seed, q, turn) for seed in range(3) for q in questions for turn in range(6)}
    assert len(seeds) == 3 * 60 * 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_bamboogle_is_the_share_of_right_answers() -> None:
    """22 of 125 are 17.6 %, whatever the batches were. Means of batch means give other values."""
    summary = summarize(rows_of({"bamboogle": [1] * 22 + [0] * 103}))
    assert summary["sets"]["bamboogle"]["em"]["mean"] == 0.176
    assert summary["micro"]["em"]["mean"] == summary["macro"]["em"]["mean"] == 0.176


def test_papers_report_the_macro_average() -> None:
    summary = summarize(rows_of({"popqa": [0] * 900 + [1] * 100, "bamboogle": [1] * 100 + [0] * 25}))
    assert summary["macro"]["em"]["mean"] == pytest.approx((0.1 + 0.8) / 2)
    assert summary["micro"]["em"]["mean"] == pytest.approx(200 / 1125)
    shown = table(summary)
    assert "45.0 [" in next(line for line in shown.splitlines() if line.startswith("macro average"))
    assert "17.8 [" in next(line for line in shown.splitlines() if line.startswith("micro average"))


def test_rates_are_shares_of_rollouts() -> None:
    rows = rows_of({"nq": [1, 0, 0, 0]})
    assert "nq: " not in table(summarize(rows))
    keys = list(rows)
    rows[keys[0]] |= {"latencies_s": [], "gold_in_documents": []}
    rows[keys[1]] |= {"malformed": {"no_action": 1}, "truncated_observations": 1}
    rows[keys[2]] |= {"answer": None, "status": "turn_limit", "failures": 1}
    rows[keys[3]] |= {"answer": "", "status": "answered"}
    found = summarize(rows)["sets"]["nq"]
    expected = {"searches_per_question": 1.5, "any_gold": 0.75, "malformed": 0.25, "no_answer": 0.25}
    expected |= {"truncated_observations": 0.25, "turn_limit": 0.25, "search_failed": 0.25}
    assert {name: found[name] for name in expected} == expected
    (line,) = (line for line in table(summarize(rows)).splitlines() if line.startswith("nq  "))
    assert line.split()[-6:] == ["1.50", "75.0", "25.0", "25.0", "25.0", "25.0"]
    shown = [line for line in table(summarize(rows)).splitlines() if line.startswith("nq: ")]
    assert shown == ["nq: 25.0 % were still searching after the last turn (search.max_turns)"]
    assert timing(rows.values())["search_latency_s_p50"] == pytest.approx(0.2)
    silent = [row | {"latencies_s": []} for row in rows.values()]
    assert "search_latency_s_p50" not in timing(silent)
    assert latency_line(timing(silent)) == "latency, median (99th percentile): 1 s (1 s) a question"
    assert latency_line(timing(rows.values())) == (
        "latency, median (99th percentile): 1 s (1 s) a question, 0.2 s (0.3 s) a search"
    )

"""The page as text: what it holds, and that no text of a run can act in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.report import write_report
from sd_search_verl.report.html import fill, script_json
from sd_search_verl.report.trajectories import question

MakeRun = Callable[..., Path]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "line\u2028separator",
    "half a pair \ud83d",
    "{{css}} {{js}} \\u003c & &lt; ]]>",
]


class Scripts(HTMLParser):
    """Contents of the page's script elements, as a browser sees them, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.contents: list[str] = []
        self.tags: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "script":
            self._inside = True
            self.contents.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.contents[-1] += data


def embedded(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Scripts(page.read_text(encoding="utf-8")).contents[0])
    return found


def test_hostile_text_stays_text(make_run: MakeRun, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        tokens = [("<search>", 1), (text, 1), ("</search>", 1), (f"<information>{text}</information>", 0)]
        tokens += [(text, 1)] * 6
        metrics = {"search/em": 0.5, "timing_s/" + text: 1.0}
        run = make_run(f"run{number}", [metrics], answers=[text], question=text, tokens=tokens, blocks=[text])
        page = write_report([run], tmp_path / "report.html")
        parsed = Scripts(page.read_text(encoding="utf-8"))
        assert len(parsed.contents) == 2, text
        assert "img" not in parsed.tags
        viewer = embedded(page)["viewer"]
        assert viewer["rollouts"][0]["answer"] == text
        assert viewer["groups"][0]["question"] == text
        assert viewer["texts"][viewer["rollouts"][0]["blocks"][0]] == text


def test_data_is_ascii_that_cannot_end_its_element() -> None:
    for text in HOSTILE:
        found = script_json({"text": text})
        assert found.isascii()
        assert "<" not in found
        assert json.loads(found) == {"text": text}


def test_values_of_the_template_are_not_filled_again() -> None:
    assert fill("{{a}}-{{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}}-x"


def test_the_page_needs_no_network(make_run: MakeRun, tmp_path: Path) -> None:
    page = write_report([make_run("run", [{"search/em": 0.5}])], tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert "{{" not in page
    assert not re.search(r"@import|\burl\(|\bsrc=", page)


def test_head_line_and_summary(make_run: MakeRun, tmp_path: Path) -> None:
    values = [
        {"search/em": 0.25, "critic/score/mean": 0.2, "sd_search/alpha": 0.0},
        {"search/em": 0.5, "critic/score/mean": 0.6, "sd_search/alpha": 0.001},
    ]
    run = make_run("demo", values, answers=["Jane Austen", "Bronte"], blocks=["1. CORRECT: author Emma"])
    data = embedded(write_report([run], tmp_path / "report.html"))
    expected = "reward 0.200 → 0.600 · EM 0.250 → 0.500 · α 0.001 from step 2"
    assert data["headline"] == f"demo · 2 steps · 4 recorded rollouts · {expected}"
    (summary,) = data["runs"]
    assert summary["steps"] == "2 (1 to 2)"
    assert re.match(r"metrics\.jsonl of \d{4}-\d\d-\d\d \d\d:\d\d UTC$", summary["source"])
    assert summary["notes"] == []
    assert str(tmp_path) not in json.dumps(data)


@pytest.mark.parametrize(
    ("alphas", "says"),
    [
        ([0.0, 0.3, 0.3], "α 0.3 from step 2"),
        ([0.3, 0.15, 0.0], "α 0.15 to 0.3 from step 1 to 2"),
        ([0.0, 0.0], "α 0 throughout"),
    ],
    ids=str,
)
def test_the_weight_of_a_schedule_is_its_range(alphas: list[float], says: str, make_run: MakeRun) -> None:
    """A cosine ends at 0, which says nothing of the run."""
    run = make_run("run", [{"search/em": 0.5, "sd_search/alpha": alpha} for alpha in alphas])
    page = write_report([run], run / "report.html")
    assert embedded(page)["runs"][0]["alpha"] == says


def test_a_validation_before_training_is_no_step_of_training(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.25}])
    path = run / "metrics.jsonl"
    path.write_text('{"step": 0, "val-aux/nq/em/mean@1": 0.5}\n' + path.read_text())
    data = embedded(write_report([run], tmp_path / "report.html"))
    assert data["headline"].startswith("demo · 1 steps · ")
    assert data["runs"][0]["steps"] == "1 (0 to 1)"


def test_what_was_left_out_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": float("inf")}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    (summary,) = embedded(write_report([run], tmp_path / "report.html"))["runs"]
    assert summary["notes"] == [
        "traces.jsonl is missing: search.traces_per_step was 0, or it was moved",
        "metrics.jsonl: the last line is half-written and left out",
        "search/em is not finite in 1 step(s), first in step 1",
    ]


def test_too_many_rollouts_leave_whole_groups_out_evenly(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.5}] * 10, answers=["Jane Austen", "Bronte"])
    data = embedded(write_report([run], tmp_path / "report.html", max_rollouts=10))
    assert [group["step"] for group in data["viewer"]["groups"]] == [1, 3, 5, 7, 9]
    assert [rollout["group"] for rollout in data["viewer"]["rollouts"]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert "20 recorded rollouts (10 of them here)" in data["headline"]


def test_a_group_is_of_one_run_and_one_step(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(name, [{"search/em": 0.5}], answers=["Jane Austen"]) for name in ("a", "b")]
    viewer = embedded(write_report(runs, tmp_path / "report.html"))["viewer"]
    assert [group["run"] for group in viewer["groups"]] == [0, 1]
    assert len(viewer["texts"]) == 2  # the prompt and the documents, once


def test_credit_scale_is_not_ruled_by_one_extreme_token(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.5}], answers=["Jane Austen"] * 50)
    traces = [json.loads(line) for line in (run / "traces.jsonl").read_text().splitlines()]
    for number, trace in enumerate(traces):
        trace["credit"] = [[0.5, 100.0 if number == 0 else -1.0]]
        trace["divergence"] = [[0.25, None]]
    (run / "traces.jsonl").write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    viewer = embedded(write_report([run], tmp_path / "report.html"))["viewer"]
    assert viewer["credit"] == 1.0
    assert ["query", [" author", " Emma"], [0.5, 100.0], [0.25, None]] in viewer["rollouts"][0]["parts"]


def test_the_file_goes_where_it_is_asked_to(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.5}])
    assert write_report([run], run) == run / "report.html"
    assert write_report([run], tmp_path / "new" / "page.html").is_file()


def test_question_of_a_prompt() -> None:
    user = {"role": "user", "content": "For example Question: x. Question: who wrote Emma?\n"}
    assert question([{"role": "system", "content": "Question: no"}, user]) == "who wrote Emma?"
    assert question([{"role": "user", "content": "plain"}]) == "plain"
    assert question([]) == ""

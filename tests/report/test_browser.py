"""The page in headless Chromium: it draws, its keys work, and hostile text does nothing. Skipped without Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.report import write_report
from sd_search_verl.runs.writer import append_metrics

MakeRun = Callable[..., Path]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")

DRIVER = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
window.alert = () => errors.push("alert");
</script>
"""
STEPS = """
<script>
addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const type = async (text) => { byId("filter-text").value = text; byId("filter-text").oninput(); await wait(300); };
  const pick = (id, value) => { byId(id).value = value; byId(id).onchange(); };
  const shows = (text) => byId("rollout").textContent.includes(text);
  const answer = () => document.querySelector("#rollout .siblings [aria-current=true]")?.children[2].textContent;
  const seen = {};
  try {
    %s
  } catch (error) { errors.push(String(error)); }
  document.body.replaceChildren(el("pre", { id: "seen" }, JSON.stringify({ ...seen, errors })));
});
</script>
"""


def drive(page: Path, steps: str, profile: Path) -> dict[str, Any]:
    """Run ``steps`` in the page; returns what they put into ``seen``, and the errors."""
    text = page.read_text(encoding="utf-8").replace("<body>", "<body>" + DRIVER, 1)
    page.write_text(text.replace("</body>", STEPS % steps + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert match, f"the page did not come to its end: {result.stderr[-2000:]}"
    seen: dict[str, Any] = json.loads(unescape(match[1]))
    assert seen.pop("errors") == []
    return seen


def test_curves_viewer_and_keys(make_run: MakeRun, tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [
        {"search/em": 0.1, "sd_search/alpha": 0.0},
        {"search/em": 0.2, "sd_search/alpha": 0.1, "sd_search/jsd": 0.03},
        {"search/em": 0.3, "sd_search/alpha": 0.1, "sd_search/jsd": 0.02},
    ]
    more = [{"search/em": 0.3, "sd_search/alpha": 0.1}, values[1]]  # a gap, and a point by itself
    run = make_run(
        "demo", values, answers=["Jane Austen", "Bronte", "Scott"], blocks=["1. CORRECT: author Emma\n"]
    )
    for step, metrics in enumerate(more, start=4):
        append_metrics(run, step, metrics)
    steps = """
    seen.figures = document.querySelectorAll("#panels figure").length;
    seen.warmups = document.querySelectorAll("#panels .warmup").length;
    const jsd = document.querySelectorAll("#panels figure")[1].querySelector("path.line");
    seen.jsd = jsd.getAttribute("d").match(/[MLa]/g).join("");
    const svg = document.querySelector("#panels svg"), box = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right - 1, clientY: box.top + 9 }));
    seen.tip = document.querySelector(".tip").textContent;
    seen.curvesFirst = !byId("curves").hidden && byId("viewer").hidden;
    press("t"); seen.first = answer();
    press("j"); seen.j = answer();
    press("]"); seen.nextGroup = [answer(), shows("step 2")];
    press("]"); press("j"); press("["); seen.previousGroup = [answer(), shows("step 2")];
    press("k"); seen.k = answer();
    press("g"); seen.group = byId("count").textContent; press("g");
    press("/"); seen.slash = document.activeElement.id;
    byId("filter-text").blur();
    await type("BRONTE"); seen.text = [byId("count").textContent, answer()];
    await type("jane austen</inf"); seen.nothing = byId("rollout").textContent;
    await type(""); pick("filter-outcome", "correct"); pick("filter-step", "3");
    seen.correct = [byId("count").textContent, answer()];
    document.querySelectorAll(".siblings button")[2].click();
    seen.sibling = [answer(), byId("count").textContent];
    press("?"); seen.help = byId("help").open; byId("help").close();
    byId("theme").click(); seen.theme = document.documentElement.dataset.theme;
    seen.tokens = [...document.querySelectorAll(".token")].map((token) => token.textContent);
    seen.labels = [...document.querySelectorAll(".block .CORRECT")].length;
    seen.marked = document.querySelector(".documents mark").textContent;
    seen.badge = document.querySelector(".documents .badge").textContent;
    """
    seen = drive(write_report([run], tmp_path / "page.html"), steps, tmp_path / "profile")
    assert seen == {
        "figures": 2,
        "warmups": 2,
        "jsd": "MLMaa",
        "tip": "step 5EM: 0.2",
        "curvesFirst": True,
        "first": "Jane Austen",
        "j": "Bronte",
        "nextGroup": ["Jane Austen", True],
        "previousGroup": ["Jane Austen", True],
        "k": "Scott",
        "group": "3 of 9 rollouts",
        "slash": "filter-text",
        "text": ["3 of 9 rollouts", "Bronte"],
        "nothing": "No rollout fits the filters.",
        "correct": ["1 of 9 rollouts", "Jane Austen"],
        "sibling": ["Scott", "9 of 9 rollouts"],
        "help": True,
        "theme": "dark",
        "tokens": [" author", " Emma"],
        "labels": 1,
        "marked": "Jane Austen",
        "badge": "documents · a golden answer is among them",
    }


def test_hostile_text_is_shown_and_does_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028half \ud83d"
    tokens = [(hostile, 1)] * 7 + [(" author", 1), (" Emma", 1), (f"<information>{hostile}</information>", 0)]
    run = make_run(
        "a<img src=x onerror=alert(3)>",
        [{"search/em": 0.5, f"timing_s/{hostile}": 1.0}],
        answers=[hostile],
        question=hostile,
        tokens=tokens,
        blocks=[hostile],
    )
    steps = """
    press("t");
    seen.images = document.images.length;
    seen.shown = byId("rollout").textContent.split("onerror=alert(2)").length - 1;
    seen.run = byId("headline").textContent.startsWith("a<img src=x onerror=alert(3)> ");
    """
    seen = drive(write_report([run], tmp_path / "page.html"), steps, tmp_path / "profile")
    assert seen["shown"] >= 12
    assert (seen["images"], seen["run"]) == (0, True)


def test_credit_shades_tokens_and_orders_rollouts(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.5}], answers=["Jane Austen", "Bronte"])
    traces = [json.loads(line) for line in (run / "traces.jsonl").read_text().splitlines()]
    for trace, credit in zip(traces, ([0.1, None], [0.5, -1.0]), strict=True):
        trace["credit"], trace["divergence"] = [credit], [[0.25, 0.5]]
    (run / "traces.jsonl").write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    steps = """
    press("t");
    seen.shades = [...document.querySelectorAll(".token")].map((token) => token.style.getPropertyValue("--shade"));
    seen.title = document.querySelector(".token").title;
    seen.legend = document.querySelector(".scale").textContent;
    document.querySelector(".token").click();
    seen.tapped = document.querySelector(".scale .at").textContent;
    pick("sort", "credit"); press("k"); press("k");
    seen.largest = answer();
    """
    seen = drive(write_report([run], tmp_path / "page.html"), steps, tmp_path / "profile")
    assert seen["shades"] == ["color-mix(in srgb, var(--more) 14%, var(--card))", ""]
    assert (
        seen["title"] == "credit +0.1: the teacher finds it 1.11 × as likely as the student\ndivergence 0.25"
    )
    assert seen["legend"] == "credit −0.5+0.5log teacher / student; point at a token"
    assert (
        seen["tapped"] == "credit +0.1: the teacher finds it 1.11 × as likely as the student; divergence 0.25"
    )
    assert seen["largest"] == "Bronte"


def test_the_filter_finds_texts_and_not_their_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    """An answer of "0" is no reference to the first shared text, the prompt, which is not searched."""
    tokens = [("x", 1)] * 7 + [(" author", 1), (" Emma", 1), ("<answer>", 1), ("0", 1), ("</answer>", 1)]
    run = make_run("demo", [{"search/em": 0.5}], answers=["0"], tokens=tokens)
    steps = """
    await type("answer the question"); seen.prompt = byId("count").textContent;
    await type("emma"); seen.query = byId("count").textContent;
    """
    seen = drive(write_report([run], tmp_path / "page.html"), steps, tmp_path / "profile")
    assert seen == {"prompt": "0 of 1 rollout", "query": "1 of 1 rollout"}


def test_the_legend_of_more_runs_than_colours_has_the_colours_of_their_lines(
    make_run: MakeRun, tmp_path: Path
) -> None:
    runs = [make_run(f"run{number}", [{"search/em": 0.1}, {"search/em": 0.2}]) for number in range(10)]
    steps = """
    seen.legend = [...document.querySelectorAll("#legend .swatch")].map((one) => getComputedStyle(one).backgroundColor);
    seen.lines = [...document.querySelectorAll("#panels path.line")].map((one) => getComputedStyle(one).stroke);
    """
    seen = drive(write_report(runs, tmp_path / "page.html"), steps, tmp_path / "profile")
    assert seen["legend"] == seen["lines"][::-1]  # the first is drawn above the others
    assert len(seen["legend"]) == 10
    assert len(set(seen["legend"])) == 8


def test_ten_thousand_rollouts_stay_few_elements(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("demo", [{"search/em": 0.5}] * 100, answers=["Jane Austen"] * 100)
    steps = """
    press("t");
    seen.count = byId("count").textContent;
    seen.rows = document.querySelectorAll(".row").length;
    byId("list").scrollTop = 1e9; byId("list").onscroll(); await wait(200);
    seen.last = document.querySelector(".row:last-child").textContent.includes("step 100");
    await type("emma"); seen.found = byId("count").textContent;
    """
    seen = drive(write_report([run], tmp_path / "page.html"), steps, tmp_path / "profile")
    assert 0 < seen["rows"] < 100
    assert (seen["count"], seen["last"], seen["found"]) == (
        "10,000 of 10,000 rollouts", True, "10,000 of 10,000 rollouts",
    )  # fmt: skip

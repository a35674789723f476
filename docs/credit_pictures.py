"""Take a picture of docs/credit.md from a run's report: ``python docs/credit_pictures.py RUN``.

Needs Chromium. The picture is the report's own trajectory viewer, opened at one rollout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from sd_search_verl.report import write_report

FOLDER = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE = (1040, 960)
# The viewer's own controls: filter by question and step, choose a rollout of the group, leave the list out.
OPEN = """
<style>#rollouts, header {{ display: none !important }} #viewer {{ display: block !important }}</style>
<script>addEventListener("load", () => {{
  page.setTheme("light"); page.tab("viewer");
  byId("filter-text").value = {question}; byId("filter-step").value = {step}; byId("filter-step").onchange();
  setTimeout(() => document.querySelectorAll(".siblings button")[{rollout}].click(), 300);
}});</script>
"""


def take(report: str, picture: Path, question: str, step: int, rollout: int) -> None:
    """Write a picture of one rollout.

    Args:
        report: the page's HTML.
        rollout: its place in the group, from 0.
    """
    values = {"question": json.dumps(question), "step": json.dumps(str(step))}
    steps = OPEN.format(**values, rollout=rollout)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(report.replace("</body>", f"{steps}</body>"), encoding="utf-8")
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=4000",
        )
        sizes = (
            "--window-size={},{}".format(*SIZE),
            f"--user-data-dir={folder}/profile",
            f"--screenshot={picture}",
        )
        subprocess.run(
            [str(CHROMIUM), *options, *sizes, page.as_uri()], check=True, capture_output=True, timeout=120
        )


def main() -> None:
    """Take a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--question", required=True)
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--rollout", type=int, required=True, help="place in the group, from 0")
    parser.add_argument("--name", required=True, help="picture, without ending, such as credit_mixed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = write_report([options.run], Path(folder) / "report.html").read_text(encoding="utf-8")
    take(report, FOLDER / f"{options.name}.png", options.question, options.step, options.rollout)


if __name__ == "__main__":
    main()

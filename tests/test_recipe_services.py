"""The retriever that recipes start: what it serves, and how long it lives beside a Ray job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.raw_server import http, server
from support.recipes import REPO, commands


def test_the_retriever_serves_what_was_built(tmp_path: Path) -> None:
    for encoder, backend in (((), "bm25"), (("e5",), "dense")):
        built = commands("paper_data.sh", "data", *encoder, folder=tmp_path)[-1]
        (served,) = commands("paper_retriever.sh", "data", *encoder, folder=tmp_path)
        for option in ("--backend", "--corpus", "--index"):
            assert built[built.index(option) + 1] == served[served.index(option) + 1]
        assert served[served.index("--backend") + 1] == backend
    for encoder, backend in (((), "bm25"), (("",), "bm25"), (("e5",), "dense")):
        (served,) = commands("paper_retriever.sh", "data", *encoder, "--port", "9000", folder=tmp_path)
        assert served[served.index("--backend") + 1] == backend
        assert served[-2:] == ["--port", "9000"]


def test_a_ray_job_brings_its_retriever(tmp_path: Path) -> None:
    train = ["recipes/paper_sd_search.sh", "/data", "/run", "gpus=2x8"]
    serve, submitted, stop = commands(
        "ray_job_submit.sh", "http://head:8265", "/data", *train, folder=tmp_path
    )
    assert serve[serve.index("--") + 1 :][:2] == ["recipes/paper_retriever.sh", "/data"]
    assert serve[-4:] == ["--host", "0.0.0.0", "--port", "8000"]
    assert submitted[submitted.index("--") + 1 :] == [
        *train,
        "search.retriever_urls=[http://head:8000/retrieve]",
    ]
    job = serve[serve.index("--submission-id") + 1]
    assert stop == ["ray", "job", "stop", "--address", "http://head:8265", job]
    for call in (serve, submitted):
        assert call[call.index("--address") + 1] == "http://head:8265"
        assert call[call.index("--working-dir") + 1] == str(REPO)
        assert Path(call[call.index("--runtime-env") + 1]).is_file()
    mine = "http://mine:1/retrieve"
    (only,) = commands("ray_job_submit.sh", "http://h:8265", "/data", *train, folder=tmp_path, RETRIEVER=mine)
    assert only[-1] == f"search.retriever_urls=[{mine}]"


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [
        ("Status for job 't': RUNNING", False),
        ("Failed to connect to Ray at address: http://h:8265", False),
        ("Job 't' failed", True),
        ("Job 't' was stopped", True),
        ("RuntimeError: Request failed with status code 404: Job t does not exist", True),
    ],
)
def test_a_training_that_outlives_its_log_keeps_its_retriever(
    answer: str, stopped: bool, tmp_path: Path
) -> None:
    """Ray's command ends with status 1 where the job failed, and where the connection to its log was lost."""
    ray, calls = tmp_path / "ray", tmp_path / "calls"
    ray.write_text(
        f'#!/usr/bin/env bash\necho "$*" >> {calls}\n'
        f'case "$*" in *status*) echo "{answer}";; *no-wait*|*stop*) ;; *) exit 1;; esac\n'
    )
    ray.chmod(0o755)
    done = subprocess.run(
        [REPO / "recipes" / "ray_job_submit.sh", "http://h:8265", "data", "recipes/paper_sd_search.sh"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert ("job stop" in calls.read_text()) == stopped
    assert ("may go on, and so does retriever-" in done.stderr) != stopped


def submitted(folder: Path, address: str, *command: str, **environment: str) -> tuple[int, str, str]:
    """Status and error output of the script, and what it had Ray do."""
    ray, calls = folder / "ray", folder / "calls"
    calls.touch()
    ray.write_text(f'#!/usr/bin/env bash\necho "$*" >> {calls}\n')
    ray.chmod(0o755)
    done = subprocess.run(
        [REPO / "recipes" / "ray_job_submit.sh", address, "data", *command],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr, calls.read_text()


@pytest.mark.parametrize("key", ["http://:secret@head:8000", "http://user:se/secret@head:8000/retrieve"])
def test_a_key_in_an_address_never_reaches_ray(key: str, tmp_path: Path) -> None:
    """Ray stores a job's command, and shows it to whoever reaches the dashboard."""
    train = "recipes/paper_sd_search.sh"
    for command, environment in (
        ([train], {"RETRIEVER": key}),
        ([train, f"search.retriever_urls=[{key}]"], {"RETRIEVER": "http://head:8000"}),
    ):
        status, said, calls = submitted(tmp_path, "http://h:8265", *command, **environment)
        assert status == 2
        assert "Fix: " in said
        assert "RETRIEVER_API_KEY" in said
        assert "secret" not in said + calls
        assert calls == ""


def test_a_ray_that_runs_anybodys_commands_is_refused_unless_it_is_ones_own(tmp_path: Path) -> None:
    asked = []

    def lets_everybody_in(method: str, path: str, body: bytes) -> bytes:
        asked.append((method, path))
        return http([])

    def submit(address: str, **environment: str) -> tuple[int, str, str]:
        (tmp_path / "calls").unlink(missing_ok=True)
        return submitted(tmp_path, address, "train", **environment)

    with server(lets_everybody_in) as own:
        # A proxy lets the server stand for any host.
        proxied = {"http_proxy": own, "no_proxy": "127.0.0.1"}
        for address in ("http://head:8265", "http://127.0.0.1.head:8265", "http://head:8265/127.0.0.1:1"):
            status, said, calls = submit(address, **proxied)
            assert (status, calls) == (2, "")
            assert "can run commands as this user" in said
            assert "ray get-auth-token --generate" in said
            assert "RAY_AUTH_MODE=token" in said
            assert "ALLOW_OPEN_RAY=1" in said
        assert asked[0] == ("GET", "http://head:8265/api/jobs/")
        for address, allowed in ((own, {}), (f"{own}/", {}), ("http://head:8265", {"ALLOW_OPEN_RAY": "1"})):
            status, said, calls = submit(address, **proxied, **allowed)
            assert status == 0
            assert "can run commands as this user" in said
            assert "-- train" in calls
    with server(lambda method, path, body: http(b"no token", "401 Unauthorized")) as closed:
        for address in (closed, "http://head:8265"):
            status, said, calls = submit(address, http_proxy=closed, no_proxy="127.0.0.1")
            assert (status, said) == (0, "")
            assert "-- train" in calls

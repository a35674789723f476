"""BM25 without Java."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.retrieval_server import ask, running

from retriever_server.backends.bm25s import top_rows
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build


def test_bm25s_serves_without_java(small: Path, tmp_path: Path) -> None:
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    build("bm25s", small, tmp_path / "index", BuildOptions(), out=io.StringIO())
    with running("bm25s", index=tmp_path / "index", corpus=small) as url:
        found = ask(url, ["passage7 comet", "", "zzz", "the of"], 3)
        assert found[0][0][0] == "doc-7"
        assert found[1:] == [[], [], []]
        assert len(ask(url, ["castle river"], 100)[0]) <= 40


def test_top_rows_against_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 5, 200):
        scores = rng.integers(0, 6, size).astype(np.float32)
        for topk in (1, 3, 10):
            expected = sorted(range(size), key=lambda row: (-scores[row], row))[:topk]
            assert list(top_rows(scores, topk)) == expected


def test_jax_is_not_started(tmp_path: Path) -> None:
    """bm25s calls it when it is imported, and JAX then takes three quarters of a GPU's memory."""
    pytest.importorskip("bm25s", reason="the bm25s back end needs bm25s")
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").touch()
    (tmp_path / "jax" / "lax.py").write_text("def top_k(scores, k): print('started')\n")
    script = "import sys; from retriever_server.backends.bm25s import import_bm25s; import_bm25s(); {}"
    for last, printed in (
        ("print('jax' in sys.modules)", "False"),
        ("import jax.lax; jax.lax.top_k(0, 0)", "started"),  # whoever wants it later has it
    ):
        command = [sys.executable, "-c", script.format(last)]
        path = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.split() == [printed], done.stderr
    command = [sys.executable, "-c", "import bm25s"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["started"]  # so it would be without import_bm25s

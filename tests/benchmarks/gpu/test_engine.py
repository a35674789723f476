"""The part that tries vLLM alone, as far as it goes without a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main


def test_verls_transfer_of_weights_is_tried_between_two_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, status, word in ((0, 0, "RIGHT"), (1, 1, "WRONG")):
        line = ["--rehearse", "--only", "engine", "--out", str(tmp_path), "--inject-error", str(error)]
        assert main(line) == status
        shown = capsys.readouterr().out
        for step in ("weights by shared memory", "process group of one rank"):
            assert f"{word}    engine: {step}: error {error}" in shown

"""The real language model of a whole run on a card: cut, carried, joined, and asked for where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import bundle, policy_bundle, results
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.parts import stack
from benchmarks.gpu.results import Run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundle, "_site", lambda: tmp_path / "site")
    monkeypatch.setattr(policy_bundle, "PIECE_BYTES", 100)
    return tmp_path / "site"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in policy_bundle.DATA:
        (folder / name).write_text(name)
    return folder


def test_the_policy_is_whole_again_after_its_pieces_travelled(site: Path, data: Path, tmp_path: Path) -> None:
    policy = bytes(range(250))
    folders = policy_bundle.lay_out(policy, data, tmp_path / "out")
    assert [folder.name for folder in folders] == ["out1", "out2", "out3"]
    assert policy_bundle.missing()
    for folder in folders:
        assert main(["unpack", str(folder)]) == 0
    assert policy_bundle.missing() == []
    assert policy_bundle.join(tmp_path / "policy.gguf").read_bytes() == policy
    assert (bundle.installed_policy() / "corpus.jsonl").read_text() == "corpus.jsonl"


def test_without_the_policy_the_part_says_what_is_missing(site: Path, tmp_path: Path) -> None:
    results.start(tmp_path)
    stack.run(Run("stack-smollm2", "cpu", 0, tmp_path, 100.0), "smollm2")
    (row,) = results.read(tmp_path)
    assert row.state == "not run"
    assert row.detail.startswith("no policy.gguf.0 and corpus.jsonl and ")


def test_without_the_data_the_folders_are_not_begun(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"no corpus\.jsonl and .*; python -m benchmarks.data.wiki18_mini_data"
    ):
        main(["policy-bundle", str(tmp_path / "out"), str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_command_with_too_few_folders_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy-bundle", "out"]) == 2
    assert "policy-bundle DIR DATA" in capsys.readouterr().out

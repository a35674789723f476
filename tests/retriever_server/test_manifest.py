"""A manifest that was edited, cut or written by another version is refused with its name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from retriever_server import manifest as manifests


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "rows").write_bytes(b"rows")
    manifests.write(tmp_path, manifests.Manifest("bm25s", 3, "c.jsonl", 10, "a", "b", 0, {}, {}))
    return tmp_path


def test_what_was_written_is_read_again(index: Path) -> None:
    found = manifests.read(index)
    assert dataclasses.asdict(found)["files"]["rows"]["size"] == 4
    assert found.backend == "bm25s"


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": ["rows"]},
        {"files": {"rows": {}}},
        {"files": {"rows": {"size": "4", "sample": "x", "sha256": "y"}}},
        {"passages": "3"},
        {"corpus_size": None},
        {"settings": []},
        {"more": 1},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_refused(index: Path, change: dict[str, Any]) -> None:
    path = index / manifests.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(manifests.IndexMismatchError, match=r"manifest.json is damaged: .*Fix: ") as caught:
        manifests.read(index)
    assert "\n" not in str(caught.value)

"""Hybrid search: two rankings fused."""

from pathlib import Path
from typing import Any

import pytest
from support.retrieval_server import ask, running

from retriever_server import manifest as manifests
from retriever_server.backends.hybrid import fuse


def test_hybrid_fuses_both_rankings(
    hybrid_index: Path, dense: str, encoder_folder: Path, small: Path
) -> None:
    settings: dict[str, Any] = {"index": hybrid_index, "corpus": small, "encoder": encoder_folder}
    with running("hybrid", fusion_depth=20, **settings) as url:
        ours = ask(url, ["passage7 comet"], 5)[0]
    semantic = ask(dense, ["passage7 comet"], 20)[0]
    with (
        pytest.raises(manifests.IndexMismatchError, match="built for --backend hybrid"),
        running("bm25", **settings),
    ):
        pass
    ranks = {name: rank for rank, (name, _) in enumerate(semantic, start=1)}
    assert ours[0][0] == "doc-7"
    assert ours[0][1] == pytest.approx(1 / 61 + 1 / (60 + ranks["doc-7"]))


def test_fusion_by_hand() -> None:
    fused = fuse([[(1, 9.0), (2, 8.0)], [(2, 0.5), (3, 0.4)]], 2)
    assert fused == [(2, pytest.approx(1 / 62 + 1 / 61)), (1, pytest.approx(1 / 61))]

"""What the tests of verl's engine share: a tiny model on disk, and our actor worker with it, one a test module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.engine import compose, make_worker, single_rank_environment
from support.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def worker(model: Path) -> Any:
    single_rank_environment()
    return make_worker(compose(model))

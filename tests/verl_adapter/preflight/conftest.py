"""The run that the checks are tried on."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig
from support.good_run import good_config


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A run with nothing wrong but its retriever."""
    return good_config(tmp_path_factory.mktemp("good"))

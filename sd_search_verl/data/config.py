"""Options of ``sd-search data``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated

from pydantic import AfterValidator, Field

from sd_search_verl.config import ProtocolName, SearchConfig
from sd_search_verl.config_base import ConfigModel, Count, Seed, Unit
from sd_search_verl.data.flashrag import EVALUATION, REPOSITORY, TRAIN


def _one_of(known: Collection[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return name

    return check


class DataConfig(ConfigModel):
    """Which question sets to build, and with which prompt."""

    source: str = REPOSITORY
    """Hub repository (HF_ENDPOINT chooses a mirror) or a local folder in its layout."""
    train: list[Annotated[str, AfterValidator(_one_of(TRAIN))]] = Field(default=list(TRAIN))
    """Sets of ``train.parquet``, one after the other; verl shuffles. Without any there is no train.parquet."""
    evaluation: list[Annotated[str, AfterValidator(_one_of(EVALUATION))]] = Field(default=list(EVALUATION))
    """Sets with a file each in ``eval/``."""
    protocol: ProtocolName = SearchConfig.model_fields["protocol"].default
    """Protocol whose prompt the rows carry."""
    train_sample: Annotated[Count | None, Unit("questions")] = None
    """Questions of each training set; null = all."""
    sample: Annotated[Count | None, Unit("questions")] = None
    """Questions of each evaluation set; null = all."""
    seed: Seed = 0
    """Seed of the samples."""
    any_rows: bool = False
    """Accept files that do not have as many rows as the published sets."""

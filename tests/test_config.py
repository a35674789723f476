"""Every field is checked, and the message names the field, the value and the choices."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from sd_search_verl.config import (
    ConfigError,
    HealthConfig,
    HindsightConfig,
    SDSearchConfig,
    SearchConfig,
    from_mapping,
    to_mapping,
)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            SDSearchConfig,
            {"divergence": "kl"},
            "s.divergence='kl' is not one of jsd, forward_kl, reverse_kl, mse",
        ),
        (SDSearchConfig, {"alpha": -1}, "s.alpha=-1.0 must be at least 0"),
        (SDSearchConfig, {"alpha": "big"}, "s.alpha='big' must be of type float"),
        (SDSearchConfig, {"alpha": float("nan")}, "s.alpha=nan must be a finite number"),
        (SDSearchConfig, {"alpha": True}, "s.alpha=True must be of type float"),
        (SDSearchConfig, {"warmup_steps": 1.5}, "s.warmup_steps=1.5 must be of type int"),
        (SDSearchConfig, {"top_k": 0}, "s.top_k=0 must be at least 1, or null"),
        (
            SDSearchConfig,
            {"top_k": 1, "tail": "renormalize"},
            "s.top_k=1 with s.tail=renormalize has zero loss",
        ),
        (SDSearchConfig, {"alfa": 1}, "s.alfa is not a field; the fields are alpha, "),
        (
            SDSearchConfig,
            {"hindsight": {"labels": "yes"}},
            "s.hindsight.labels='yes' is not one of outcome, none",
        ),
        (SDSearchConfig, {"hindsight": 3}, "s.hindsight=3 must be a section"),
        (HindsightConfig, {"correct_above_f1": 1.0}, "s.correct_above_f1=1.0 must be in"),
        (HindsightConfig, {"max_tokens": 3}, "s.max_tokens=3 must be at least 16"),
        (SearchConfig, {"retriever_urls": "http://x"}, "must be a list, for instance"),
        (SearchConfig, {"retriever_urls": []}, "at least one address"),
        (SearchConfig, {"retriever_urls": ["x:1"]}, "starting with http"),
        (SearchConfig, {"max_turns": 0}, "s.max_turns=0 must be at least 1"),
        (SearchConfig, {"max_failure_rate": 2}, "between 0 and 1"),
        (SearchConfig, {"protocol": "r1"}, "s.protocol='r1' is not one of search_r1, autorefine"),
    ],
)
def test_a_wrong_value_is_named(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, values, "s")
    assert message in str(caught.value)


def test_defaults_survive_the_round_trip() -> None:
    for cls in (SDSearchConfig, SearchConfig, HealthConfig):
        assert from_mapping(cls, to_mapping(cls()), "s") == cls()


def test_the_papers_values_are_the_defaults() -> None:
    config = SDSearchConfig()
    assert (config.alpha, config.warmup_steps, config.top_k, config.divergence) == (1e-3, 50, 50, "jsd")
    assert config.positions == "query"
    assert config.hindsight == HindsightConfig("queries", "outcome", "all", 0.0)


def test_every_choice_is_accepted() -> None:
    for cls, section in ((SDSearchConfig, None), (HindsightConfig, "hindsight")):
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            for choice in get_args(hints[field.name]):
                if isinstance(choice, str):
                    values = {field.name: choice}
                    from_mapping(SDSearchConfig, {section: values} if section else values, "sd_search")

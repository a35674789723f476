"""Every field is checked, and the message names the field, the value and the choices."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

import sd_search_verl
from sd_search_verl.config import (
    ConfigError,
    HealthConfig,
    HindsightConfig,
    SDSearchConfig,
    SearchConfig,
    read_config,
)
from sd_search_verl.config_base import ConfigModel, description, fields_of, unit
from sd_search_verl.data.config import DataConfig
from sd_search_verl.evaluation.config import EvaluationConfig


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            SDSearchConfig,
            {"divergence": "kl"},
            "s.divergence='kl' must be 'jsd', 'forward_kl', 'reverse_kl' or 'mse'. Fix: set s.divergence, default jsd",
        ),
        (
            SDSearchConfig,
            {"alpha": -1},
            "s.alpha=-1 must be greater than or equal to 0. Fix: set s.alpha, default 0.001",
        ),
        (SDSearchConfig, {"alpha": "big"}, "s.alpha='big' must be a valid number"),
        (SDSearchConfig, {"alpha": float("nan")}, "s.alpha=nan must be a finite number"),
        (SDSearchConfig, {"alpha": True}, "s.alpha=True must be a valid number"),
        (SDSearchConfig, {"alpha": "0.1"}, "s.alpha='0.1' must be a valid number"),
        (SDSearchConfig, {"warmup_steps": True}, "s.warmup_steps=True must be a valid integer"),
        (SDSearchConfig, {"warmup_steps": "5"}, "s.warmup_steps='5' must be a valid integer"),
        (HealthConfig, {"stop_on_non_finite": 1}, "s.stop_on_non_finite=1 must be a valid boolean"),
        (SDSearchConfig, {"warmup_steps": 1.5}, "s.warmup_steps=1.5 must be a valid integer"),
        (SDSearchConfig, {"top_k": 0}, "s.top_k=0 must be greater than or equal to 1, or null"),
        (
            SDSearchConfig,
            {"top_k": 1, "tail": "renormalize"},
            "s.top_k=1 with tail=renormalize has zero loss. Fix: use tail=bucket",
        ),
        (
            SDSearchConfig,
            {"gate": "sigmoid", "target": "uniform"},
            "s.gate=sigmoid weighs by the teacher, target=uniform has another target. Fix: use gate=none",
        ),
        (
            SDSearchConfig,
            {"use": "advantage", "weighting": "group_variance"},
            "s.weighting=group_variance changes L_SD, which use=advantage has not. Fix: use weighting=uniform",
        ),
        (
            SDSearchConfig,
            {"gate": "labels", "hindsight": {"labels": "none"}},
            "s.gate=labels compares true labels with inverted ones, hindsight.labels=none",
        ),
        (
            SDSearchConfig,
            {"target": "contrast", "hindsight": {"labels": "flipped"}},
            "s.target=contrast compares true labels with inverted ones, hindsight.labels=flipped",
        ),
        (
            SDSearchConfig,
            {"use": "advantage", "gate": "sigmoid"},
            "s.gate=sigmoid changes L_SD, which use=advantage",
        ),
        (
            SDSearchConfig,
            {"use": "advantage", "target": "uniform"},
            "s.target=uniform changes L_SD, which use=",
        ),
        (
            SDSearchConfig,
            {"use": "advantage", "schedule": "stages"},
            "s.schedule=stages trains L_SD alone, which",
        ),
        (
            SDSearchConfig,
            {"use": "advantage", "alpha": 2.0},
            "s.alpha=2 times factor_bound=0.5 must be below 1: the factor of use=advantage must not turn",
        ),
        (SDSearchConfig, {"factor_bound": 1.0}, "s.factor_bound=1.0 must be less than 1"),
        (
            SDSearchConfig,
            {"regularizer": "kl"},
            "s.regularizer='kl' must be 'none', 'llds', 'llds_response' or 'sapo'",
        ),
        (SDSearchConfig, {"alfa": 1}, "s.alfa=1 is not a field. Fix: write s.alpha; the fields are alpha, "),
        (
            SDSearchConfig,
            {"hindsight": {"labels": "yes"}},
            "s.hindsight.labels='yes' must be 'outcome', 'none'",
        ),
        (SDSearchConfig, {"hindsight": {"lables": "none"}}, "Fix: write s.hindsight.labels; the fields are"),
        (SDSearchConfig, {"hindsight": 3}, "s.hindsight=3 must be a section"),
        (HindsightConfig, {"correct_above_f1": 1.0}, "s.correct_above_f1=1.0 must be less than 1"),
        (HindsightConfig, {"max_tokens": 3}, "s.max_tokens=3 must be greater than or equal to 16"),
        (
            SearchConfig,
            {"retriever_urls": "http://x"},
            "s.retriever_urls='http://x' must be a valid list. Fix: set s.retriever_urls=[http://x]",
        ),
        (SearchConfig, {"retriever_urls": []}, "s.retriever_urls=[] must have at least 1 item"),
        (
            SearchConfig,
            {"retriever_urls": ["x:1"]},
            "s.retriever_urls[0]='x:1' must match pattern '^https?://'",
        ),
        (SearchConfig, {"max_turns": 0}, "s.max_turns=0 must be greater than or equal to 1"),
        (
            SearchConfig,
            {"max_failure_rate": 2},
            "s.max_failure_rate=2 must be less than or equal to 1, or null",
        ),
        (
            SearchConfig,
            {"protocol": "r1"},
            "s.protocol='r1' must be 'search_r1', 'autorefine' or 'tool_call'",
        ),
    ],
)
def test_a_wrong_value_is_named(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(cls, values, "s")
    assert message in str(caught.value)


def test_defaults_survive_the_round_trip() -> None:
    for cls in (SDSearchConfig, SearchConfig, HealthConfig):
        assert read_config(cls, cls().model_dump(), "s") == cls()


def test_an_integer_is_a_float_and_every_wrong_value_of_a_section_is_named_at_once() -> None:
    assert read_config(SDSearchConfig, {"alpha": 1}, "s").alpha == 1.0
    with pytest.raises(ConfigError) as caught:
        read_config(SDSearchConfig, {"alpha": -1, "top_k": 0, "hindsight": {"max_tokens": 1}}, "s")
    assert [line.partition("=")[0] for line in str(caught.value).splitlines()] == [
        "s.alpha",
        "s.top_k",
        "s.hindsight.max_tokens",
    ]


def test_a_config_cannot_be_changed_and_a_changed_copy_is_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SDSearchConfig().alpha = 2.0  # type: ignore[misc]
    assert SDSearchConfig().replace(alpha=2.0).alpha == 2.0
    with pytest.raises(ValidationError, match="alpha"):
        SDSearchConfig().replace(alpha=-1.0)


@pytest.mark.parametrize(
    "model", [SDSearchConfig, HindsightConfig, SearchConfig, HealthConfig, EvaluationConfig, DataConfig]
)
def test_every_field_has_a_description_and_every_number_a_unit(model: type[ConfigModel]) -> None:
    for name, field in fields_of(model):
        assert description(field), name
        if "Literal" not in str(field.annotation) and re.search(r"\b(int|float)\b", str(field.annotation)):
            assert unit(field), name


def test_reading_the_config_module_loads_neither_torch_nor_omegaconf() -> None:
    program = "import sys, sd_search_verl.config; print(*({'torch', 'omegaconf', 'numpy', 'verl'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "\n"
    )


def test_the_papers_values_are_the_defaults() -> None:
    config = SDSearchConfig()
    assert (config.alpha, config.warmup_steps, config.top_k, config.divergence) == (1e-3, 50, 50, "jsd")
    assert config.positions == "query"
    assert config.hindsight == HindsightConfig(
        content="queries", labels="outcome", group="all", correct_above_f1=0.0
    )


def test_every_choice_is_accepted() -> None:
    for cls, section in ((SDSearchConfig, None), (HindsightConfig, "hindsight")):
        for name, field in cls.model_fields.items():
            for choice in get_args(field.annotation):
                if isinstance(choice, str):
                    values = {name: choice}
                    read_config(SDSearchConfig, {section: values} if section else values, "sd_search")


@pytest.mark.parametrize("own", [{"content": "current_documents"}, {"own": "cut"}])
@pytest.mark.parametrize("positions", ["response", "tool_arguments"])
def test_blocks_of_queries_score_query_tokens_only(own: dict[str, str], positions: str) -> None:
    with pytest.raises(ConfigError, match=f"positions='{positions}' does not go with"):
        read_config(SDSearchConfig, {"positions": positions, "hindsight": own}, "sd_search")


@pytest.mark.parametrize(
    "hindsight",
    [{"content": "none"}, {"labels": "shuffled"}, {"group": "correct_only"}, {"group": "best_sibling"}],
    ids=str,
)
@pytest.mark.parametrize("switch", [{"target": "contrast"}, {"gate": "labels"}], ids=str)
def test_inverting_labels_needs_a_block_that_shows_true_ones(
    hindsight: dict[str, str], switch: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"with inverted ones, hindsight\.(\w+)=.* Fix: use hindsight\.\1="):
        read_config(SDSearchConfig, {"hindsight": hindsight, **switch}, "sd_search")
    assert SDSearchConfig(hindsight=hindsight).hindsight.without_labels()
    assert not SDSearchConfig().hindsight.without_labels()


def test_every_option_is_read() -> None:
    """An option that nothing reads is taken, written down with the run, and changes nothing."""
    package = Path(sd_search_verl.__file__).parent
    declared, read = set(), set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.name == "config.py":
            models = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            inside = [(model, node) for model in models for node in model.body]
            declared |= {
                (path.parent.name, model.name, ast.unparse(node.target))
                for model, node in inside
                if isinstance(node, ast.AnnAssign)
            }
            functions = [node for _, node in inside if isinstance(node, ast.FunctionDef)]
            # Validators read every option; other functions read them for the rest of the package.
            tree = ast.Module([f for f in functions if "validator" not in ast.unparse(f)], [])
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert len(declared) > 100
    assert [name for name in sorted(declared) if name[-1] not in read] == []

"""A reward function that verl could not load or call is refused before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter.preflight import check_config
from sd_search_verl.verl_adapter.preflight.reward_function import check_reward_function

OPTION = "reward__custom_reward_function__"
GOOD = "def compute_score(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):\n    return 0.0\n"


def found(config: DictConfig, path: Path | str, **options: Any) -> list[Finding]:
    values = {f"{OPTION}{name}": value for name, value in options.items()}
    return [*check_reward_function(change(config, **{f"{OPTION}path": str(path)}, **values))]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("def compute_score(:\n", {}, "SyntaxError: invalid syntax"),
        (f"import no_such_module\n{GOOD}", {}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(2)\n", {}, "SystemExit: 2"),
        (GOOD, {"name": "score"}, "name=score cannot be loaded from"),
        (GOOD, {"name": None}, "name=None cannot be loaded from"),
        (GOOD, {"reward_kwargs": None}, "TypeError: 'NoneType' object is not iterable"),
        (GOOD, {"reward_kwargs": {"bonos": 1}}, "extra_info=..., bonos=1): got an unexpected keyword"),
        ("def compute_score(solution, truth): ...\n", {}, "missing a required argument: 'solution'"),
        ("compute_score = 5\n", {}, "5 is not a callable object"),
    ],
)
def test_a_function_that_loses_every_rollout_is_refused(
    good: DictConfig, tmp_path: Path, text: str, options: dict[str, Any], says: str
) -> None:
    (file := tmp_path / "mine.py").write_text(text)
    (finding,) = found(good, file, **options)
    assert finding.fatal
    assert says in finding.found
    assert str(file) in finding.found
    assert "every rollout would be lost" in finding.found
    assert "reward.custom_reward_function." in finding.fix


def test_our_own_function_that_a_file_imports_is_not_taken_for_the_files(
    good: DictConfig, tmp_path: Path
) -> None:
    text = "from sd_search_verl.scoring import compute_score\n" + GOOD.replace("compute_score", "brief")
    (file := tmp_path / "brief.py").write_text(text)
    assert found(good, file, name="brief", reward_kwargs={}) == []
    (finding,) = found(good, file)
    assert finding.fatal
    assert "name=compute_score is this package's own reward, which" in finding.found


@pytest.mark.parametrize("path", ["/no/file.py", "file:///no/file.py", "pkg://no_such.module"])
def test_a_function_that_is_nowhere_is_refused_once(good: DictConfig, path: str) -> None:
    findings = check_config(change(good, **{f"{OPTION}path": path}))
    (finding,) = [one for one in findings if one.fatal]
    assert path.partition("://")[2] in finding.found or path in finding.found


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (GOOD, {}),
        (GOOD, {"reward_kwargs": {"bonus": 1.0}}),
        ("def score(**given):\n    return 0.0\n", {"name": "score", "reward_kwargs": {"weight": 2}}),
        (f"async {GOOD}", {}),
        (
            "import functools\nfrom operator import add\ncompute_score = functools.partial(lambda **k: 0.0)\n",
            {},
        ),
    ],
)
def test_functions_that_take_verls_call(
    good: DictConfig, tmp_path: Path, text: str, options: dict[str, Any]
) -> None:
    (file := tmp_path / "mine.py").write_text(text)
    assert found(good, file, **options) == []


def test_a_key_that_our_own_reward_does_not_take_is_refused(good: DictConfig) -> None:
    (finding,) = found(good, good.reward.custom_reward_function.path, reward_kwargs={"metrik": "f1"})
    assert "got an unexpected keyword argument 'metrik'" in finding.found


def test_a_module_beside_the_command_is_found_as_verls_command_finds_it(
    good: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reward_module.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    assert found(good, "pkg://my_reward_module") == []
    assert sys.path == before


def test_a_reward_model_gives_two_arguments_more(good: DictConfig, tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text(GOOD)
    config = change(good, reward__reward_model__enable=True)
    (finding,) = found(config, file)
    assert "reward_router_address" in finding.found


def test_a_manager_of_the_users_own_calls_in_its_own_way(good: DictConfig, tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text("def compute_score(answer): ...\n")
    assert found(change(good, reward__reward_manager__source="importlib"), file) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return {'reward': 1.0}", "returns {'reward': 1.0} for a rollout that answers"),
        ("return None", "returns None for"),
        ("return '0.5'", "returns '0.5' for"),
        ("return float('nan')", "returns nan for"),
        ("return {'score': [1.0]}", "returns {'score': [1.0]} for"),
        ("import numpy; return numpy.str_('0.5')", "returns np.str_('0.5') for"),
    ],
)
def test_a_result_that_verl_cannot_read_is_refused(
    good: DictConfig, tmp_path: Path, body: str, says: str
) -> None:
    (file := tmp_path / "mine.py").write_text(f"{GOOD.partition('    return')[0]}    {body}\n")
    findings = found(good, file, reward_kwargs={})
    assert all(finding.fatal for finding in findings)
    assert says in findings[0].found
    assert "'score'" in findings[0].fix


@pytest.mark.parametrize(
    "body",
    ["return True", "import numpy; return numpy.float32(0.5)", "import torch; return torch.tensor(0.5)"],
)
def test_every_number_is_a_score(good: DictConfig, tmp_path: Path, body: str) -> None:
    (file := tmp_path / "mine.py").write_text(f"{GOOD.partition('    return')[0]}    {body}\n")
    assert found(good, file, reward_kwargs={}) == []


def test_a_reward_that_fails_for_one_kind_of_rollout_is_told(good: DictConfig, tmp_path: Path) -> None:
    """It may need a server that is not here, so it is a warning."""
    body = "    assert ground_truth['target']\n    return len(extra_info['sd_search']['answer'])\n"
    (file := tmp_path / "mine.py").write_text(GOOD.partition("    return")[0] + body)
    (finding,) = found(good, file, reward_kwargs={})
    assert finding.warning
    assert "fails for a rollout that does not answer the first training question" in finding.found
    assert "TypeError: object of type 'NoneType' has no len()" in finding.found

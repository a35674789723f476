"""The documentation names only what exists: files, symbols, commands, options, config keys, metrics, variables."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from support.documented import (
    REPO,
    check_arguments,
    code,
    identifiers,
    in_config,
    options_of_module,
    python_sources,
    resolves,
    symbols,
)

PAGES = sorted(
    [
        *(
            REPO / name
            for name in (
                "README.md",
                "CONTRIBUTING.md",
                "AGENTS.md",
                "recipes/verl_recipe/README.md",
                "benchmarks/README.md",
            )
        ),
        *(REPO / "docs").glob("*.md"),
    ]
)
HISTORY = {"log.md"}
"""Pages that tell what was tried, under the names of their day."""

ROOTS = (REPO, REPO / "sd_search_verl", REPO / "docs", REPO / "tests")
FILE = re.compile(
    r"(?<![\w./{$<-])((?:[\w.-]+/)+[\w.-]+\.(?:py|sh|yaml|csv|md|txt|svg|png|js|css|toml))(?![\w/*])"
)
PRODUCED = re.compile(r"^(runs|outputs|OUT|[A-Z_]+|checkpoints|global_step_\d+|\.hydra|wiki18-mini)/")
SECTIONS = ("sd_search", "search", "health")
VERL = ("actor_rollout_ref", "algorithm", "trainer", "data", "reward", "critic")
# Not keys of a configuration, though they look like one: attributes and files.
NOT_KEYS = re.compile(r"\.(py|md|yaml|json|jsonl|html|csv|sh|svg|parquet|pt|safetensors)$")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
current_page = pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name
)


def maker(name: str) -> Any:
    """Return the program in docs/ that makes a page's tables."""
    spec = importlib.util.spec_from_file_location(name, REPO / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_tables_are_current() -> None:
    module = maker("configuration_tables")
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run python docs/configuration_tables.py"
    assert "| `alpha` | `0.001` | weight | Weight of L_SD. |" in text


def test_the_table_of_refusals_is_current() -> None:
    module = maker("refused_table")
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run python docs/refused_table.py"
    assert "| trainer.v1.trainer_mode | refused | trainer.v1.trainer_mode=VALUE is verl's own trainer" in text
    assert "| search.traces_per_step | warned about |" in text


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@current_page
def test_files_that_are_named_exist(page: Path) -> None:
    for text in code(page):
        for path in FILE.findall(text):
            if not PRODUCED.match(path):
                assert any((root / path).exists() for root in ROOTS), path
        for recipe in re.findall(r"(?<![\w/.-])(\w+\.sh)\b", text):
            assert (REPO / "recipes" / recipe).exists(), recipe


@current_page
def test_symbols_named_with_their_file_exist(page: Path) -> None:
    """`name` in `path.py` and `path.py:name`, in prose."""
    text = page.read_text(encoding="utf-8")
    named = [(path, name) for name, path in re.findall(r"`(\w+)(?:\(\))?` (?:in|of) `([\w/]+\.py)`", text)]
    named += re.findall(r"`([\w/]+\.py):(\w+)`", text)
    for path, name in named:
        (file,) = [root / path for root in ROOTS if (root / path).exists()][:1]
        assert name in symbols(file), f"{name} in {path}"


@current_page
def test_dotted_names_exist(page: Path) -> None:
    for text in code(page):
        for name in re.findall(
            r"(?<![\w/.-])((?:sd_search_verl|retriever_server|benchmarks)(?:\.\w+)+)", text
        ):
            assert resolves(name), name


@current_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in code(page):
        for command in re.split(r"\s(?:&&|\||;)\s", line):
            # Only as modules do the programs of a package find each other.
            called = re.search(r"python3? (?:benchmarks|sd_search_verl|retriever_server)/", command)
            assert not called, command
            found = re.search(r"(?:^|\s)sd-search((?:\s|$).*)", command)
            if found:
                check_arguments(found[1])
            found = re.search(
                r"python3? -m ((?:sd_search_verl|retriever_server|benchmarks)[\w.]*)(.*)", command
            )
            if found:
                for option in re.findall(r"\s(--[\w-]+)", found[2].split("#")[0]):
                    assert option in options_of_module(found[1]), f"{found[1]} {option}"


@current_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for text in code(page):
        for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", text):
            assert target in targets, target


@current_page
def test_config_keys_exist(page: Path) -> None:
    for text in code(page):
        sections = "|".join((*SECTIONS, *VERL))
        keys = rf"(?<![\w/.+])(\+{{0,2}})((?:{sections})(?:\.\w+)+)(?![\w./(])(=?)"
        for plus, key, value in re.findall(keys, text):
            if not NOT_KEYS.search(key):
                assert in_config(key, overridable=bool(value) and not plus), key


def test_fixes_give_options_as_hydra_takes_them() -> None:
    for rule in maker("refused_table").rules():
        keys = rf"(?<![\w/.+])(\+{{0,2}})((?:{'|'.join((*SECTIONS, *VERL))})(?:\.\w+)+)="
        for plus, key in re.findall(keys, rule.fix):
            assert plus or in_config(key, overridable=True), f"{rule.name}: {key}"


@current_page
def test_metrics_exist(page: Path) -> None:
    sources = python_sources()
    for text in code(page):
        for metric in re.findall(r"(?<![\w/.-])(?:sd_search|search|health)/([a-z]\w+)(?![\w./])", text):
            parts = metric.rsplit("_", 1)
            assert metric in sources or all(part in sources for part in parts), metric


@current_page
def test_environment_variables_exist(page: Path) -> None:
    sources = python_sources() + "".join(
        path.read_text(encoding="utf-8")
        for folder in ("recipes", "docker", "tests")
        for path in (REPO / folder).rglob("*")
        if path.suffix in {".sh", ".yaml", ".py", ".env"} and path != Path(__file__)
    )
    for text in code(page):
        for name in re.findall(r"\b(SD_SEARCH_\w+|RETRIEVER_\w+)\b", text):
            assert name in sources, name


@current_page
def test_identifiers_exist(page: Path) -> None:
    """A name in backticks with an underscore, a call, or a capital inside occurs in the code."""
    words = identifiers()
    for text in code(page):
        for name in re.findall(r"^([A-Za-z]\w+)(?:\(\))?$", text):
            if name.isupper():
                continue  # environment variables of other programs too
            if "_" in name or re.search(r"[a-z][A-Z]", name):
                assert name in words, name


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (test_links_lead_somewhere, "[x](nowhere.md)"),
        (test_files_that_are_named_exist, "`distill/nowhere.py`"),
        (test_files_that_are_named_exist, "`nowhere.sh`"),
        (test_symbols_named_with_their_file_exist, "`no_such` in `distill/loss.py`"),
        (test_dotted_names_exist, "`sd_search_verl.distill.loss.no_such`"),
        (test_commands_and_their_options_exist, "`sd-search no_such`"),
        (test_commands_and_their_options_exist, "```bash\nsd-search score \\\n  --no-such\n```"),
        (test_commands_and_their_options_exist, "`python -m retriever_server --no-such 1`"),
        (test_make_targets_exist, "`make nothing`"),
        (test_config_keys_exist, "`sd_search.no_such=1`"),
        (test_config_keys_exist, "`actor_rollout_ref.no_such=1`"),
        (test_config_keys_exist, "`data.apply_chat_template_kwargs.enable_thinking=false`"),
        (test_metrics_exist, "`sd_search/nosuchmetric`"),
        (test_environment_variables_exist, "`SD_SEARCH_NO_SUCH`"),
        (test_identifiers_exist, "`noSuchName`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stale_name_is_found(tmp_path: Path, check: Any, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError):
        check(page)


def test_the_list_of_benchmarks_names_every_program() -> None:
    folder = REPO / "benchmarks"
    rows = re.findall(
        r"^\| `benchmarks\.([\w.]+)` \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    programs = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__main__")
        for path in folder.rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert sorted(rows) == sorted(programs - {"gpu.part"})  # started by benchmarks.gpu alone


def test_the_glossary_names_every_term_once() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \|", (REPO / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    terms = [term.strip() for row in rows if row not in {"term", "---"} for term in row.split(",")]
    assert len(terms) == len(set(terms)) > 40


def test_every_entry_of_the_log_has_date_area_idea_and_verdict() -> None:
    text = (REPO / "docs" / "log.md").read_text(encoding="utf-8")
    entries = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 80
    for entry in entries:
        found = re.match(r"\*\*(2026-\d\d-\d\d) · [a-z]+ · \S.*?\*\*", entry, re.DOTALL)
        assert found, f"not '**date · area · idea**': {entry[:80]}"
        assert re.search(r"\*Verdict: .+\.\*\s*$", entry, re.DOTALL), f"no verdict: {entry[:80]}"

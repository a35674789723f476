"""The data files: there, readable, with verl's columns; then their rows, the run's steps, and the longest prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.files import DataFile, data_files, is_remote, open_file
from sd_search_verl.verl_adapter.preflight.lengths import check_lengths
from sd_search_verl.verl_adapter.preflight.rows import SOURCE, Scan, scan
from sd_search_verl.verl_adapter.preflight.schedule import check_schedule

FORMATS = (".parquet", ".json", ".jsonl")

MISSING = Rule(
    "data.{option}",
    "{path} does not exist",
    "build it with `sd-search data build --out DIR`, or give another path",
)
FOLDER = Rule("data.{option}", "{path} is a folder", "give the files in it, [{path}/train.parquet]")
OTHER_FORMAT = Rule(
    "data.{option}",
    "{path} is neither .parquet nor .json nor .jsonl, which are all that verl reads",
    "`sd-search data own NAME FILE` makes parquet of JSON lines",
)
UNREADABLE = Rule(
    "data.{option}",
    "{path} is not {format} that can be read: {error}",
    "build it with `sd-search data build --out DIR`",
)
NO_COLUMN = Rule(
    "data.{option}",
    "{path} has no column {missing}; it has {there}",
    "`sd-search data own NAME FILE` makes every column that is needed",
)
TAKEN_COLUMN = Rule(
    "data.{option}",
    "{path} has the column {name}, a name that verl gives to a value or an option of a rollout: the column would "
    "stand in its place, or end every rollout",
    "rename the column, or drop it",
)
TAKEN = {
    *("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "num_turns", "metrics"),
    *("extra_fields", "routed_experts"),
    *("session_id", "trajectory", "trace", "sampling_params", "validate", "__do_sample__"),
}
"""What verl's agent loop writes of a rollout, the row's columns over it, and what it calls or tells a rollout with."""
SAME_FILE = Rule(
    "data.val_files",
    "{path} is among data.train_files too: the validation measures what was trained on",
    "give other questions, such as DIR/eval/SET.parquet of `sd-search data build --out DIR`, unless this is meant",
    warns=True,
)
SAME_QUESTIONS = Rule(
    "data.val_files",
    "{count} of the {checked} rows that were read of {path} have a prompt that stands in data.train_files too: the "
    "validation measures what was trained on",
    "take them out of one of the two, unless the sets were published so",
    warns=True,
)
NO_ROW = Rule("data.{option}", "{path} has no row", "build it with `sd-search data build --out DIR`")


def check_data(config: DictConfig) -> Iterator[Finding]:
    """Check every local file and its rows. Remote files and data sets of the user's own class are not read."""
    rows: int | None = 0
    scans: list[tuple[str, Scan]] = []
    for option in ("train_files", "val_files"):
        for name in data_files(config, option):
            count = None
            if is_remote(name):
                yield Finding(f"data.{option}", True, f"{name}: not checked, verl downloads it")
            else:
                opened = _open(Path(name), option)
                if isinstance(opened, Finding):
                    yield opened
                elif config.data.custom_cls.path:
                    count = opened.num_rows
                    yield Finding(
                        f"data.{option}", True, f"{name}: rows not checked, data.custom_cls reads them"
                    )
                else:
                    findings, scanned = _check_file(opened, option, config)
                    yield from findings
                    count = opened.num_rows
                    scans += [(option, scanned)] if scanned else []
            if option == "train_files":
                rows = None if count is None or rows is None else rows + count
    yield from _check_overlap(config, scans)
    yield from check_schedule(config, rows or None)
    yield from check_lengths(config, [messages for _, scanned in scans for messages in scanned.longest])


def _check_overlap(config: DictConfig, scans: Sequence[tuple[str, Scan]]) -> Iterator[Finding]:
    """Compare the questions that validate with those that train."""
    trained = {*map(_canonical, data_files(config, "train_files"))}
    for name in data_files(config, "val_files"):
        if _canonical(name) in trained:
            yield SAME_FILE.finding(path=name)
    seen = {key for option, scanned in scans if option == "train_files" for key in scanned.last_messages}
    for option, scanned in scans:
        if option == "train_files" or _canonical(str(scanned.file.path)) in trained:
            continue
        if count := sum(number for key, number in scanned.last_messages.items() if key in seen):
            yield SAME_QUESTIONS.finding(count=count, checked=scanned.checked, path=scanned.file.path)


def _canonical(name: str) -> str:
    """Return one name for a file however its path is written: relative, with ~ or through a link."""
    return name if is_remote(name) else str(Path(name).resolve())


def _open(path: Path, option: str) -> DataFile | Finding:
    if not path.is_file():
        return (FOLDER if path.is_dir() else MISSING).finding(option=option, path=path)
    if path.suffix not in FORMATS:
        return OTHER_FORMAT.finding(option=option, path=path)
    try:
        file = open_file(path)
    except Exception as error:
        text = on_one_line(error.__cause__ or error)[:200]
        return UNREADABLE.finding(option=option, path=path, format=path.suffix[1:], error=text)
    return file if file.num_rows else NO_ROW.finding(option=option, path=path)


def _check_file(file: DataFile, option: str, config: DictConfig) -> tuple[list[Finding], Scan | None]:
    """Return the findings about a file that can be read, and what its rows hold."""
    if taken := [name for name in file.columns if name in TAKEN]:
        return [TAKEN_COLUMN.finding(option=option, path=file.path, name=taken[0])], None
    wanted = {config.data.prompt_key, SOURCE, "reward_model"}
    if missing := ", ".join(sorted(wanted - set(file.columns))):
        there = ", ".join(file.columns)
        return [NO_COLUMN.finding(option=option, path=file.path, missing=missing, there=there)], None
    found = scan(file, config, train=option == "train_files")
    findings = [*found.findings(config)]
    if not findings:
        drawn = "" if found.checked == file.num_rows else f", {found.checked} of them drawn and checked"
        findings = [Finding(f"data.{option}", True, f"{file.path}: {file.num_rows} rows{drawn}")]
    return findings, found

"""The config of ``python -m verl.trainer.main_ppo ARGUMENTS``, and files of the user's that Hydra leaves out of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from sd_search_verl.config import ConfigError
from sd_search_verl.errors import on_one_line, without_credentials
from sd_search_verl.finding import Finding, Rule

HIDDEN = Rule(
    "--config-dir",
    "{file} is not read: {folder} has another {name}, which Hydra finds first",
    "give the file a name of its own, and choose that; or remove it",
)
UNUSED = Rule("--config-dir, of a file that the run does not choose", HIDDEN.broken, HIDDEN.fix, warns=True)


def compose(arguments: Sequence[str]) -> DictConfig:
    """Compose the config that ``python -m verl.trainer.main_ppo ARGUMENTS`` would run.

    Raises:
        ConfigError: Hydra's own message about what cannot be composed, a file that another one hides, or a sweep.
        SystemExit: Hydra's own message about an option of its command.
    """
    import verl  # noqa: F401  (loads the plugin)
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from yaml import YAMLError

    parser = get_args_parser()
    parser.prog = "sd-search check"
    given = parser.parse_args([*arguments])
    if given.multirun:
        raise ConfigError(
            "--multirun starts several runs. Fix: check one of them, with one value for each option"
        )
    path = create_automatic_config_search_path(None, "verl.trainer.main_ppo", given.config_path or "config")
    if given.config_dir:
        folder = Path(given.config_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir={given.config_dir} is not a folder")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    version.setbase(None)  # as verl's command does: without it Hydra composes as its version 1.1 did
    try:
        hydra = Hydra.create_main_hydra2("main_ppo", path)
        config = hydra.compose_config(given.config_name or "ppo_trainer", given.overrides, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        cause = f" ({on_one_line(error.__cause__)})" if error.__cause__ else ""
        raise ConfigError(without_credentials(f"{error}{cause}")) from error
    finally:
        GlobalHydra.instance().clear()
    for finding in hidden_files(config):
        if finding.fatal:
            raise ConfigError(finding.text)
        print(f"sd_search_verl: warning: {finding.text}", file=sys.stderr)
    with open_dict(config):
        del config["hydra"]  # not handed to verl either
    return config


def hidden_files(config: DictConfig) -> Iterator[Finding]:
    """Find files of the user's folders that Hydra does not read, since it finds another of their name first.

    Args:
        config: as Hydra composed it, with its own section.
    """
    if (hydra := config.get("hydra")) is None:
        return
    chosen = {_file(hydra.job.config_name)}
    # Such as policy: qwen2.5_3b_base, or actor@actor_rollout_ref.actor: dp_actor.
    chosen |= {_file(f"{group.partition('@')[0]}/{name}") for group, name in hydra.runtime.choices.items()}
    sources = [(source, _folder(source)) for source in hydra.runtime.config_sources]
    ours = [folder for source, folder in sources if source.provider == "sd_search_verl"]
    ours.append(Path(str(files("verl.trainer.config"))))
    names = chosen | {str(file.relative_to(folder)) for folder in ours for file in folder.rglob("*.yaml")}
    for place, (source, folder) in enumerate(sources):
        if source.schema != "file" or source.provider == "main":
            continue
        for name in sorted(names):
            file = folder / name
            first = next((other for _, other in sources[:place] if (other / name).is_file()), None)
            if first and file.is_file() and file.read_bytes() != (first / name).read_bytes():
                rule = HIDDEN if name in chosen else UNUSED
                yield rule.finding(file=file, folder=first, name=name)


def _file(name: str) -> str:
    return f"{str(name).removesuffix('.yaml')}.yaml"


def _folder(source: DictConfig) -> Path:
    """Return the folder of one of Hydra's sources; one that is nowhere for what is no folder."""
    if source.schema == "pkg":
        try:
            return Path(str(files(source.path)))
        except (ImportError, TypeError):  # Hydra warns about a package that is not there
            pass
    return Path(source.path if source.schema == "file" else "/nowhere")

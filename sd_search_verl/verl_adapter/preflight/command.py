"""The config of ``python -m verl.trainer.main_ppo ARGUMENTS``, and files of the user's that Hydra leaves out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sd_search_verl.config import ConfigError
from sd_search_verl.errors import on_one_line, without_credentials
from sd_search_verl.finding import Finding, Rule

HIDDEN = Rule(
    "--config-dir",
    "{file} is not read: {package} has another {name}, which Hydra finds first",
    "give the file a name of its own, and choose that",
)


def compose(arguments: Sequence[str]) -> DictConfig:
    """Compose the config that ``python -m verl.trainer.main_ppo ARGUMENTS`` would run.

    Raises:
        ConfigError: Hydra's own message about what cannot be composed, or a file that another one hides.
        SystemExit: Hydra's own message about an option of its command.
    """
    import verl  # noqa: F401  (loads the plugin)
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from yaml import YAMLError

    given = get_args_parser().parse_args([*arguments])
    path = create_automatic_config_search_path(None, "verl.trainer.main_ppo", given.config_path or "config")
    if given.config_dir:
        folder = Path(given.config_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir={given.config_dir} is not a folder")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    try:
        hydra = Hydra.create_main_hydra2("main_ppo", path)
        config = hydra.compose_config(given.config_name or "ppo_trainer", given.overrides, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        cause = f" ({on_one_line(error.__cause__)})" if error.__cause__ else ""
        raise ConfigError(without_credentials(f"{error}{cause}")) from error
    finally:
        GlobalHydra.instance().clear()
    for finding in hidden_files(config):
        raise ConfigError(finding.text)
    with open_dict(config):
        del config["hydra"]  # not handed to verl either
    return config


def hidden_files(config: DictConfig) -> Iterator[Finding]:
    """Find files of the user's folders that Hydra does not read, since a package before them has one of their name.

    Args:
        config: as Hydra composed it, with its own section.
    """
    sources = OmegaConf.select(config, "hydra.runtime.config_sources") or ()
    packages = [source.path for source in sources if source.schema == "pkg"]
    for source in sources:
        if source.schema == "file" and source.provider != "main":
            for package in packages:
                yield from _hidden_by(package, Path(source.path))


def _hidden_by(package: str, folder: Path) -> Iterator[Finding]:
    root = Path(str(files(package)))
    for read in sorted(root.rglob("*.yaml")):
        name = read.relative_to(root)
        if (folder / name).is_file() and (folder / name).read_bytes() != read.read_bytes():
            yield HIDDEN.finding(file=folder / name, package=package, name=name)

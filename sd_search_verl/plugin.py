"""verl's entry point (group ``verl.plugins``): loaded by ``import verl`` in every process.

verl hides what goes wrong while a plugin loads, so errors are logged here and kept in ``errors``, which ``sd-search
doctor`` shows.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from packaging.specifiers import SpecifierSet

from sd_search_verl.config import HealthConfig, SDSearchConfig, SearchConfig
from sd_search_verl.supported import SUPPORTED
from sd_search_verl.verl_adapter.settings import AGENT_LOOP, REWARD, TRAINER

logger = logging.getLogger(__name__)

errors: dict[str, str] = {}
"""What failed to load, by name, with its traceback or the reason."""


def _attempt(what: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception:
        errors[what] = traceback.format_exc()
        logger.exception("sd_search_verl could not load its %s; run `sd-search doctor`", what)


def _version_of_verl() -> None:
    """Say it in one line when verl is another than this package was written for; what follows may fail."""
    found, supported = version("verl"), SUPPORTED["verl"]
    if not SpecifierSet(supported).contains(found, prereleases=True):
        message = f"verl {found} is installed; this package is written for {supported}. "
        errors["version of verl"] = message + f"Fix: pip install 'verl{supported}'"
        logger.error(errors["version of verl"])


def _cpu_platform() -> None:
    from sd_search_verl.verl_adapter.cpu import activate_if_wanted

    activate_if_wanted()


def _config_group() -> None:
    """Register ``+sd_search=default``: our sections, and the values of verl's own options that go with them."""
    from hydra.core.config_store import ConfigStore

    node = {
        "sd_search": SDSearchConfig().model_dump(),
        "search": SearchConfig().model_dump(),
        "health": HealthConfig().model_dump(),
        "trainer": {"v1": {"trainer_mode": TRAINER}},
        "actor_rollout_ref": {"rollout": {"agent": {"default_agent_loop": AGENT_LOOP}}},
        "reward": {"custom_reward_function": {"path": REWARD, "name": "compute_score"}},
    }
    ConfigStore.instance().store(group="sd_search", name="default", node=node, package="_global_")


def _config_folder() -> None:
    """Let ``--config-name paper`` and its groups be found from any folder, after verl's own configs."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class SDSearchConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="sd_search_verl", path="pkg://sd_search_verl.hydra_configs")

    Plugins.instance().register(SDSearchConfigs)


def _refuse_other_method() -> None:
    from sd_search_verl.verl_adapter.hydra_callback import register

    register()


def _trainer_guard() -> None:
    from sd_search_verl.verl_adapter.trainer.guard import register

    register()


def _agent_loop() -> None:
    # By name: the class itself is imported only in the processes that run rollouts.
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    _agent_loop_registry[AGENT_LOOP] = {
        "_target_": "sd_search_verl.verl_adapter.rollout.agent_loop.SearchAgentLoop"
    }


def _trainer() -> None:
    import sd_search_verl.verl_adapter.trainer.modes  # noqa: F401  (registers them)


def _weight_sockets() -> None:
    from sd_search_verl.verl_adapter.rollout.weight_sockets import register

    register()


_version_of_verl()
_attempt("CPU platform", _cpu_platform)
_attempt("config group", _config_group)
_attempt("config folder", _config_folder)
_attempt("Hydra callback", _refuse_other_method)
_attempt("agent loop", _agent_loop)
_attempt("trainer", _trainer)
_attempt("guard of other trainers", _trainer_guard)
_attempt("names of weight sockets", _weight_sockets)

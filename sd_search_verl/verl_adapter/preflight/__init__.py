"""What can be known to be wrong with a run before it starts: ``sd-search check`` shows it, the trainer refuses it.

Every check takes verl's composed config and yields findings; each bad one names the field and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from omegaconf import DictConfig

from sd_search_verl.config import ConfigError
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.changed_options import check_changed_options
from sd_search_verl.verl_adapter.preflight.checkpoint import check_checkpoint
from sd_search_verl.verl_adapter.preflight.command import compose
from sd_search_verl.verl_adapter.preflight.data import check_data
from sd_search_verl.verl_adapter.preflight.device import check_device
from sd_search_verl.verl_adapter.preflight.disk import check_disk
from sd_search_verl.verl_adapter.preflight.hindsight import check_hindsight
from sd_search_verl.verl_adapter.preflight.method import check_method
from sd_search_verl.verl_adapter.preflight.names import check_names
from sd_search_verl.verl_adapter.preflight.options import check_keys, check_verl
from sd_search_verl.verl_adapter.preflight.plan import describe_run
from sd_search_verl.verl_adapter.preflight.policy import check_policy
from sd_search_verl.verl_adapter.preflight.retrievers import (
    check_addresses,
    check_identities,
    check_machines,
    check_retrievers,
)
from sd_search_verl.verl_adapter.preflight.reward_function import check_reward_function
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search

__all__ = ["check_config", "check_run", "compose", "describe_run", "refuse_bad_start"]


Check = Callable[[DictConfig], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    check_verl,
    check_device,
    check_names,
    check_reward_function,
    check_keys,
    check_addresses,
    check_machines,
    check_checkpoint,
    check_changed_options,
    check_disk,
)
READING: tuple[Check, ...] = (check_method, check_hindsight, check_data, check_policy)
"""Those that read our sections: where one is refused, they would find fault with what is only its consequence."""
SLOW: tuple[Check, ...] = (check_retrievers, check_identities)
FAILED = Rule(
    "check of {check}",
    "could not be made: {kind}: {error}",
    "correct the option that the message names, or the one that is null",
)


def check_run(config: DictConfig) -> list[Finding]:
    """Run all checks, the slow ones (of the retrievers) last. None of them raises or changes anything."""
    return [*check_config(config), *(_run(SLOW, config) if _sections_are_valid(config) else ())]


def check_config(config: DictConfig) -> list[Finding]:
    """Run all checks but those of the retrievers. None of them raises or changes anything."""
    return _run((*CHECKS, *READING) if _sections_are_valid(config) else CHECKS, config)


def refuse_bad_start(config: DictConfig) -> None:
    """Raise for every finding that would make the run worthless or end it later; the trainer calls it first.

    Raises:
        ConfigError: with every finding and its fix.
    """
    failed = [finding for finding in check_config(config) if not finding.ok]
    bad, warnings = [f for f in failed if f.fatal], [f for f in failed if f.warning]
    if not bad:
        found = [f for f in check_retrievers(config) if not f.ok]
        # The client fails over from one that is down to another, which it cannot do when all are.
        all_down = sum(f.fatal for f in found) == len(config.search.retriever_urls)
        (bad if all_down else warnings).extend(found)
        bad.extend(check_identities(config))
    for finding in warnings:
        print(f"sd_search_verl: warning: {_message(finding)}", flush=True)
    if bad:
        raise ConfigError("\n".join(map(_message, bad)))
    print("\n".join(["sd_search_verl: this run", *describe_run(config)]), flush=True)


def _sections_are_valid(config: DictConfig) -> bool:
    """Return whether the sections that other checks read are accepted; check_verl reports why not."""
    try:
        read_sd_search(config)
        read_search(config)
    except Exception:
        return False
    return True


def _run(checks: Iterable[Check], config: DictConfig) -> list[Finding]:
    """Run checks; where one fails, such as on a section that is null, that is its finding."""
    found: list[Finding] = []
    for check in checks:
        try:
            found.extend(check(config))
        except Exception as error:
            kind, name = type(error).__name__, check.__name__.removeprefix("check_")
            found.append(FAILED.finding(check=name, kind=kind, error=str(error).strip() or kind))
    return found


def _message(finding: Finding) -> str:
    return f"{finding.name}: {finding.text}"

"""What can be known to be wrong with a run before it starts: ``sd-search check`` shows it, the trainer refuses it.

Every check takes verl's composed config and yields findings; each bad one names the field and the fix.
"""

from __future__ import annotations

from omegaconf import DictConfig

from sd_search_verl.config import ConfigError
from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter.preflight.data import check_data
from sd_search_verl.verl_adapter.preflight.disk import check_disk
from sd_search_verl.verl_adapter.preflight.hindsight import check_hindsight
from sd_search_verl.verl_adapter.preflight.method import check_method
from sd_search_verl.verl_adapter.preflight.options import check_keys, check_verl, compose
from sd_search_verl.verl_adapter.preflight.plan import describe_run
from sd_search_verl.verl_adapter.preflight.policy import check_policy
from sd_search_verl.verl_adapter.preflight.retrievers import check_identities, check_retrievers

__all__ = [
    "check_data",
    "check_disk",
    "check_hindsight",
    "check_identities",
    "check_keys",
    "check_method",
    "check_policy",
    "check_retrievers",
    "check_run",
    "check_verl",
    "compose",
    "describe_run",
    "refuse_bad_start",
]


def check_run(config: DictConfig) -> list[Finding]:
    """Run all checks, the slow one (the retriever) last. None of them raises or changes anything."""
    return [
        *check_method(config),
        *check_verl(config),
        *check_keys(config),
        *check_hindsight(config),
        *check_data(config),
        *check_policy(config),
        *check_disk(config),
        *check_retrievers(config),
        *check_identities(config),
    ]


def refuse_bad_start(config: DictConfig) -> None:
    """Raise for every finding that would make the run worthless or end it later; the trainer calls it first.

    Raises:
        ConfigError: with every finding and its fix.
    """
    checks = (check_method, check_hindsight, check_data, check_policy, check_disk, check_keys)
    failed = [finding for check in checks for finding in check(config) if not finding.ok]
    bad, warnings = [f for f in failed if f.fatal], [f for f in failed if f.warning]
    if not bad:
        down = [f for f in check_retrievers(config) if not f.ok]
        # The client goes round one that fails, but not round all.
        (bad if len(down) == len(config.search.retriever_urls) else warnings).extend(down)
        bad.extend(check_identities(config))
    for finding in warnings:
        print(f"sd_search_verl: warning: {_message(finding)}", flush=True)
    if bad:
        raise ConfigError("\n".join(map(_message, bad)))
    print("\n".join(["sd_search_verl: this run", *describe_run(config)]), flush=True)


def _message(finding: Finding) -> str:
    return f"{finding.name}: {finding.found}. Fix: {finding.fix}"

"""The retrieval servers answer; those that are loading are waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.errors import UserError, without_key
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.retriever_client.check import check_retriever, is_loading
from sd_search_verl.retriever_client.endpoints import KEY_VARIABLE, is_own_machine
from sd_search_verl.retriever_client.identity import DisagreementError, describe, identify, stored
from sd_search_verl.verl_adapter.preflight.numbers import number
from sd_search_verl.verl_adapter.trainer import checkpoints

LOADING = Rule(
    "retriever {url}",
    "still says that it is loading (HTTP 503) after {waited} s",
    "see its log; raise search.max_loading_s if it needs longer",
)
DISAGREE = Rule(
    "search.retriever_urls",
    "{first} searches another index or with other settings than {other}: {identities}",
    "serve one index, with the same settings, at every address",
)
KEY_IN_URL = Rule(
    "search.retriever_urls",
    "{url} is given with a key, which would stand in every saved config and log of the run",
    f"put the key into the environment variable {KEY_VARIABLE}, on every node, and leave it out of the address",
)
EACH_ITS_OWN = Rule(
    "search.retriever_urls",
    "{url} is another server on every machine, and {option}={nodes}: rollouts of a machine without one get no "
    "documents",
    "give an address that all machines reach, unless each has that server",
    warns=True,
)
_MACHINES = ("trainer.nnodes", "actor_rollout_ref.rollout.nnodes")
CHANGED = Rule(
    "search.retriever_urls",
    "the run in {folder} was started with another retriever: {before}; the servers now have {now}",
    "serve that index, or train in another trainer.default_local_dir",
)


def check_addresses(config: DictConfig) -> Iterator[Finding]:
    """Check that no address holds a key."""
    for url in _addresses(config):
        if without_key(url) != url:
            yield KEY_IN_URL.finding(url=without_key(url))


def check_machines(config: DictConfig) -> Iterator[Finding]:
    """Check that a run on several machines does not ask each machine's own address."""
    several = {option: number(config, option) or 1 for option in _MACHINES}
    option, nodes = max(several.items(), key=lambda item: item[1])
    for url in _addresses(config):
        if nodes > 1 and is_own_machine(url):
            yield EACH_ITS_OWN.finding(url=without_key(url), option=option, nodes=nodes)


def _addresses(config: DictConfig) -> list[str]:
    urls = OmegaConf.select(config, "search.retriever_urls") or ()
    return [str(url) for url in ([urls] if isinstance(urls, str) else urls)]


def check_retrievers(config: DictConfig) -> Iterator[Finding]:
    """Check that every retriever answers.

    All are awaited together: up to ``search.max_loading_s`` while one is loading, else ``search.timeout_s``.
    """
    search, begun = config.search, time.monotonic()
    for url in search.retriever_urls:
        pause_s = 1.0
        while True:
            loading = is_loading(url)  # first: a server that gets ready between the two is asked once more
            finding = check_retriever(url, search.top_k)
            waited_s = time.monotonic() - begun
            if not finding.fatal or waited_s > float(search.max_loading_s if loading else search.timeout_s):
                break
            print(f"waiting for the retriever at {without_key(url)}: {finding.found}", flush=True)
            pause_s = min(2 * pause_s, 20)
            time.sleep(pause_s)
        if loading and finding.fatal:
            finding = LOADING.finding(url=without_key(url), waited=f"{waited_s:.0f}")
        yield finding


def check_identities(config: DictConfig) -> Iterator[Finding]:
    """Check that all retrievers that answer search one index, with the same settings, and the one of a resumed run."""
    try:
        identity = identify(config.search.retriever_urls)
    except DisagreementError as error:
        identities = f"{describe(error.identities[0])}; {describe(error.identities[1])}"
        yield DISAGREE.finding(first=error.urls[0], other=error.urls[1], identities=identities)
        return
    except UserError:
        return  # none answers, which check_retrievers names
    checkpoint = checkpoints.checkpoint_to_resume(config)
    if checkpoint is None or config.trainer.get("val_only", False):
        return
    before = stored(checkpoint.parent)
    if before is not None and before != identity:
        values = {"before": describe(before), "now": describe(identity)}
        yield CHANGED.finding(folder=checkpoint.parent, **values)

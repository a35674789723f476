"""The retrieval servers answer; those that are loading are waited for."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.doctor import Finding, check_retriever


def check_retrievers(config: DictConfig) -> Iterator[Finding]:
    """Every retriever answers. One that is loading is waited for; one that is not there, for ``search.timeout_s``."""
    for url in config.search.retriever_urls:
        deadline = time.monotonic() + float(config.search.timeout_s)
        while True:
            loading = _loading(url)  # first: a server that gets ready between the two is asked once more
            finding = check_retriever(url)
            if finding.ok or not (loading or time.monotonic() < deadline):
                break
            print(f"waiting for the retriever at {url}: {finding.found}", flush=True)
            time.sleep(2)
        yield finding


def _loading(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url.rsplit('/retrieve', 1)[0]}/ready", timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code == 503
    except (OSError, ValueError):
        return False
    return False

"""Check that a retrieval server replies."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from sd_search_verl.finding import Finding, Rule

NO_ANSWER = Rule(
    "retriever {url}",
    "{kind}: {error}",
    "start one with `python -m retriever_server` (--help lists its options), and give the address with /retrieve "
    "at its end",
)


def check_retriever(url: str) -> Finding:
    """Send one query to the server at ``url``; never raises."""
    body = json.dumps({"queries": ["test"], "topk": 1, "return_scores": True}).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            hits = json.load(response)["result"][0]
    except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError) as error:
        return NO_ANSWER.finding(url=url, kind=type(error).__name__, error=error)
    return Finding(NO_ANSWER.name.format(url=url), True, f"answers, {len(hits)} document(s) for 'test'")

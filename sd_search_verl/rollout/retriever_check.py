"""Check that a retrieval server replies, reached as the client of the rollouts reaches it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from sd_search_verl.errors import UserError
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.rollout.endpoints import auth_headers, retrieve_url, without_key

TIMEOUT_S = 10

NO_ANSWER = Rule(
    "retriever {url}",
    "{kind}: {error}",
    "start one with `python -m retriever_server` (--help lists its options), and give its address, "
    "http://host:port; where it requires a key, put it into the environment variable RETRIEVER_API_KEY, or for one "
    "command into the address, http://:KEY@host:port",
)


def check_retriever(url: str) -> Finding:
    """Send one query to the server at ``url``; never raises."""
    shown, body = without_key(url), {"queries": ["test"], "topk": 1, "return_scores": True}
    try:
        hits = open_url(retrieve_url(url), body)["result"][0]
    except (UserError, OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
        return NO_ANSWER.finding(url=shown, kind=type(error).__name__, error=error)
    return Finding(NO_ANSWER.name.format(url=shown), True, f"answers, {len(hits)} document(s) for 'test'")


def is_loading(url: str) -> bool:
    """Return whether the server at ``url`` says that it is loading its index (HTTP 503 from /ready)."""
    try:
        open_url(retrieve_url(url).removesuffix("/retrieve") + "/ready")
    except urllib.error.HTTPError as error:
        return error.code == 503
    except (UserError, OSError, HTTPException, ValueError):
        return False
    return False


def open_url(url: str, body: Any = None) -> Any:
    """Return the JSON answer to a GET request, or to a POST request with ``body`` as JSON.

    As the client, it uses no proxy of the environment, and sends the key in the URL as Basic authentication.

    Raises:
        OSError: no connection, or a status other than 2xx (:class:`urllib.error.HTTPError`).
        ValueError: the answer is not JSON.
    """
    headers = {"Content-Type": "application/json", **auth_headers(url)}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(without_key(url), data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=TIMEOUT_S) as response:
        return json.load(response)

"""Check that a retrieval server replies, reached as the client of the rollouts reaches it."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError, URLError

import aiohttp

from sd_search_verl.config import SearchConfig
from sd_search_verl.errors import UserError, on_one_line, one_line, without_key
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.retriever_client.answer import explanation, read_body
from sd_search_verl.retriever_client.endpoints import (
    auth_headers,
    retrieve_url,
    sibling_url,
    without_user,
)
from sd_search_verl.retriever_client.reply import decode_reply, parse_reply

TIMEOUT_S = 10
SHOWN = 200
"""Characters of a reply or a passage in a message."""
_NOT_OF_THE_REQUEST = (401, 403, 408, 429)
"""Refusals for a key or for load, not for what was asked."""
DEFAULT_TOP_K = SearchConfig().top_k

NO_ANSWER = Rule(
    "retriever {url}",
    "{kind}: {error}",
    "start one with `python -m retriever_server` (--help lists its options), and give its address, "
    "http://host:port; where it requires a key, put it into the environment variable RETRIEVER_API_KEY, or for one "
    "command into the address, http://:KEY@host:port; a server of your own must reply as docs/extending.md says",
)
REFUSED = Rule(
    NO_ANSWER.name,
    "answers HTTP {status} to {request}: {error}",
    "correct what it names: topk is search.top_k of a run, and a path that it does not know is the address's",
)
OTHER_REPLY = Rule(
    NO_ANSWER.name,
    "{error}, for the request {request}; the reply begins with {reply}",
    'let it reply {{"result": [[{{"document": {{"id": "1", "contents": "Title\\ntext"}}, "score": 1.0}}, ...]]}}, as '
    "docs/extending.md says: for each query a list of topk documents at most, which is search.top_k of a run",
)
EMPTY = Rule(
    NO_ANSWER.name,
    "the contents of all {count} documents for 'test' are empty: the policy would read nothing",
    'let contents be "Title\\ntext", as docs/extending.md says',
)
NO_TEXT = Rule(
    NO_ANSWER.name,
    "none of {count} documents for 'test' has a line after its title: the policy would read the whole passage as a "
    "title, such as (Title: {title})",
    'let contents be "Title\\ntext", as docs/extending.md says; an empty first line stands for no title',
    warns=True,
)


def check_retriever(url: str, top_k: int = DEFAULT_TOP_K) -> Finding:
    """Send one query to the server at ``url``, for ``top_k`` documents; never raises."""
    shown, body = without_key(url), {"queries": ["test"], "topk": top_k, "return_scores": True}
    try:
        reply = open_url(retrieve_url(url), body)
    except (UserError, OSError, ValueError) as error:
        if isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code not in _NOT_OF_THE_REQUEST:
            values = {"status": error.code, "request": json.dumps(body)}
            return REFUSED.finding(url=shown, error=one_line(error.msg), **values)
        return NO_ANSWER.finding(url=shown, kind=type(error).__name__, error=on_one_line(error))
    try:
        (hits,) = parse_reply(reply, num_queries=1, top_k=top_k)
    except ValueError as error:
        values = {"request": json.dumps(body), "reply": one_line(json.dumps(reply)[:SHOWN])}
        return OTHER_REPLY.finding(url=shown, error=on_one_line(error), **values)
    contents = [hit.contents.strip() for hit in hits]
    if hits and not any(contents):
        return EMPTY.finding(url=shown, count=len(hits))
    if hits and not any(hit.contents.partition("\n")[2].strip() for hit in hits):
        return NO_TEXT.finding(
            url=shown, count=len(hits), title=one_line(next(filter(None, contents)))[:SHOWN]
        )
    return Finding(NO_ANSWER.name.format(url=shown), True, f"answers, {len(hits)} document(s) for 'test'")


def is_loading(url: str) -> bool:
    """Return whether the server at ``url`` says that it is loading its index (HTTP 503 from /ready)."""
    try:
        open_url(sibling_url(retrieve_url(url), "/ready"))
    except HTTPError as error:
        return error.code == 503
    except (UserError, OSError, ValueError):
        return False
    return False


def open_url(url: str, body: Any = None) -> Any:
    """Return the JSON answer to a GET request, or to a POST request with ``body`` as JSON.

    It is sent as the client of the rollouts sends its own: past the proxies of the environment, with the key in the URL
    as Basic authentication.

    Raises:
        OSError: no connection, no whole answer within ``TIMEOUT_S``, or a status other than 2xx (``HTTPError``).
        ValueError: the answer is not JSON.
    """
    with ThreadPoolExecutor(1) as thread:  # an event loop may be running in this one
        return thread.submit(asyncio.run, _exchange(url, body)).result()


async def _exchange(url: str, body: Any) -> Any:
    method, limit = "GET" if body is None else "POST", aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(
                method, without_user(url), json=body, headers=auth_headers(url), allow_redirects=False
            ) as response,
        ):
            if not 200 <= response.status < 300:
                text = ": ".join(filter(None, (response.reason, await explanation(response))))
                raise HTTPError(str(response.url), response.status, text, hdrs=None, fp=None)  # type: ignore[arg-type]
            return decode_reply(await read_body(response))
    except TimeoutError:
        raise TimeoutError(f"no answer within {TIMEOUT_S:g} s") from None
    except aiohttp.ClientError as error:
        # aiohttp's own text does not say that a connection was refused.
        number = getattr(error, "errno", None) or 0
        raise URLError(os.strerror(number) if number > 0 else on_one_line(error)) from error

"""Identity of the retrieval servers, so that results of two indexes are never mixed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from sd_search_verl.errors import UserError, on_one_line, one_line, without_key
from sd_search_verl.files import read_json, write_json
from sd_search_verl.retriever_client.check import open_url
from sd_search_verl.retriever_client.endpoints import retrieve_url, sibling_url
from sd_search_verl.retriever_client.reply import SearchFunction, SearchResult, parse_reply

FILE = "retriever.json"
"""File of a run folder with the identity that the run was started with."""

_STATED = ("backend", "passages", "version", "settings")
_NO_PAGE = (404, 405, 501)  # statuses of a server that has no /ready
_QUERIES = ["capital of France", "first man on the moon", "who wrote the novel"]

Identity = dict[str, Any]


class DisagreementError(UserError):
    """Two servers search different indexes, or one index with different settings."""

    def __init__(self, urls: tuple[str, str], identities: tuple[Identity, Identity]) -> None:
        self.urls, self.identities = (without_key(urls[0]), without_key(urls[1])), identities
        has = [f"{url} has {describe(identity)}" for url, identity in zip(self.urls, identities, strict=True)]
        super().__init__(
            f"search.retriever_urls: the servers search different indexes: {'; '.join(has)}. "
            "Fix: serve one index, with the same settings, at every address"
        )


class RetrieverUnavailableError(UserError):
    """A server does not answer, or is still loading its index."""


def identify(urls: Sequence[str]) -> Identity:
    """Return the identity that all servers share; servers that do not answer are left out.

    retriever_server states back end, number of passages, index version and settings at ``/ready``. Of another server
    that has no such page, or states no version there, it is the digest of its documents for three fixed queries.

    Raises:
        RetrieverUnavailableError: no server answers.
        DisagreementError: two servers differ.
    """
    found: dict[str, Identity] = {}
    errors: list[UserError] = []
    for url in urls:
        try:
            found[url] = _identity(url)
        except RetrieverUnavailableError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    (first, expected), *others = found.items()
    for url, identity in others:
        if identity != expected:
            raise DisagreementError((first, url), (expected, identity))
    return expected


def require_unchanged(urls: Sequence[str], identity: Identity) -> None:
    """Check that the servers still search the index of ``identity``; servers that do not answer are left out.

    Raises:
        UserError: one searches another index, such as after a restart.
    """
    try:
        found = identify(urls)
    except RetrieverUnavailableError:
        return
    if found != identity:
        raise UserError(
            f"search.retriever_urls: the servers search another index since a restart: {describe(found)}, and at the "
            f"start it was {describe(identity)}. Fix: serve that index again, and repeat the command to go on"
        )


class IndexWatch:
    """Searches, and stops with an error as soon as the servers search another index.

    Args:
        search: function that searches.
        urls: servers that it asks.
        identity: theirs at the start.
        every_s: seconds between two checks, below the time that a server takes to restart.
    """

    def __init__(
        self, search: SearchFunction, urls: Sequence[str], identity: Identity, every_s: float = 1.0
    ) -> None:
        self._search, self._urls, self._identity, self._every_s = search, urls, identity, every_s
        self._checked, self._lock = time.monotonic(), asyncio.Lock()

    async def search(self, query: str) -> SearchResult:
        """Return the documents for one query.

        Raises:
            UserError: as of :func:`require_unchanged`. An answer of the other index is never returned.
        """
        found = await self._search(query)
        async with self._lock:
            if time.monotonic() - self._checked >= self._every_s:
                await asyncio.to_thread(require_unchanged, self._urls, self._identity)
                self._checked = time.monotonic()
        return found


def describe(identity: Identity) -> str:
    """Return an identity on one line."""
    return one_line(", ".join(f"{name} {value}" for name, value in identity.items()))


def require_same(folder: Path, identity: Identity, resumed: bool) -> None:
    """Write the identity into a run folder; a resumed run must have the one written there.

    Raises:
        UserError: the run was started with another retriever.
    """
    before = stored(folder) if resumed else None
    if before is not None and before != identity:
        raise UserError(
            f"{folder} was trained with another retriever: {describe(before)}; the servers now have "
            f"{describe(identity)}. Fix: serve that index, or train in another trainer.default_local_dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, identity)


def stored(folder: Path) -> Identity | None:
    """Return the identity in a run folder, or None without one."""
    path = folder / FILE
    return read_json(path) if path.is_file() else None


def _identity(url: str) -> Identity:
    retrieve, shown = retrieve_url(url), without_key(url)
    state = _state(retrieve, shown)
    if isinstance(state, dict) and "version" in state:
        return {name: state[name] for name in _STATED if name in state}
    try:
        reply = open_url(retrieve, {"queries": _QUERIES, "topk": 3, "return_scores": True})
        found = parse_reply(reply, len(_QUERIES), top_k=3)
    except (OSError, ValueError) as error:
        raise RetrieverUnavailableError(
            f"the retriever does not answer: {shown}: {type(error).__name__}: {on_one_line(error)}"
        ) from error
    documents = [[document.contents for document in of_query] for of_query in found]
    return {"documents": hashlib.sha256(json.dumps(documents).encode()).hexdigest()[:16]}


def _state(retrieve: str, shown: str) -> Any:
    """Return what a server states at ``/ready``, or None if it has no such page.

    Raises:
        RetrieverUnavailableError: it does not answer, or only with an error: then the digest of its documents, which
            it may well serve, would be taken for another index.
    """
    try:
        return open_url(sibling_url(retrieve, "/ready"))
    except ValueError:  # not JSON: a page of another server
        return None
    except OSError as error:
        status = error.code if isinstance(error, HTTPError) else None
        # A page that is elsewhere is none of this server's; where it redirects searches too, these say so.
        if status in _NO_PAGE or status in range(300, 400):
            return None
        says = " is still loading" if status == 503 else f": GET /ready: {on_one_line(error)}"
        raise RetrieverUnavailableError(f"the retriever does not answer: {shown}{says}") from error

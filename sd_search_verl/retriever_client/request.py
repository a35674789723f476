"""One request to a retrieval server, and what its answer means for the next try."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from sd_search_verl.errors import on_one_line, without_key
from sd_search_verl.retriever_client.answer import explanation, read_body
from sd_search_verl.retriever_client.endpoints import Endpoint
from sd_search_verl.retriever_client.reply import Document, decode_reply, parse_reply


@dataclass
class RetrieverStats:
    """Counters since the client was made."""

    searches: int = 0
    failures: int = 0
    """Searches without a reply."""
    requests: int = 0
    retries: int = 0
    """Requests after the first for the same queries."""
    throttled: int = 0
    """Replies 429 or 503."""
    timeouts: int = 0
    circuits_opened: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return dataclasses.asdict(self)


class RejectedError(Exception):
    """The server rejected the request itself (4xx), so a retry is useless."""


class RetryableError(Exception):
    """An attempt, or a round of them, failed for a reason that may be temporary.

    Args:
        reason: for the message.
        retry_after_s: the pause that a busy server asks for; None of a server that is not busy.
        faulty: a server answered, with an error of its own or with a malformed reply.
        refused: no server took the connection.
    """

    def __init__(
        self, reason: str, retry_after_s: float | None = None, faulty: bool = False, refused: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after_s, self.faulty, self.refused = retry_after_s, faulty, refused


async def post(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    queries: Sequence[str],
    top_k: int,
    timeout_s: float,
    stats: RetrieverStats,
) -> list[list[Document]]:
    """Send queries to a server and return the documents of each.

    Raises:
        RejectedError, RetryableError: as they say.
    """
    body = {"queries": list(queries), "topk": top_k, "return_scores": True}
    stats.requests += 1
    endpoint.in_flight += 1
    try:
        timeout = aiohttp.ClientTimeout(total=max(timeout_s, 0.01))
        # Redirects would let a server have this machine ask services that it alone reaches.
        async with session.post(
            endpoint.url, json=body, headers=endpoint.headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status in (429, 503):
                stats.throttled += 1
                raise RetryableError(f"HTTP {response.status}", _retry_after(response))
            if 300 <= response.status < 500 and response.status != 408:
                endpoint.succeeded()
                raise RejectedError(f"{without_key(endpoint.url)}: {await _status(response)}")
            if response.status != 200:
                raise RetryableError(await _status(response), faulty=True)
            documents = parse_reply(decode_reply(await read_body(response)), len(queries), top_k)
        endpoint.succeeded()
        return documents
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        malformed, refused = (isinstance(error, kind) for kind in (ValueError, aiohttp.ClientConnectorError))
        text = f"{type(error).__name__}: {on_one_line(error)}"
        raise RetryableError(text, faulty=malformed, refused=refused) from error
    finally:
        endpoint.in_flight -= 1


async def _status(response: aiohttp.ClientResponse) -> str:
    return f"HTTP {response.status}: {await explanation(response)}"


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 1.0  # an HTTP date, which retriever_server never sends

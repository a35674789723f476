"""The body of a server's answer, read up to a limit, and what an answer that is no success says."""

from __future__ import annotations

from contextlib import suppress

import aiohttp
from yarl import URL

from sd_search_verl.errors import one_line

MAX_BODY = 64 * 2**20
"""Bytes of a reply, unpacked; a compressed one of 1 MB may unpack to a thousand."""
MAX_ERROR = 16 * 2**10
"""Bytes of an answer that is no success."""
SHOWN = 300
"""Characters of such an answer in a message."""
_PIECE = 64 * 2**10


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a reply.

    Raises:
        ValueError: it has more than ``MAX_BODY`` bytes.
    """
    body = await read_start(response, MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise ValueError(f"malformed reply: more than {MAX_BODY // 2**20} MiB")
    return body


async def read_start(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the first ``most`` bytes of a body, or all of a shorter one."""
    body = bytearray()
    # Of what is asked for at once, aiohttp unpacks several times as much ahead.
    while piece := await response.content.read(min(_PIECE, most - len(body))):
        body += piece
    return bytes(body)


async def explanation(response: aiohttp.ClientResponse) -> str:
    """Return what an answer that is no success says, on one line: its beginning, or where it redirects to."""
    if (address := _redirected_to(response)) is not None:
        return f"redirects are not followed, here to {address}; give that address as the retriever's"
    body = b""
    with suppress(aiohttp.ClientError):  # a body that breaks off
        body = await read_start(response, MAX_ERROR)
    return one_line(body.decode(errors="replace"))[:SHOWN]


def _redirected_to(response: aiohttp.ClientResponse) -> str | None:
    """Return the address of a redirect without what may be secret, user and query; None without one."""
    if not 300 <= response.status < 400:
        return None
    try:
        url = response.url.join(URL(response.headers["Location"]))
        return f"{url.origin()}{url.raw_path}"[:SHOWN]
    except (KeyError, ValueError):
        return None

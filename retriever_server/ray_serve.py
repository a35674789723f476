"""The server as a Ray Serve application: Ray places its replicas on a training cluster.

    serve run retriever_server.ray_serve:application replicas=2 backend=bm25 index=DIR corpus=FILE

Every other argument is a setting, named as on the command line. Ray's proxy costs more per call than a BM25
query, so clients should put many queries into a call, as the rollout client does.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from .__main__ import parser
from .app import make_app
from .settings import Settings, flag

CALLS_AT_ONCE = 1024  # per replica; Ray's default of 5 would leave nothing to batch


@serve.deployment(max_ongoing_requests=CALLS_AT_ONCE)
@serve.ingress()
class Retriever:
    """One replica: the usual application, with an index of its own on the node's disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._app = make_app(self._settings)
        return self._app

    async def check_health(self) -> None:
        """Ray sends no call before this has returned once: not before the index is open."""
        server = self._app.state.server
        while server.engine is None and server.error is None:
            await asyncio.sleep(0.05)
        if server.error is not None:
            raise server.error


def application(arguments: dict[str, str]) -> Application:
    """The application that ``serve run`` starts.

    Args:
        arguments: ``replicas`` and settings by name; ``host`` and ``port`` are Ray's business.

    Raises:
        SettingsError: a setting is out of range.
    """
    values = dict(arguments)
    replicas = int(values.pop("replicas", "1"))
    line = [part for name, value in values.items() for part in (flag(name), str(value))]
    settings = Settings(**vars(parser().parse_args(line)))
    deployment: serve.Deployment = Retriever
    return deployment.options(num_replicas=replicas).bind(settings)

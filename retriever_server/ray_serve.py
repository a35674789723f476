"""The server as a Ray Serve application, whose replicas Ray places on a training cluster.

    serve run retriever_server.ray_serve:application replicas=2 backend=bm25 index=DIR corpus=FILE

Every other argument is a field of :class:`.settings.Settings`; paths are those of the replicas' nodes. Ray's proxy
costs more per call than a BM25 query, so clients should send many queries per call, as the rollout client does.
"""

from __future__ import annotations

import asyncio

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from .app import Application as RetrieverApplication
from .middleware import guarded
from .options import SettingsError
from .settings import Settings

MAX_ONGOING_REQUESTS = 1024  # per replica; Ray's default of 5 is too small for batches
DECIDED_BY_RAY = ("host", "port", "port_file", "workers", "tls_cert", "tls_key", "body_timeout_s", "drain_s")


@serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS)
@serve.ingress()
class Retriever:
    """One replica: the application of one process, with an index on the node's disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> ASGIApp:
        self._app = RetrieverApplication(self._settings)
        return guarded(self._app)

    async def check_health(self) -> None:
        """Return once the index is open: Ray routes no request to a replica before this has returned."""
        server = self._app.server
        while server.engine is None and server.error is None:
            await asyncio.sleep(0.05)
        if server.error is not None:
            raise server.error


def application(arguments: dict[str, str]) -> Application:
    """Return the application for ``serve run``.

    Args:
        arguments: ``replicas``, and settings by name.

    Raises:
        SettingsError: a setting is unknown, out of range, or one that only a server of its own has.
    """
    if refused := [f"{name}=" for name in DECIDED_BY_RAY if name in arguments]:
        raise SettingsError(
            f"{', '.join(refused)} cannot apply under Ray Serve, whose proxy accepts the connections. "
            "Fix: leave out; set addresses and TLS in Ray's http_options, and give replicas= in place of workers=."
        )
    values = dict(arguments)
    replicas = values.pop("replicas", "1")
    if not replicas.isdecimal() or int(replicas) == 0:
        raise SettingsError(
            f"replicas={replicas} must be a whole number from 1. Fix: give replicas=1 or more."
        )
    deployment: serve.Deployment = Retriever
    return deployment.options(num_replicas=int(replicas)).bind(Settings.from_strings(values))

"""Run one serving process: bind, serve, report readiness, end cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn

from .app import Application
from .errors import RetrieverError, explain
from .http_protocol import protocol_class
from .middleware import guarded
from .options import SettingsError
from .settings import Settings
from .supervisor import SOCKET_VARIABLE, supervise, write_port_file

log = logging.getLogger("retriever_server")

GC_THRESHOLD = 20_000
"""A batch of answers allocates more objects than Python's default of 700, and almost none of them are cyclic."""
BACKLOG = 2048  # connections that wait to be accepted
OPEN_FILES = 4096  # with fewer, a large run's clients already reach the limit
END_S = 3.0  # after --drain-s, for what still runs without a client that waits for it


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address.

    It listens at once: with ``SO_REUSEADDR``, which a restart needs, Linux lets several sockets bind a port, and only
    the first to listen has it.

    Raises:
        SettingsError: the port is taken or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        fix = "end what listens there, or choose another --port (0 picks a free one)"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            fix = "give --host a name or an address of this machine, without scheme, brackets and port"
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Fix: {fix}."
        ) from None
    return sock


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def raise_open_files() -> None:
    """Allow as many open files as the hard limit does, and warn where those are few.

    A connection is an open file, and one beyond the limit ends without an answer; shells often give 1,024 or 256.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where the system refuses, the warning says what is left
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < OPEN_FILES:  # no limit is negative
        log.warning(
            "at most %d files may be open, and each connection is one: more clients get no answer. Fix: raise the hard "
            "limit (`ulimit -n 65536` as root, `docker run --ulimit nofile=65536`)",
            allowed,
        )


def check_files(settings: Settings) -> None:
    """Check the files that are needed only once the index is loaded, which may take minutes.

    Raises:
        SettingsError: certificate and key are none, or do not belong together.
        OSError: a file cannot be read or written.
    """
    if settings.port_file:
        settings.port_file.unlink(missing_ok=True)
        temporary = settings.port_file.with_name(settings.port_file.name + ".tmp")
        temporary.touch()
        temporary.unlink()
    if settings.tls_cert and settings.tls_key:
        for path in (settings.tls_cert, settings.tls_key):
            path.open("rb").close()  # the error below names none
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
        except ssl.SSLError as error:
            raise SettingsError(
                f"--tls-cert {settings.tls_cert} and --tls-key {settings.tls_key} are no certificate and its key in "
                f"PEM: {error.reason or error}. Fix: give both files of one certificate."
            ) from None


class _Uvicorn(uvicorn.Server):
    """Uvicorn raises a signal again after its clean shutdown, which kills the process; this one returns.

    Args:
        end: called where the shutdown takes longer than it may: a search cannot be stopped while it waits for another
            server, or scans for minutes, and Python waits for its thread.
    """

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self.late = threading.Timer((config.timeout_graceful_shutdown or 0) + END_S, end)
        self.late.daemon = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.late.start()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _stop_with_supervisor(server: uvicorn.Server) -> None:
    sys.stdin.read()  # returns when the supervisor has closed its end of the pipe, or has died
    server.should_exit = True


def serve(settings: Settings, arguments: Sequence[str] = ()) -> int:
    """Serve until a signal arrives; return the exit status.

    Args:
        arguments: command line of ``settings``, passed on to workers.

    Raises:
        SettingsError: the address cannot be bound, or as of :func:`check_files`.
    """
    inherited = os.environ.get(SOCKET_VARIABLE)
    if not inherited:  # a worker has the limit of its supervisor
        raise_open_files()
    sock = socket.socket(fileno=int(inherited)) if inherited else bind(settings.host, settings.port)
    url = url_of(sock, "https" if settings.tls_cert else "http")
    check_files(settings)

    if settings.workers > 1:
        return supervise(settings, sock, arguments, url)

    def on_loaded() -> None:
        if app.server.error is not None:
            uvicorn_server.should_exit = True
            return
        gc.collect()
        gc.freeze()  # the loaded index is never garbage: do not traverse it again
        gc.set_threshold(GC_THRESHOLD)
        log.info("ready: %s/retrieve (%s)", url, settings.backend)
        if settings.port_file:
            write_port_file(settings.port_file, url)

    app = Application(settings, on_loaded)
    config = uvicorn.Config(
        guarded(app),
        http=protocol_class(settings.body_timeout_s),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,  # longer than clients keep idle connections, so that the client closes first
        timeout_graceful_shutdown=settings.drain_s,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )

    def end() -> None:
        log.warning("a search has not ended; it is cut off")
        forget_address()
        os._exit(0 if app.server.error is None else 1)

    def forget_address() -> None:
        if settings.port_file:
            settings.port_file.unlink(missing_ok=True)

    uvicorn_server = _Uvicorn(config, end)
    if inherited:
        threading.Thread(target=_stop_with_supervisor, args=[uvicorn_server], daemon=True).start()
    log.info("listening on %s, loading", url)
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(uvicorn_server.serve(sockets=[sock]))
    finally:
        uvicorn_server.late.cancel()
        sock.close()
        forget_address()
    error = app.server.error
    if isinstance(error, OSError):
        print(f"error: {explain(error)}", file=sys.stderr)
    elif isinstance(error, RetrieverError | ImportError):
        print(f"error: {error}", file=sys.stderr)
    elif error is not None:
        log.error("the back end cannot be opened", exc_info=error)
    return 1 if error is not None else 0

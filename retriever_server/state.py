"""State of a serving process and its startup."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from .backends.base import Engine
from .backends.registry import open_engine
from .batcher import Batcher
from .corpus import CorpusError
from .errors import RetrieverError
from .metrics import Metrics
from .settings import Settings

REFRESH_S = 1.0  # below the time that another server takes to restart
REFRESH_TIMEOUT_S = 2.0


class ServerState:
    """Engine and batcher of one process, both None until the index is open."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.batcher: Batcher | None = None
        self.engine: Engine | None = None
        self.progress = "starting"
        self.load_seconds = 0.0
        self._refreshed, self._answering = 0.0, ""  # version of the answers in the cache
        self.error: BaseException | None = None
        self.corpus_error: CorpusError | None = None  # since it was opened

    async def load(self, on_loaded: Callable[[], None]) -> None:
        """Open the back end in a thread, so that /health answers meanwhile; set ``error`` if it fails."""
        start = time.monotonic()
        opened: Future[Engine] = Future()
        opened.set_running_or_notify_cancel()  # cancelling the wait at shutdown must not cancel the future

        def work() -> None:
            try:
                opened.set_result(open_engine(self.settings, self._report))
            except BaseException as error:
                opened.set_exception(error)

        # A daemon thread: a signal during a long load ends the process at once.
        threading.Thread(target=work, name="load", daemon=True).start()
        try:
            self.engine = await asyncio.wrap_future(opened)
            self.load_seconds = time.monotonic() - start
            self._answering = self.engine.version
            settings = self.settings
            self.batcher = Batcher(self.engine, self.metrics, settings.max_queue, settings.cache_entries)
            self.metrics.ready.set(1)
            self.progress = "ready"
            on_loaded()
        except Exception as error:
            self.error = error
            on_loaded()

    async def refresh(self) -> None:
        """Check the corpus, or ask the servers behind the engine for their version, once in ``REFRESH_S``.

        Answers of another version are forgotten. A server that does not answer has not changed: the searches say what
        is wrong with it.
        """
        if self.engine is None or self.batcher is None or time.monotonic() - self._refreshed < REFRESH_S:
            return
        self._refreshed = time.monotonic()
        try:
            await asyncio.wait_for(asyncio.to_thread(self.engine.refresh), REFRESH_TIMEOUT_S)
            self.corpus_error = None
        except CorpusError as error:
            self.corpus_error = error
        except (RetrieverError, TimeoutError):
            pass
        self.metrics.ready.set(self.corpus_error is None)
        if self.engine.version != self._answering:
            self._answering = self.engine.version
            self.batcher.forget()

    def _report(self, step: str) -> None:
        self.progress = step

"""What a serving process is made of, and how it comes to be ready."""

from __future__ import annotations

import asyncio
import threading
import time

from .backends import Engine, load
from .batcher import Batcher
from .metrics import Metrics
from .settings import Settings


class Server:
    """State of one serving process: the engine while it loads, the batcher once it is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.batcher: Batcher | None = None
        self.engine: Engine | None = None
        self.progress = "starting"
        self.load_seconds = 0.0
        self.error: BaseException | None = None

    async def load(self) -> None:
        """Open the back end in a thread; /health answers meanwhile."""
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Engine] = loop.create_future()

        def tell(text: str) -> None:
            self.progress = text

        def work() -> None:
            try:
                engine = load(self.settings, tell)
                loop.call_soon_threadsafe(lambda: None if done.done() else done.set_result(engine))
            except BaseException as error:
                reason = error
                loop.call_soon_threadsafe(lambda: None if done.done() else done.set_exception(reason))

        # A daemon, so that a signal during a long load ends the process at once.
        threading.Thread(target=work, name="load", daemon=True).start()
        self.engine = await done
        self.load_seconds = time.monotonic() - start
        self.batcher = Batcher(
            self.engine, self.metrics, self.settings.max_queue, self.settings.cache_entries
        )
        self.metrics.ready.set(1)
        self.progress = "ready"

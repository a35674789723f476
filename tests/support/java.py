"""Tests that call Java inside their own process, run in a new one.

Twice in some thirty runs of all tests the process of a worker ended without a word in such a test, with torch, vLLM and
hundreds of earlier tests in it; in a process with Java alone never.
"""

import functools
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, ParamSpec

import cloudpickle

P = ParamSpec("P")
TIMEOUT_S = 300


def in_new_process(test: Callable[P, None]) -> Callable[P, None]:
    """Run ``test`` in a new process; its exceptions are raised here, and a process that dies fails it alone."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        module = sys.modules[test.__module__]
        cloudpickle.register_pickle_by_value(module)  # pytest imports test modules under names of its own
        try:
            call = cloudpickle.dumps(functools.partial(test, *arguments, **named))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(_call, call).result(timeout=TIMEOUT_S)

    return run


def _call(pickled: bytes) -> Any:
    return cloudpickle.loads(pickled)()

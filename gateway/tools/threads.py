"""Threads for tools that are ordinary functions: bounded, and never in the way of the process's end.

A thread cannot be stopped from outside. One whose result is not awaited any more runs until its function returns,
and occupies one of the places until then.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from offhook.gateway.tools.answer import text_of

__all__ = ["MAX_THREADS", "Threads"]

MAX_THREADS = 64  # of one process: a tool that hangs in each leaves the others to their time limits


class Threads:
    """Runs functions in at most `limit` daemon threads; further ones wait for their turn."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    @property
    def busy(self) -> bool:
        """Whether a function runs, or is about to."""
        with self._lock:
            return self._threads > self._idle

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Begin this, or queue it. Cancelling the future keeps it from beginning; once begun it runs to its end."""
        context = contextvars.copy_context()
        future: Future[Any] = Future()
        self._work.put((future, lambda: context.run(function)))
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._limit:
                self._threads += 1
                # A daemon: an interpreter that ends does not wait for a tool that hangs.
                threading.Thread(target=self._run, name=f"tool-{self._threads}", daemon=True).start()
        return future

    async def run(self, function: Callable[[], Any]) -> Any:
        """As `submit`, awaited. Cancelled: the function is kept from beginning, or left to itself."""
        return await asyncio.wrap_future(self.submit(function))

    def _run(self) -> None:
        while True:
            future, function = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(_as_exception(error))
            del future, function
            with self._lock:
                self._idle += 1


def _as_exception(error: BaseException) -> Exception:
    """`sys.exit()` in a tool ends the tool, nothing else; StopIteration cannot pass through an await."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {text_of(error)}")

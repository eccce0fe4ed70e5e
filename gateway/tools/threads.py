"""Threads for tools that are ordinary functions: bounded per function, and never in the way of the process's end.

A thread cannot be stopped from outside. One whose result is no longer awaited is abandoned: it runs until its function
returns, and occupies one of that function's places until then. So functions that hang cost no other function a thread.
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

__all__ = ["MAX_THREADS", "AllAbandoned", "Threads"]

MAX_THREADS = 16  # of one function, in one process; further runs wait for their turn, within their time limits


class AllAbandoned(Exception):
    """Every thread of this function hangs: the run was not begun."""


class Threads:
    """Runs functions in daemon threads: at most `limit` for each `name`; further ones wait for their turn."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._pools: dict[str, _Pool] = {}

    @property
    def busy(self) -> bool:
        """Whether a function runs, or is about to."""
        return any(pool.busy for pool in list(self._pools.values()))

    @property
    def abandoned(self) -> int:
        """The threads whose function goes on though its result is no longer awaited."""
        return sum(pool.abandoned for pool in list(self._pools.values()))

    def submit(self, function: Callable[[], Any], name: str = "") -> Future[Any]:
        """Begin this, or queue it. Cancelling the future keeps it from beginning; once begun it runs to its end.

        Raises `AllAbandoned`.
        """
        if (pool := self._pools.get(name)) is None:
            pool = self._pools[name] = _Pool(self._limit)
        return pool.submit(function)

    def abandon(self, future: Future[Any], name: str = "") -> None:
        """The result of a submitted function is no longer awaited."""
        self._pools[name].abandon(future)

    async def run(self, function: Callable[[], Any], name: str = "") -> Any:
        """As `submit`, awaited. Cancelled: the function is kept from beginning, or abandoned."""
        future = self.submit(function, name)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.abandon(future, name)
            raise


class _Pool:
    """The threads of one function."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = self.abandoned = 0

    @property
    def busy(self) -> bool:
        with self._lock:
            return self._threads > self._idle

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        with self._lock:
            if self.abandoned >= self._limit:
                raise AllAbandoned(f"{self.abandoned} earlier runs have not returned")
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

    def abandon(self, future: Future[Any]) -> None:
        if future.done() or future.cancelled():
            return
        with self._lock:
            self.abandoned += 1
        future.add_done_callback(self._returned)

    def _returned(self, future: Future[Any]) -> None:
        with self._lock:
            self.abandoned -= 1

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

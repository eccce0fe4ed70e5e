"""A clock for simulated calls inside one process: it stands still while the process works and runs SPEED times as fast
as the wall's while it waits.

While a thread works for the loop it keeps the wall's pace: threads have no other clock.

A call then takes the time of its computing, and a busy machine makes nobody late, so what these tests see is what was
decided and in which order. How long the computing takes is measured elsewhere, on the real clock: `make demo`, the
bundled scenarios, tests/infra/test_running_gateway.py, tests/bench.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest import mock

__all__ = ["SPEED", "QuickLoop", "run_quickly"]

SPEED = 20.0  # so that a thread or the kernel still has real time to do its part before a deadline of ours
_LEAST_WAIT_S = 0.001  # epoll waits no shorter

T = TypeVar("T")
_wall_s = time.monotonic  # before anybody puts another in its place


class _Selector(selectors.DefaultSelector):
    """Waits for sockets on the quick clock, `now_s`."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed
        self.threads = 0  # at work for the loop
        self.now_s = _wall_s()
        self._owed_s = 0.0  # waits of the wall's clock too short to make one by one

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        speed = 1.0 if self.threads else self._speed
        if timeout is not None:
            self._owed_s += timeout / speed
            if self._owed_s < _LEAST_WAIT_S:
                self.now_s += timeout
                return ready
        began_s = _wall_s()
        ready = super().select(None if timeout is None else self._owed_s)
        self._owed_s = 0.0
        passed_s = speed * (_wall_s() - began_s)
        self.now_s += passed_s if timeout is None else min(timeout, passed_s) if ready else timeout
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    """An event loop on the quick clock. At a speed of 1 it may wait for what is outside this process."""

    def __init__(self, speed: float = SPEED) -> None:
        self._quick = _Selector(speed)
        super().__init__(self._quick)

    def time(self) -> float:
        return self._quick.now_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        work = super().run_in_executor(executor, func, *args)
        self._quick.threads += 1
        work.add_done_callback(self._thread_is_done)
        return work

    def _thread_is_done(self, _: object) -> None:
        self._quick.threads -= 1

    def run_forever(self) -> None:
        """While it runs, `time.monotonic` is this loop's clock."""
        with mock.patch("time.monotonic", self.time):
            super().run_forever()


def run_quickly(main: Coroutine[Any, Any, T], speed: float = SPEED) -> T:
    """As `asyncio.run`, on the quick clock."""
    with asyncio.Runner(loop_factory=lambda: QuickLoop(speed)) as runner:
        return runner.run(main)

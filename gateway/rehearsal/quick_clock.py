"""A clock for simulated calls inside one process: it stops while the process computes and runs many times as fast as
wall time while the event loop waits.

A call then takes only its computing time, and a busy machine delays no part of it: a test checks decisions and their
order, not how long the computing took. While a thread works for the loop the clock runs at wall speed, because threads
read wall time.

Nothing is patched: `run_quickly` passes the clock to the function that it runs, which passes it to what it builds.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["SPEED", "Clock", "QuickLoop", "run_quickly", "running_clock"]

SPEED = 20.0  # threads and the kernel still get enough real time to act before a deadline of ours
_LEAST_WAIT_S = 0.001  # the shortest timeout of epoll
_LATE_S = 1e-6  # more than rounding loses when seconds are added, so that no timer fires early

Clock = Callable[[], float]  # seconds from an arbitrary start, never backwards
T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits for sockets on the quick clock, `now_s`."""

    def __init__(self, speed: float, others_work: Callable[[], bool]) -> None:
        super().__init__()
        self._speed, self._others_work = speed, others_work
        self.threads = 0  # number of threads that work for the loop
        self.now_s = time.monotonic()
        self._owed_s = 0.0  # wall time of waits too short to make one by one

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        speed = 1.0 if self.threads or self._others_work() else self._speed
        if timeout is not None:
            self._owed_s += timeout / speed
            if self._owed_s < _LEAST_WAIT_S:
                self.now_s += timeout + _LATE_S
                return ready
        began_s = time.monotonic()
        ready = super().select(None if timeout is None else self._owed_s)
        self._owed_s = 0.0
        passed_s = speed * (time.monotonic() - began_s)
        self.now_s += passed_s if timeout is None else min(timeout, passed_s) if ready else timeout + _LATE_S
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time` is the quick clock. At a speed of 1 it may wait for other processes.

    `others_work`: returns whether threads that the loop did not start work for it.
    """

    def __init__(self, speed: float = SPEED, others_work: Callable[[], bool] = lambda: False) -> None:
        self._quick = _Selector(speed, others_work)
        super().__init__(self._quick)

    def time(self) -> float:
        return self._quick.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        work = super().run_in_executor(executor, func, *args)
        self._quick.threads += 1
        work.add_done_callback(self._thread_is_done)
        return work

    def _thread_is_done(self, _: object) -> None:
        self._quick.threads -= 1


def running_clock() -> Clock:
    """The clock of the running event loop: `time` of a `QuickLoop`, else `time.monotonic`.

    Not the time of other loops: uvloop's has a resolution of 1 ms and does not advance within an iteration.
    """
    loop = asyncio.get_running_loop()
    return loop.time if isinstance(loop, QuickLoop) else time.monotonic


def run_quickly(
    main: Callable[[Clock], Coroutine[Any, Any, T]],
    speed: float = SPEED,
    others_work: Callable[[], bool] = lambda: False,
) -> T:
    """As `asyncio.run`, on the quick clock: run `main(clock)`, a coroutine function of the clock."""
    with asyncio.Runner(loop_factory=lambda: QuickLoop(speed, others_work)) as runner:
        return runner.run(main(runner.get_loop().time))

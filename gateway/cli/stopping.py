"""The end of the served process: SIGTERM ends it, whatever tools, peers and threads do.

The first signal drains; a second one ends the calls at once. A thread keeps the time, as the event loop may be blocked
or wait for a task that swallows its cancellation, and ends the process when that has passed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import threading
import time
from types import FrameType

__all__ = ["END_S", "Stopping"]

log = logging.getLogger(__name__)

END_S = 5.0  # after the drain: for the last calls, their fallbacks and the connections
LOG_MAX_S = 1.0  # a standard error that is not read must not hold up the end
EXIT_CODE = 1  # of a process that did not end by itself


class Stopping:
    """`requested` is set by each SIGTERM and SIGINT from now on. `drain_s`: how long calls may go on after the first.

    Made on the main thread, with its loop running.
    """

    def __init__(self, drain_s: float) -> None:
        self.requested = asyncio.Event()
        self._drain_s, self._loop = drain_s, asyncio.get_running_loop()
        self._signals = 0
        self._limits_s: queue.SimpleQueue[float] = queue.SimpleQueue()
        threading.Thread(target=self._keep_time, name="stopping", daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def within(self, seconds: float) -> None:
        """End the process if it still runs after this time; an earlier limit stands."""
        self._limits_s.put(seconds)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Not a handler of the loop's, which would not be called while the loop is blocked.
        self._signals += 1
        self.within(END_S + (self._drain_s if self._signals == 1 else 0.0))
        self._loop.call_soon_threadsafe(self.requested.set)

    def _keep_time(self) -> None:
        limit_s = self._limits_s.get()
        ends_s = time.monotonic() + limit_s
        while (left_s := ends_s - time.monotonic()) > 0:
            try:
                limit_s = self._limits_s.get(timeout=left_s)
            except queue.Empty:
                break
            ends_s = min(ends_s, time.monotonic() + limit_s)
        logging_ = threading.Thread(target=self._log, daemon=True)
        logging_.start()
        logging_.join(LOG_MAX_S)
        os._exit(EXIT_CODE)

    def _log(self) -> None:
        try:
            names = sorted(task.get_name() for task in asyncio.all_tasks(self._loop))
        except RuntimeError:  # they changed while they were listed
            names = []
        log.critical(
            "the process did not end by itself within %g s and is ended now; still running: %s",
            END_S,
            ", ".join(names[:10]) or "no task",
        )

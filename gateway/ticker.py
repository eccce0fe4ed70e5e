"""The periodic work of the process, several times a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from offhook.gateway.call.call import Call
from offhook.gateway.call.teardown import ENDING_MAX_S
from offhook.gateway.direct import DirectSessions
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.tools.function import THREADS
from offhook.gateway.workers.worker import Worker
from offhook.metrics.catalogue import Metrics

__all__ = ["TICK_S", "Ticker"]

log = logging.getLogger(__name__)

TICK_S = 0.25
STOCK_TICKS = 20  # each call's link counters are published once in this many ticks: 5 s


class Ticker:
    """`calls`: the process's live ones, by id; `call_over` takes out one that was not."""

    def __init__(
        self,
        calls: Mapping[str, Call],
        switchboard: Switchboard,
        direct: DirectSessions,
        worker: Worker | None,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        call_over: Callable[[Call], None],
    ) -> None:
        self.calls, self.switchboard, self._direct, self._worker = calls, switchboard, direct, worker
        self.metrics, self._clock, self._call_over = metrics, clock, call_over
        self._logged: set[tuple[str, str]] = set()  # kinds of failures of the periodic work

    async def run(self) -> None:
        """Periodic work: dead streams, calls that never came or do not end, event loop lag, counters."""
        due_s, turn = self._clock(), 0
        while True:
            due_s = max(due_s + TICK_S, self._clock())
            await asyncio.sleep(due_s - self._clock())
            now_s = self._clock()
            turn = (turn + 1) % STOCK_TICKS
            if self._worker is not None:
                self._worker.beat()
            for work in (partial(self._measure, now_s - due_s, turn), partial(self._give_up_calls, now_s)):
                self._safely("ticker", work)
            self._safely("switchboard", partial(self.switchboard.tick, now_s))
            self._safely("ticker", partial(self._direct.tick, now_s))

    def _measure(self, late_s: float, turn: int) -> None:
        self.metrics.observe("event_loop_lag", max(0.0, late_s))
        self.metrics.tool_threads_abandoned.set(THREADS.abandoned)
        calls = list(self.calls.values())
        lines = [call.line for call in calls if call.line is not None]
        self.metrics.marks_outstanding.set(sum(line.marks_outstanding for line in lines))
        for call in calls:
            call.hearing.flush_frame_count()
        for call in calls[turn::STOCK_TICKS]:
            call.publish_counters()

    def _give_up_calls(self, now_s: float) -> None:
        """A call that has ended and is not gone holds a place for ever: its record is kept, and the place free."""
        for call in list(self.calls.values()):
            if call.ended_s is not None and now_s - call.ended_s > ENDING_MAX_S:
                call.give_up()
                if call.facts.call_sid in self.calls:  # it was reported, and taking it out failed
                    self._call_over(call)

    def _safely(self, part: str, work: Callable[[], object]) -> None:
        """Do this; an exception in it is logged and counted, and what comes after it goes on."""
        try:
            work()
        except Exception as error:
            if (kind := (part, type(error).__name__)) not in self._logged:  # several times a second, as a rule
                self._logged.add(kind)
                log.error("%s failed; further exceptions of this kind are only counted", part, exc_info=error)
            self.metrics.task_failures_total.inc(part)

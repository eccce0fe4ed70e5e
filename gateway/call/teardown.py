"""The end of a call: every part is closed within bounds, the record is completed, the call's place is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from offhook.gateway.call.parts import Parts
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation.endings import Ending
from offhook.metrics.segments import LINK_RTT

__all__ = ["ENDING_MAX_S", "Teardown"]

CLOSE_MAX_S = 15.0  # tools, model and line each have bounds of their own below this
RECORDING_MAX_S = 3.0  # for the writer's thread: a disk may hang
RELEASE_AFTER_S = 20.0  # of a call that has ended: readers of its sockets are still leaving
ENDING_MAX_S = 20.0  # past this a call that has ended is given up by the process's ticker


class Teardown:
    """One call's. `stop_timers()` ends what would still feed the machine, `on_over()` is called once, last.

    `release()` is called long after an end in order, and never after one that left a part behind.
    """

    def __init__(
        self,
        wiring: Wiring,
        parts: Parts,
        *,
        stop_timers: Callable[[], None],
        on_over: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        self._wiring, self._faults, self._timeline = wiring, wiring.faults, wiring.timeline
        self._speaking, self._hearing, self._tools, self._model, self._recorder = parts
        self._stop_timers, self._on_over, self._release = stop_timers, on_over, release
        self._decided, self._gone = asyncio.Event(), asyncio.Event()
        self._left_behind = False  # a part did not close in time
        self.ending: Ending | None = None
        self.decided_s: float | None = None

    def start(self) -> None:
        """Wait for the decision, in a task of the call."""
        self._closer = asyncio.create_task(self._close_when_decided(), name=f"call {self._wiring.facts.call_sid}")

    def decide(self, ending: Ending) -> None:
        """The call ends for this. A second decision changes nothing."""
        if self.ending is None:
            self.ending, self.decided_s = ending, self._wiring.clock()
            self._decided.set()

    async def over(self) -> None:
        """Wait until every task, timer and socket of the call is gone, or was given up."""
        await self._gone.wait()

    async def _close_when_decided(self) -> None:
        await self._decided.wait()
        try:
            await self._close_parts()
        finally:
            self._conclude()
        if not self._left_behind:
            asyncio.get_running_loop().call_later(RELEASE_AFTER_S, self._release)

    async def _close_parts(self) -> None:
        self._stop_timers()
        # Each in a task of its own; the line first, as the caller waits for what follows.
        closers = [self._speaking.close, self._tools.close, *self._model.closers()]
        if not await self._faults.all_closed(closers, CLOSE_MAX_S):
            self._left_behind = True
            self._faults.stuck("a tool, the model or the carrier did not close in time")
        await self._model.ended()
        if self._recorder is not None:
            closer = partial(self._recorder.close, self._timeline.error)
            if not await self._faults.all_closed([closer], RECORDING_MAX_S):
                self._left_behind = True
                self._faults.stuck("the recording was not on disk in time")

    def _conclude(self) -> None:
        """The record is complete and the call's place free, whatever state its parts are in."""
        if self._gone.is_set():
            return
        self._gone.set()
        ending, record = self.ending or Ending.INTERNAL_ERROR, self._timeline.record
        record.end_reason, record.end_side = ending.value, ending.side.value
        safely = self._faults.safely
        if ending is Ending.MOVED:  # the call goes on, and so does its record
            safely("closing", self._on_over)
            return
        for step in (self._hearing.flush, self._model.flush, self.publish_counters, self._complete_record):
            safely("closing", step)
        safely("closing", self._timeline.ended, self._wiring.clock())
        safely("closing", self._wiring.metrics.calls_total.inc, ending.value, ending.side.value)
        safely("closing", self._on_over)

    def publish_counters(self) -> None:
        """Every few seconds and at the end: round trips to both peers, by the kernel."""
        for peer, name in ((self._model.link, "model"), (self._speaking.line, "carrier")):
            if peer is not None and (seconds := peer.round_trip_s()) is not None:
                self._wiring.metrics.observe(LINK_RTT, seconds, name)

    def _complete_record(self) -> None:
        record = self._timeline.record
        for fault in self._model.link.faults:
            self._timeline.error(f"model: {fault}")
        record.audio_in_ms = self._hearing.audio_in_ms
        record.remembered = self._tools.masked(self._tools.remembered)

    def give_up(self) -> None:
        """What is still closing is left behind: the record is kept and the place free without it."""
        if self._gone.is_set():
            return
        self.ending = self.ending or Ending.SERVER_STOPPED
        self._faults.stuck("the call did not close in time and was given up")
        self._closer.cancel()
        self._model.cancel()
        if self._speaking.line is not None:
            self._faults.safely("closing", self._speaking.line.abort)
        self._conclude()

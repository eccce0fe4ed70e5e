"""The end of a process that has calls: they end by themselves, go on in another process, or are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from offhook.gateway.call.call import Call
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.live import HAND_OVER_S, QUIET_S
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.ticker import TICK_S
from offhook.metrics.catalogue import Metrics

__all__ = ["Draining"]

log = logging.getLogger(__name__)

END_CALLS_S = 3.0  # at the process's end: then what is left of a call is given up


class Draining:
    """`idle` is set while there are no calls: whoever adds and removes them says so."""

    def __init__(
        self,
        settings: Settings,
        calls: Mapping[str, Call],
        admission: Admission,
        metrics: Metrics,
        switchboard: Switchboard,
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._calls, self._admission, self._metrics = settings, calls, admission, metrics
        self._switchboard, self._fleet, self._clock = switchboard, fleet, clock
        self.idle = asyncio.Event()
        self.idle.set()

    async def drain(self) -> None:
        """Accept no new calls; return once the active ones have ended, or after `drain_s`."""
        self._admission.draining = True
        self._metrics.draining.set(1)
        log.info("draining: %d active calls", len(self._calls))
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self.idle.wait()
        except TimeoutError:
            log.warning("drain limit reached with %d active calls", len(self._calls))
            if self._fleet.others():
                await self._hand_over_all()
        else:  # no metric: the process ends before the next scrape
            log.info("drained in %.1f s", self._clock() - began_s)

    async def _hand_over_all(self) -> None:
        """Other processes go on with the calls: each in a quiet moment. Returns once they have them, or in a while.

        A call that stays, as its state could not be written, or comes back is handed over again until then.
        """
        began_s, quiet_s = self._clock(), QUIET_S
        handed: dict[str, None] = {}
        while True:
            calls = [call for call in self._calls.values() if call.ending is None] if self._fleet.others() else []
            over = await asyncio.gather(*(self._switchboard.moves.hand_over(call, quiet_s) for call in calls))
            handed |= {call.facts.call_sid: None for call, is_over in zip(calls, over, strict=True) if is_over}
            if quiet_s or any(over):
                log.info("handed over %d of %d calls in %.1f s", sum(over), len(calls), self._clock() - began_s)
            holders = await asyncio.gather(*map(self._fleet.holder, handed))
            theirs = all(held is None or held.owner != self._fleet.name for held in holders)
            if (all(over) and theirs) or self._clock() - began_s >= HAND_OVER_S:
                return  # until then their carrier's requests are passed on
            quiet_s = 0.0
            await asyncio.sleep(TICK_S)

    async def end_all(self) -> None:
        """End what is left, at the process's end."""
        self._admission.draining = True
        calls = list(self._calls.values())
        for call in calls:
            call.stop(Ending.SERVER_STOPPED)
        if calls:
            _, left = await asyncio.wait([asyncio.create_task(call.over()) for call in calls], timeout=END_CALLS_S)
            for task in left:
                task.cancel()
        for call in list(self._calls.values()):
            call.give_up()

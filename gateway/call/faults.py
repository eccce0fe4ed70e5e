"""Unexpected exceptions in a call: every task and callback has an owner here, which logs, counts and limits them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from offhook.gateway.call.timeline import Timeline
from offhook.gateway.errors import cancelled_from_outside
from offhook.metrics.catalogue import Metrics

__all__ = ["FAULTS_MAX", "Faults"]

log = logging.getLogger(__name__)

FAULTS_MAX = 20  # then the call is ended: one that fails at each frame would otherwise go on in silence
LOGGED_MAX = 10  # with a traceback; the others are counted


class Faults:
    """One call's. `give_up()` is called once, when there have been `FAULTS_MAX`. No method raises."""

    def __init__(self, call_sid: str, timeline: Timeline, metrics: Metrics, give_up: Callable[[], None]) -> None:
        self._call_sid, self._timeline, self._metrics, self._give_up = call_sid, timeline, metrics, give_up
        self._count = 0

    def report(self, part: str, error: BaseException) -> None:
        """`part`: a value of the metric's closed list (`FAULT_PARTS`)."""
        self._count += 1
        with suppress(Exception):
            if self._count <= LOGGED_MAX:
                log.error("call %s: %s failed", self._call_sid, part.replace("_", " "), exc_info=error)
        with suppress(Exception):
            self._metrics.task_failures_total.inc(part)
        with suppress(Exception):
            self._timeline.error(f"internal error: {part.replace('_', ' ')}: {type(error).__name__}")
        if self._count == FAULTS_MAX:
            with suppress(Exception):
                self._give_up()

    def stuck(self, what: str) -> None:
        """A part has bounds of its own and did not keep them; the call goes on without it."""
        self._metrics.stuck_calls_total.inc()
        self._timeline.error(what)
        log.error("call %s: %s", self._call_sid, what)

    async def owned(self, part: str, work: Awaitable[Any]) -> bool:
        """Await it for a task of its own: whether it ended without an exception.

        A cancellation that did not come from outside, as of a future that it shares with others, is one, too.
        """
        try:
            await work
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            self.report(part, error)
        except Exception as error:
            self.report(part, error)
        else:
            return True
        return False

    def safely(self, part: str, function: Callable[..., object], *arguments: Any) -> None:
        """Call it: a callback of the event loop, or a step that others must not wait for in vain."""
        try:
            function(*arguments)
        except Exception as error:
            self.report(part, error)

    async def all_closed(self, closers: Iterable[Callable[[], Awaitable[Any]]], within_s: float) -> bool:
        """Close all at once, each in a task of its own, so that none can end another: whether all ended in time."""

        async def closed(closer: Callable[[], Awaitable[Any]]) -> None:
            await closer()

        tasks = [asyncio.create_task(self.owned("closing", closed(closer))) for closer in closers]
        if not tasks:
            return True
        _, left = await asyncio.wait(tasks, timeout=within_s)
        for task in left:
            task.cancel()
        return not left

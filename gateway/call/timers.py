"""The conversation machine's timers on the event loop: one per event class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from offhook.gateway.conversation.commands import SetTimer, StopTimer
from offhook.gateway.conversation.events import Event

__all__ = ["Timers"]


class Timers:
    """`fire(event class)` is called when a timer is due, unless it was moved or stopped."""

    def __init__(self, clock: Callable[[], float], fire: Callable[[type[Event]], None]) -> None:
        self._clock, self._fire = clock, fire
        self._call_later = asyncio.get_running_loop().call_later
        self._running: dict[type[Event], asyncio.TimerHandle] = {}

    def set(self, command: SetTimer) -> None:
        """Start the timer, or move it."""
        if (running := self._running.get(command.event)) is not None:
            running.cancel()
        delay_s = max(0.0, command.at_s - self._clock())
        self._running[command.event] = self._call_later(delay_s, self._due, command.event)

    def stop(self, command: StopTimer) -> None:
        """Harmless when it is not running."""
        if (running := self._running.pop(command.event, None)) is not None:
            running.cancel()

    def close(self) -> None:
        """Stop all."""
        for running in self._running.values():
            running.cancel()
        self._running.clear()

    def _due(self, event: type[Event]) -> None:
        del self._running[event]
        self._fire(event)

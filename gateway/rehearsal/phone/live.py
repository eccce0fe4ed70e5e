"""The seam to a caller who decides during the call what to say, instead of a list of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from offhook.gateway.rehearsal.phone.truth import CallTruth

__all__ = ["LiveCaller", "Phone"]


class Phone(Protocol):
    """A simulated call, as its caller has it."""

    truth: CallTruth

    @property
    def streaming(self) -> bool:
        """A media stream is up."""

    async def until(self, ready: Callable[[], bool], timeout_ms: float | None) -> bool:
        """Wait, tick by tick, until `ready()`; False when the time or the call has ended before."""

    async def press(self, keys: str) -> None:
        """Raises `StepFailed`."""

    def hang_up(self) -> None: ...


class LiveCaller(Protocol):
    """One caller of one call. `hear` and `speak` run once a tick and return at once."""

    def hear(self, frame: bytes) -> None:
        """20 ms of mu-law, as played to the caller."""

    def speak(self, place: int) -> bytes | None:
        """The next 20 ms of mu-law that the caller says; they begin at `place` of the call's axis. None: silence."""

    async def converse(self, call: Phone) -> None:
        """Take the call; it is hung up on return, unless it is over."""

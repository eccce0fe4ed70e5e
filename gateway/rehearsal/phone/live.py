"""The seam to a caller who decides during the call what to say, instead of a list of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from offhook.gateway.rehearsal.phone.call import SimulatedCall

__all__ = ["LiveCaller"]


class LiveCaller(Protocol):
    """One caller of one call. `hear` and `speak` run once a tick and return at once."""

    def hear(self, frame: bytes) -> None:
        """20 ms of mu-law, as played to the caller."""

    def speak(self, place: int) -> bytes | None:
        """The next 20 ms of mu-law that the caller says; they begin at `place` of the call's axis. None: silence."""

    async def converse(self, call: SimulatedCall) -> None:
        """Take the call; it is hung up on return, unless it is over."""

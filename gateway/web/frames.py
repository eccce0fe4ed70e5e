"""What a client sends on a WebSocket, split into frames where it arrives: a message that is expected often never
reaches a queue or a task.

A library's reader puts each message in a queue and wakes the task that waits for it; at 50 messages a second of each
call that costs more than what is done with them. Here a whole text message is taken on the spot. All else stays the
library's: pings, closes, fragments, what is not ASCII, what is too long, what breaks the protocol.
"""

from __future__ import annotations

from collections.abc import Callable

try:
    from websockets.speedups import apply_mask
except ImportError:  # a wheel without C
    from websockets.utils import apply_mask

__all__ = ["Frames"]

_TEXT = 0x81  # a whole message: FIN and the opcode (RFC 6455, 5.2)
_MASKED = 0x80


class Frames:
    """One connection's, from the client's first byte after the upgrade."""

    __slots__ = ("_given_up", "_held", "_max_bytes", "_take", "_waiting")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of a message; the library refuses a longer one."""
        self._take: Callable[[bytes], bool] | None = None
        self._waiting = 0  # texts that the library got and that were not read from it
        self._max_bytes, self._held, self._given_up = max_bytes, b"", False

    def offer(self, take: Callable[[bytes], bool]) -> None:
        """Texts go to `take` from now on, unless the library has some that come before. `take` gets one as UTF-8, and
        must not raise. It returns False for one that the library is to get, as it then does for all until the next
        offer.
        """
        if not (self._waiting or self._given_up):
            self._take = take

    def read(self) -> None:
        """A text was read from the library."""
        self._waiting -= 1

    def stop(self) -> None:
        """The library gets all that comes."""
        self._take = None

    def push(self, data: bytes) -> bytes:
        """The bytes received -> those that are the library's: whole frames, until it gets all there is."""
        if self._given_up:
            return data
        if self._held:
            data, self._held = self._held + data, b""
        passed: list[bytes] = []
        at, size = 0, len(data)
        while at + 2 <= size:
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            start = at + (6 if length < 126 else 8 if length == 126 else 14)
            # A fragment has no FIN or the opcode 0; reserved bits are of extensions, and none was agreed.
            if not second & _MASKED or not 0x80 < first < 0x90:
                break
            if start > size:
                return self._keep(data[at:], passed)
            if length >= 126:
                length = int.from_bytes(data[at + 2 : start - 4], "big")
            if length > self._max_bytes:
                break
            end = start + length
            if end > size:
                return self._keep(data[at:], passed)
            if first != _TEXT or not self._taken(data, start, end):
                passed.append(data[at:end])
            at = end
        else:
            if at == size and not passed:
                return b""
            return self._keep(data[at:], passed)
        self._given_up, self._take = True, None  # for good: what follows depends on what the library makes of this
        passed.append(data[at:])
        return b"".join(passed)

    def _keep(self, held: bytes, passed: list[bytes]) -> bytes:
        self._held = held
        return b"".join(passed) if passed else b""

    def _taken(self, data: bytes, start: int, end: int) -> bool:
        take = self._take
        if take is not None:
            text = apply_mask(data[start:end], data[start - 4 : start])
            # Whether the rest is UTF-8 is for the library to find.
            if text.isascii() and take(text):
                return True
            self._take = None
        self._waiting += 1
        return False

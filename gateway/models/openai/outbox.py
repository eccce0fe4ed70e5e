"""What waits to be sent to the model: bounded, and kept from one session to the next where it still has a meaning.

Two queues: events (texts, results, requests), which go first; and the caller's stream (audio, and the ends of local
turns), in its order. Both are sent on the spot where nothing waits before them. One picture waits behind both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from offhook.gateway.models import LinkCount, ModelSink
from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.openai.socket import SessionSocket

__all__ = ["UPLINK_MAX_FRAMES", "Outbox"]

UPLINK_MAX_FRAMES = 50  # 1 s: older speech is stale
EVENTS_MAX = 200  # a call has a handful; a new session's lines of the call so far are 30
SEND_STALL_MAX_S = 5.0  # one message this long in `send`: the peer does not read


class _Event(NamedTuple):
    data: bytes
    kept: bool  # it means something to the next session, too


class _Piece(NamedTuple):
    """Of the stream: audio, or the end of a local turn with what is to be done once that was sent."""

    data: bytes
    received_s: float = 0.0
    sent: Callable[[], None] | None = None


class Outbox:
    """`stalled()`: the peer does not read. `clock`: seconds, monotonic."""

    def __init__(self, sink: ModelSink, clock: Callable[[], float], *, stalled: Callable[[], None]) -> None:
        self._sink, self._clock, self._stalled = sink, clock, stalled
        self._events: deque[_Event] = deque()
        self._stream: deque[_Piece] = deque()
        self._frames = 0  # of caller audio in the stream
        self._picture: bytes | None = None  # the newest
        self._ready = asyncio.Event()
        self._sending_since_s = 0.0  # 0: no message is in `send`
        self._send_now: Callable[[bytes], bool] | None = None  # while a session is written to

    @property
    def frames(self) -> int:
        """Pieces of caller audio that wait."""
        return self._frames

    def audio(self, codes: bytes, received_s: float) -> None:
        """Caller audio: sent now, or queued in its place. With `received_s`, the time until then is reported."""
        data = wire.append(codes)
        send_now = self._send_now
        if send_now is not None and not (self._stream or self._events or self._sending_since_s) and send_now(data):
            if received_s:
                self._sink.segment("uplink_forward", self._clock() - received_s)
            return
        if self._frames >= UPLINK_MAX_FRAMES:
            self._drop_oldest()
        self._stream.append(_Piece(data, received_s))
        self._frames += 1
        self._ready.set()

    def turn_end(self, sent: Callable[[], None]) -> None:
        """Commit the audio before this, in its place; then `sent()`."""
        self._stream.append(_Piece(wire.COMMIT, sent=sent))
        self._ready.set()

    def event(self, data: bytes, *, kept: bool = False) -> None:
        """Send an event before all audio that waits; past `EVENTS_MAX` the oldest is dropped and counted."""
        send_now = self._send_now
        if send_now is not None and not (self._events or self._sending_since_s) and send_now(data):
            return
        if len(self._events) >= EVENTS_MAX:
            self._events.popleft()
            self._sink.count(LinkCount.MESSAGE_DROPPED)
        self._events.append(_Event(data, kept))
        self._ready.set()

    def picture(self, data: bytes) -> None:
        """Send an event with a picture behind all audio, in the place of one that waits."""
        if self._picture is not None:
            self._sink.count(LinkCount.PICTURE_REPLACED)
        self._picture = data
        self._ready.set()

    def new_session(self, first: Iterable[bytes]) -> None:
        """Drop what only the last session would have understood; before what is left goes `first`."""
        kept = [event for event in self._events if event.kept]
        self._events = deque([*(_Event(data, False) for data in first), *kept])
        self._ready.set()

    def close(self) -> None:
        """There will be no further session: the audio that waits is dropped and counted."""
        if self._frames:
            self._sink.count(LinkCount.DROPPED_AT_END, by=self._frames)
        if self._picture is not None:
            self._sink.count(LinkCount.PICTURE_DROPPED)
        self._frames, self._picture = 0, None

    async def write(self, socket: SessionSocket) -> None:
        """Send what waits and what comes, until cancelled. Raises what `socket.send` raises."""
        clock, send = self._clock, socket.send
        self._send_now = socket.send_now
        try:
            while True:
                while self._stream or self._events or self._picture is not None:
                    self._sending_since_s = clock()
                    if self._events:
                        await self._send_event(send)
                        continue
                    if not self._stream:
                        picture, self._picture = self._picture, None
                        if picture is not None:
                            await send(picture)
                        continue
                    piece = self._stream.popleft()  # first: an overflow may drop the oldest meanwhile
                    if piece.sent is None:
                        self._frames -= 1
                    await send(piece.data)
                    if piece.received_s:
                        self._sink.segment("uplink_forward", clock() - piece.received_s)
                    if piece.sent is not None:
                        piece.sent()
                self._sending_since_s = 0.0
                self._ready.clear()
                await self._ready.wait()
        finally:
            self._sending_since_s = 0.0
            self._send_now = None

    async def _send_event(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        event = self._events.popleft()
        try:
            await send(event.data)
        except BaseException:
            if event.kept:
                self._events.appendleft(event)
            raise

    def _drop_oldest(self) -> None:
        for i, piece in enumerate(self._stream):
            if piece.sent is None:
                del self._stream[i]
                break
        self._frames -= 1
        self._sink.count(LinkCount.DROPPED_FULL if self._send_now is not None else LinkCount.DROPPED_DOWN)
        if self._sending_since_s and self._clock() - self._sending_since_s > SEND_STALL_MAX_S:
            self._stalled()

"""What waits to be sent to the model: bounded, and kept from one connection to the next.

Two queues: texts and tool results, which go first; and the caller's stream (audio, and the bounds of local turns),
in its order. One picture waits behind both. Caller audio is sent on the spot where nothing waits before it, which saves
a task switch per frame; what has waited is sent in one piece.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from websockets.exceptions import WebSocketException

from offhook.gateway.models import LinkCount, ModelSink
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.pairs import Pairs
from offhook.gateway.models.gemini.wire import AnySession

__all__ = ["UPLINK_MAX_FRAMES", "Outbox"]

UPLINK_MAX_FRAMES = 50  # 1 s: older speech is stale, and flooding a resumed session with it has closed it
URGENT_MAX = 100  # texts and tool results; a call has a handful
UNWRITABLE = {"status": "error", "message": "The result of this could not be sent.", "retryable": False}
SEND_STALL_MAX_S = 5.0  # one message this long in `send`: the peer does not read


class Outbox:
    """`wanted(message)`: whether a text or tool result is still to be sent to this session.
    `sent(message)`: they were sent. `stalled()`: the peer does not read. `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        sink: ModelSink,
        clock: Callable[[], float],
        *,
        wanted: Callable[[wire.Outgoing], bool],
        sent: Callable[[wire.Outgoing], None],
        stalled: Callable[[], None],
    ) -> None:
        self._sink, self._clock = sink, clock
        self._wanted, self._sent, self._stalled = wanted, sent, stalled
        self._urgent: deque[wire.Outgoing] = deque()
        self._stream: deque[tuple[wire.Outgoing, float]] = deque()  # with the time a frame was received, or 0
        self._frames = 0  # of caller audio in the stream
        self._picture: wire.Picture | None = None  # the newest
        self._ready = asyncio.Event()
        self._sending_since_s = 0.0  # 0: no message is in `send`
        self._send_now: Callable[..., bool] | None = None  # while a connection is written to
        self._turn_open = False  # activityStart sent, activityEnd not yet
        self._pairs = Pairs()

    @property
    def frames(self) -> int:
        """Pieces of caller audio that wait."""
        return self._frames

    def audio(self, pcm: bytes, received_s: float) -> None:
        """Caller audio: sent now, or queued in its place. With `received_s`, the time until then is reported."""
        send_now = self._send_now
        if send_now is not None and not (self._stream or self._urgent or self._sending_since_s):
            pcm = self._pairs.push(pcm)
            if not pcm:
                return  # its time is not reported: it waits on purpose
            if send_now(pcm):
                if received_s:
                    self._sink.segment("uplink_forward", self._clock() - received_s)
                return
        self._queue_held()
        self._queue(pcm, received_s)

    def answered(self) -> None:
        """The model has begun a turn."""
        self._pairs.answered()

    def send_held(self) -> None:
        """The connection is to be closed: what waits for a second frame is sent, or kept for the next session."""
        if (held := self._pairs.take()) and not (self._send_now is not None and self._send_now(held)):
            self._queue(held, 0.0)

    def _queue_held(self) -> None:
        if held := self._pairs.take():
            self._queue(held, 0.0)

    def _queue(self, pcm: bytes, received_s: float) -> None:
        if self._frames >= UPLINK_MAX_FRAMES:
            self._drop_oldest()
        self._stream.append((pcm, received_s))
        self._frames += 1
        self._ready.set()

    def in_stream(self, message: wire.Outgoing) -> None:
        """Queue a bound of a local turn in its place among the audio."""
        self._queue_held()
        self._stream.append((message, 0.0))
        self._ready.set()

    def urgent(self, message: wire.Outgoing) -> None:
        """Queue a text or a tool result before all audio; past `URGENT_MAX` the oldest is dropped and counted."""
        if len(self._urgent) >= URGENT_MAX:
            self._urgent.popleft()
            self._sink.count(LinkCount.MESSAGE_DROPPED)
        self._urgent.append(message)
        self._ready.set()

    def picture(self, picture: wire.Picture) -> None:
        """Queue a picture behind all audio, in the place of one that waits."""
        if self._picture is not None:
            self._sink.count(LinkCount.PICTURE_REPLACED)
        self._picture = picture
        self._ready.set()

    def connected(self) -> None:
        """A new session is up: a local turn that is open must be announced to it first."""
        first = self._stream[0][0] if self._stream else None
        if self._turn_open and not isinstance(first, wire.ActivityStart):
            self._stream.appendleft((wire.ActivityStart(), 0.0))
        self._ready.set()

    def close(self) -> None:
        """There will be no further session: the audio that waits is dropped and counted."""
        if self._frames:
            self._sink.count(LinkCount.DROPPED_AT_END, by=self._frames)
        if self._picture is not None:
            self._sink.count(LinkCount.PICTURE_DROPPED)
        self._frames, self._picture = 0, None
        self._stream.clear()
        # The link, which holds this: what still comes is not wanted.
        self._wanted, self._sent, self._stalled = _not_wanted, _nothing, _nothing

    async def write(self, socket: AnySession) -> None:
        """Send what waits and what comes, until cancelled. Raises what `socket.send` raises."""
        urgent, stream, clock, send = self._urgent, self._stream, self._clock, socket.send
        self._send_now = socket.send_now
        try:
            while True:
                while stream or urgent or self._picture is not None:
                    self._sending_since_s = clock()
                    if urgent:
                        await self._send_urgent(socket)
                        continue
                    if not stream:
                        picture, self._picture = self._picture, None
                        if picture is not None:
                            await send(picture)
                        continue
                    if self._send_together(socket):
                        continue
                    # Taken out first: an overflow may drop the oldest while this one is being sent.
                    message, received_s = stream.popleft()
                    self._taken(message)
                    await send(message)
                    if received_s:
                        self._sink.segment("uplink_forward", clock() - received_s)
                self._sending_since_s = 0.0
                self._ready.clear()
                await self._ready.wait()
        finally:
            self._sending_since_s = 0.0
            self.send_held()
            self._send_now = None

    def _send_together(self, socket: AnySession) -> bool:
        """The whole stream in one piece, where the connection takes it at once."""
        waiting = list(self._stream)
        if not socket.send_now(*[message for message, _ in waiting]):
            return False
        self._stream.clear()
        now_s = self._clock()
        for message, received_s in waiting:
            self._taken(message)
            if received_s:
                self._sink.segment("uplink_forward", now_s - received_s)
        return True

    def _taken(self, message: wire.Outgoing) -> None:
        """Out of the stream."""
        if type(message) is bytes:
            self._frames -= 1
        else:
            self._turn_open = type(message) is wire.ActivityStart

    async def _send_urgent(self, socket: AnySession) -> None:
        message = self._urgent.popleft()
        try:
            if not self._wanted(message):
                return
            await socket.send(message)
        except (asyncio.CancelledError, WebSocketException, OSError):
            self._urgent.appendleft(message)  # for the next session, if it wants it
            raise
        except Exception as error:  # it cannot be written: that costs this message, and a tool call gets an error
            self._sink.task_failed("link_writer", error)
            if isinstance(message, wire.FunctionResponse) and message.response != UNWRITABLE:
                self._urgent.appendleft(msgspec.structs.replace(message, response=UNWRITABLE))
            return
        self._sent(message)

    def _drop_oldest(self) -> None:
        for i, (message, _) in enumerate(self._stream):
            if type(message) is bytes:
                del self._stream[i]
                break
        self._frames -= 1
        self._sink.count(LinkCount.DROPPED_FULL if self._send_now is not None else LinkCount.DROPPED_DOWN)
        if self._sending_since_s and self._clock() - self._sending_since_s > SEND_STALL_MAX_S:
            self._stalled()


def _not_wanted(message: wire.Outgoing) -> bool:
    return False


def _nothing(*_: object) -> None:
    pass

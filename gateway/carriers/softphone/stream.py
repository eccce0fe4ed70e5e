"""One socket of a page: from its upgrade to its end, the caller's audio and reports to the call.

A socket that does not prove within five seconds to be a call's stream is closed, and so is one that sends more than a
page can. What is malformed is counted and dropped; it never ends a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import WSMessage, WSMsgType, web

from offhook.gateway.call.call import Call
from offhook.gateway.call.line import LineCan, LineFormats
from offhook.gateway.carriers.softphone import messages
from offhook.gateway.carriers.stream_line import StreamLine, close_socket
from offhook.gateway.errors import Malformed
from offhook.gateway.web.allowance import Allowance
from offhook.metrics.catalogue import Metrics

__all__ = ["await_start", "carry", "new_socket"]

CAN = LineCan(acknowledges_clear=True, max_message_bytes=messages.MAX_MESSAGE_BYTES)
START_S = 5.0
MESSAGES_PER_S = 300.0  # 50 frames a second, and a mark's report for each of ours
MESSAGES_BURST = 3_000.0  # a stalled connection delivers its backlog at once
AHEAD_S = 5.0  # of audio before the time it takes to say it
LEFT = (1000, 1001)  # the page closed the socket, or is gone itself (RFC 6455, 7.4.1)


def new_socket() -> web.WebSocketResponse:
    # No heartbeat: a tab in the background answers late; the silence of the media decides.
    return web.WebSocketResponse(compress=False, heartbeat=None, max_msg_size=messages.MAX_MESSAGE_BYTES, timeout=2.0)


async def await_start(socket: web.WebSocketResponse, metrics: Metrics) -> messages.PageStart | None:
    """The socket's first message; None, counted, after having closed a socket whose first one is another."""
    reason = "timeout"
    try:
        async with asyncio.timeout(START_S):
            message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            parsed = messages.parse(message.data)
            if isinstance(parsed, messages.PageStart):
                return parsed
        elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
            return None
        reason = "bad_order"
    except Malformed as error:
        reason = error.reason
    except TimeoutError:
        pass
    metrics.input_errors_total.inc("carrier", reason)
    await socket.close(code=1008, message=b"no start")
    return None


async def carry(
    socket: web.WebSocketResponse,
    transport: asyncio.Transport,
    call: Call,
    stream_id: str,
    formats: LineFormats,
    metrics: Metrics,
    clock: Callable[[], float],
    *,
    hung_up: Callable[[Call], None],
    lost: Callable[[Call], None],
) -> None:
    """The call's stream over this socket, until either is over. `hung_up`, `lost`: how the page ended it."""
    line = StreamLine(socket, transport, messages.PageEncoder(), call, stream_id=stream_id, formats=formats, can=CAN)
    call.attach(line)
    reader = _Reader(call, line, formats, metrics, clock)
    try:
        async for message in socket:
            if reader.floods():
                await close_socket(socket, transport, 1008, b"too many messages")
                break
            if reader.take(message):
                break
    except Exception as error:  # the stream is lost
        call.task_failed("line_reader", error)
    if call.line is line and call.ending is None:
        (hung_up if reader.hung_up or socket.close_code in LEFT else lost)(call)
    if call.ending is not None:
        await call.over()


class _Reader:
    def __init__(
        self, call: Call, line: StreamLine, formats: LineFormats, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._call, self._line, self._metrics, self._clock = call, line, metrics, clock
        self._bytes_per_s = formats.gives.rate_hz * formats.gives.bytes_per_sample
        self._frame_max = formats.gives.frame_bytes
        self._sample_bytes = formats.gives.bytes_per_sample
        self._began_s, self._bytes = clock(), 0
        self._allowance = Allowance(MESSAGES_PER_S, MESSAGES_BURST)
        self.hung_up = False

    def floods(self) -> bool:
        return not self._allowance.take(self._clock())

    def take(self, message: WSMessage) -> bool:
        """One message of the page: whether it was the call's end."""
        if message.type is WSMsgType.BINARY:  # 50 a second
            self._audio(message.data)
        elif message.type is WSMsgType.TEXT:
            try:
                return self._told(messages.parse(message.data))
            except Malformed as error:
                self._count(error.reason)
        elif message.type is WSMsgType.ERROR:
            self._count("bad_frame")
        return False

    def _audio(self, codes: bytes) -> None:
        if not codes or len(codes) > self._frame_max or len(codes) % self._sample_bytes:
            self._count("bad_audio")
            return
        if self._bytes > (self._clock() - self._began_s + AHEAD_S) * self._bytes_per_s:
            self._count("too_many")
            return
        self._call.caller_audio(codes, self._bytes * 1000 // self._bytes_per_s)
        self._bytes += len(codes)

    def _told(self, message: messages.Message) -> bool:
        if isinstance(message, messages.PageMark):
            if not self._line.on_mark(message.name):
                self._count("unknown_mark")
        elif isinstance(message, messages.Cleared):
            self._line.on_cleared()
        elif isinstance(message, messages.Key):
            self._call.key_pressed(message.key)
        elif isinstance(message, messages.PageHangUp):
            self.hung_up = True
        else:
            self._count("bad_order")
        return self.hung_up

    def _count(self, reason: str) -> None:
        self._metrics.input_errors_total.inc("carrier", reason)

"""The media socket: `GET /twilio/media`, from the upgrade to the stream's end.

The upgrade is answered immediately. A socket that does not prove within five seconds to be a call's stream is closed.
What a stream sends is read, checked and passed on to its call; nothing in it can end any other call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
from aiohttp import WSMsgType, web

from offhook.gateway.call.call import Call
from offhook.gateway.call.line import LineCan, LineFormats
from offhook.gateway.carriers.stream_line import StreamLine, close_socket
from offhook.gateway.carriers.twilio import messages, signature
from offhook.gateway.carriers.twilio.guard import StreamGuard
from offhook.gateway.config import Settings
from offhook.gateway.errors import Malformed
from offhook.gateway.web.connections import prove, split_frames
from offhook.gateway.web.frames import Frames
from offhook.gateway.web.limits import Limits
from offhook.media.formats import MULAW_8K
from offhook.metrics.catalogue import Metrics

__all__ = ["FORMATS", "MediaSockets"]

FORMATS = LineFormats(gives=MULAW_8K, takes=MULAW_8K)
CAN = LineCan(max_message_bytes=messages.MAX_MESSAGE_BYTES)
CLOSED = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)
MAX_WAITING = 100  # sockets without a `start` yet, in addition to one for each call
MAX_BEFORE_START = 20  # messages; `start` is the second


class MediaSockets:
    """All media sockets of the process.

    `claim(start)` is the call that a stream proves to belong to; None, counted, when it proves nothing. `stopped(call)`
    and `lost(call)` end the call's stream: by Twilio's `stop`, or without one.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        limits: Limits,
        *,
        claim: Callable[[messages.Start], Awaitable[Call | None]],
        stopped: Callable[[Call], None],
        lost: Callable[[Call], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._metrics, self._limits, self._clock = settings, metrics, limits, clock
        self._claim, self._stopped, self._lost = claim, stopped, lost
        self._waiting = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One socket, from its upgrade to its end."""
        settings = self._settings
        if not settings.insecure and not signature.upgrade_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
        ):
            self._metrics.auth_failures_total.inc("stream_signature")
            self._limits.check_rate(request)  # only now: what is signed has no rate
            self._limits.warn_throttled("refused a media stream with a wrong signature: see `offhook doctor`")
            raise web.HTTPForbidden(text="wrong signature")
        prove(request)
        # No heartbeat: an intermediary that drops pongs would end live calls; the silence of the media decides.
        # Pings are answered here, where they are counted. No Origin is required: Twilio sends none.
        socket = web.WebSocketResponse(
            compress=False, autoping=False, heartbeat=None, max_msg_size=messages.MAX_MESSAGE_BYTES, timeout=2.0
        )
        try:
            upgrades = socket.can_prepare(request).ok
        except ValueError:  # aiohttp's own, for headers that are not text
            upgrades = False
        if not upgrades:
            self._limits.refuse("bad_format", web.HTTPBadRequest(text="this is a WebSocket address"))
        if self._waiting >= MAX_WAITING + settings.max_calls:
            self._limits.refuse("too_many", web.HTTPServiceUnavailable(text="too many sockets without a start"))
        transport = request.transport
        if transport is None:  # the peer left before the upgrade was answered
            return web.Response(status=400)
        self._waiting += 1
        frames = split_frames(request, messages.MAX_MESSAGE_BYTES)
        try:
            await socket.prepare(request)
            start = await self._await_start(socket, frames)
        except ConnectionError:  # the peer left while the upgrade was answered
            return socket if socket.prepared else web.Response(status=400)
        finally:
            self._waiting -= 1
        if start is None or (call := await self._claimed(socket, start)) is None:
            return socket
        line = StreamLine(
            socket,
            transport,
            messages.TwilioEncoder(start.stream_sid),
            call,
            stream_id=start.stream_sid,
            formats=FORMATS,
            can=CAN,
        )
        call.attach(line)
        await self._read_stream(socket, transport, line, call, start, frames)
        return socket

    def _count(self, reason: str) -> None:
        self._metrics.input_errors_total.inc("carrier", reason)

    async def _await_start(self, socket: web.WebSocketResponse, frames: Frames | None) -> messages.Start | None:
        """Read up to the stream's `start`; None after having closed the socket."""
        try:
            async with asyncio.timeout(messages.START_DEADLINE_S):
                return await self._find_start(socket, frames)
        except TimeoutError:
            self._count("timeout")
            await socket.close(code=1008, message=b"no start in time")
            return None

    async def _claimed(self, socket: web.WebSocketResponse, start: messages.Start) -> Call | None:
        """The stream's call; None after having closed the socket."""
        if not start.media_format.is_telephone:
            self._count("bad_format")
            await socket.close(code=1003, message=b"only audio/x-mulaw, 8000 Hz, 1 channel")
            return None
        call = await self._claim(start)
        if call is None:
            await socket.close(code=1008, message=b"unknown call or token")
        return call

    async def _find_start(self, socket: web.WebSocketResponse, frames: Frames | None) -> messages.Start | None:
        connected = False
        for _ in range(MAX_BEFORE_START):
            message = await socket.receive()
            if message.type in CLOSED:
                return None
            parsed = None
            if message.type is WSMsgType.TEXT:
                if frames is not None:
                    frames.read()
                parsed = self._parse(message.data)
            else:
                await self._control(socket, message)
            if isinstance(parsed, messages.Start):
                if not connected:
                    self._count("bad_order")
                return parsed
            if parsed is not None and (connected or not isinstance(parsed, messages.Connected)):
                self._count("bad_order")
            connected = connected or isinstance(parsed, messages.Connected)
        self._count("too_many")
        await socket.close(code=1008, message=b"no start")
        return None

    async def _read_stream(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        line: StreamLine,
        call: Call,
        start: messages.Start,
        frames: Frames | None,
    ) -> None:
        """The stream's messages to the call, until either is over: most of them where they arrive (`frames`)."""
        guard = StreamGuard(start.stream_sid, self._clock(), start.sequence)
        receive, clock, take = socket.receive, self._clock, self._taker(guard, line, call)
        try:
            while True:
                if frames is not None:
                    frames.offer(take)
                message = await receive()
                kind = message.type
                if kind in CLOSED:
                    break
                now_s = clock()
                if guard.floods(now_s):
                    self._count("too_many")
                    await close_socket(socket, transport, 1008, b"too many messages")
                    break
                try:
                    if kind is not WSMsgType.TEXT:
                        await self._control(socket, message)
                        continue
                    if frames is not None:
                        frames.read()
                    parsed = self._parse(message.data)
                    if parsed is not None and self._take(parsed, guard, line, call, now_s):
                        break
                except Exception as error:  # costs this message; a call in which it goes on is ended
                    call.task_failed("line_reader", error)
        except Exception as error:  # the stream is lost
            call.task_failed("line_reader", error)
        finally:
            if frames is not None:
                frames.stop()
        if call.line is line and call.ending is None:
            self._lost(call)
        if call.ending is not None:
            await call.over()

    def _taker(self, guard: StreamGuard, line: StreamLine, call: Call) -> Callable[[bytes], bool]:
        """Takes a message of the stream where it arrives, but for what ends the stream."""
        clock = self._clock

        def take(text: bytes) -> bool:
            now_s = clock()
            if guard.floods(now_s):
                return False
            try:
                parsed = self._parse(text)
                if type(parsed) is messages.Stop:
                    return False
                if parsed is not None:
                    self._take(parsed, guard, line, call, now_s)
            except (Exception, asyncio.CancelledError) as error:  # nothing is awaited here
                call.task_failed("line_reader", error)
            return True

        return take

    def _take(self, parsed: messages.Message, guard: StreamGuard, line: StreamLine, call: Call, now_s: float) -> bool:
        """One message of the stream: whether it was its end."""
        if type(parsed) is messages.Media:  # 50 a second
            if guard.take(parsed) and (media_ms := guard.audio(parsed, now_s)) is not None:
                call.caller_audio(parsed.payload, media_ms)
        elif isinstance(parsed, (messages.Connected, messages.Start)):
            self._count("bad_order")
        elif not guard.take(parsed):
            pass
        elif isinstance(parsed, messages.Mark):
            if not line.on_mark(parsed.name):
                self._count("unknown_mark")
        elif isinstance(parsed, messages.Dtmf):
            call.key_pressed(parsed.digit)
        else:
            self._stopped(call)
            return True
        if guard.broken:
            for reason in guard.broken:
                self._count(reason)
            guard.broken.clear()
        return False

    def _parse(self, text: str | bytes) -> messages.Message | None:
        """A message of the stream; None for one without a meaning here (counted)."""
        try:
            parsed = messages.parse(text)
        except Malformed as error:
            self._count(error.reason)
            return None
        if parsed is None:
            self._count("unknown_event")
        return parsed

    async def _control(self, socket: web.WebSocketResponse, message: aiohttp.WSMessage) -> None:
        """What is no text: a ping, or a fault."""
        kind = message.type
        if kind is WSMsgType.PING:
            with suppress(ConnectionError):
                await socket.pong(message.data)
        elif kind is WSMsgType.BINARY:
            self._count("binary")
        elif kind is WSMsgType.ERROR:  # the socket is closed with this code already
            code = getattr(message.data, "code", 0)
            self._count({1007: "not_utf8", 1009: "too_large"}.get(code, "bad_frame"))

"""The media socket: `GET /twilio/media`, from the upgrade to the stream's end.

The 101 waits for nothing. A socket that does not prove within five seconds to be a call's stream is closed; what
it sends then is read, checked and handed to its call, and nothing in it can end any other call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import aiohttp
from aiohttp import WSMsgType, web

from offhook.gateway.call.call import Call
from offhook.gateway.carriers.twilio import messages, signature
from offhook.gateway.carriers.twilio.guard import StreamGuard
from offhook.gateway.config import Settings
from offhook.gateway.errors import Malformed
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics

__all__ = ["StreamOwner", "Streams"]

MAX_WAITING = 100  # sockets without a `start` yet, beside one for each call
MAX_BEFORE_START = 20  # messages; `start` is the second


class StreamOwner(Protocol):
    """Who knows the calls that streams belong to."""

    def claim(self, start: messages.Start) -> Call | None:
        """The call this stream proves to belong to, once; None, counted, when it proves nothing."""

    def stopped(self, call: Call, now_s: float) -> None:
        """Twilio said `stop`."""

    def ended(self, call: Call, now_s: float) -> None:
        """The stream that the call had is gone, and nothing was said."""


class Streams:
    """All media sockets of the process."""

    def __init__(
        self, settings: Settings, metrics: Metrics, limits: Limits, owner: StreamOwner, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._settings, self._metrics, self._limits, self._owner = settings, metrics, limits, owner
        self._waiting = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One socket, from its upgrade to its end."""
        settings = self._settings
        self._limits.check_rate(request)
        if not settings.insecure and not signature.upgrade_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
        ):
            self._metrics.auth_failures_total.inc("stream_signature")
            self._limits.warn_throttled("refused a media stream with a wrong signature: see `offhook doctor`")
            raise web.HTTPForbidden(text="wrong signature")
        # No heartbeat: an intermediary that eats pongs would end live calls; the silence of the media decides.
        # Pings are answered here, where they are counted. No Origin is asked for: Twilio sends none.
        socket = web.WebSocketResponse(
            compress=False, autoping=False, heartbeat=None, max_msg_size=messages.MAX_MESSAGE_BYTES, timeout=2.0
        )
        try:
            upgrades = socket.can_prepare(request).ok
        except ValueError:  # aiohttp's own, of headers that are no text
            upgrades = False
        if not upgrades:
            self._limits.refuse("bad_format", web.HTTPBadRequest(text="this is a WebSocket address"))
        if self._waiting >= MAX_WAITING + settings.max_calls:
            self._limits.refuse("too_many", web.HTTPServiceUnavailable(text="too many sockets without a start"))
        self._waiting += 1
        try:
            await socket.prepare(request)
            started = await self._await_start(socket)
        except ConnectionError:  # the peer went away while we answered
            return socket if socket.prepared else web.Response(status=400)
        finally:
            self._waiting -= 1
        if started is not None:
            call, start = started
            await self._talk(socket, call, start)
        return socket

    def _count(self, reason: str) -> None:
        self._metrics.input_errors_total.inc("carrier", reason)

    async def _await_start(self, socket: web.WebSocketResponse) -> tuple[Call, messages.Start] | None:
        """Read up to the stream's `start` and attach it to its call; None after having closed the socket."""
        try:
            async with asyncio.timeout(messages.START_DEADLINE_S):
                parsed = await self._find_start(socket)
        except TimeoutError:
            self._count("timeout")
            await socket.close(code=1008, message=b"no start in time")
            return None
        if parsed is None:
            return None
        if not parsed.media_format.is_telephone:
            self._count("bad_format")
            await socket.close(code=1003, message=b"only audio/x-mulaw, 8000 Hz, 1 channel")
            return None
        call = self._owner.claim(parsed)
        if call is None:
            await socket.close(code=1008, message=b"unknown call or token")
            return None
        call.attach(socket, parsed.stream_sid)
        return call, parsed

    async def _find_start(self, socket: web.WebSocketResponse) -> messages.Start | None:
        connected = False
        for _ in range(MAX_BEFORE_START):
            message = await socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return None
            parsed = await self._read(socket, message)
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

    async def _talk(self, socket: web.WebSocketResponse, call: Call, start: messages.Start) -> None:
        """The stream's messages to the call, until either is over."""
        guard = StreamGuard(start.stream_sid, self._clock(), start.sequence)
        async for message in socket:
            now_s = self._clock()
            if guard.floods(now_s):
                self._count("too_many")
                with suppress(ConnectionError):
                    await socket.close(code=1008, message=b"too many messages")
                break
            parsed = await self._read(socket, message)
            if parsed is None:
                continue
            if isinstance(parsed, (messages.Connected, messages.Start)):
                self._count("bad_order")
            elif not guard.take(parsed):
                pass
            elif type(parsed) is messages.Media:  # 50 a second
                timestamp_ms = guard.audio(parsed, now_s)
                if timestamp_ms is not None:
                    call.media(parsed.payload, timestamp_ms)
            elif isinstance(parsed, messages.Mark):
                call.mark(parsed.name)
            elif isinstance(parsed, messages.Dtmf):
                call.digit(parsed.digit)
            else:
                self._owner.stopped(call, now_s)
                break
            if guard.broken:
                for reason in guard.broken:
                    self._count(reason)
                guard.broken.clear()
        if call.socket is socket and call.ending is None:
            self._owner.ended(call, self._clock())
        if call.ending is not None:
            await call.over()

    async def _read(self, socket: web.WebSocketResponse, message: aiohttp.WSMessage) -> messages.Message | None:
        """A message of the stream; None for one that means nothing to us (counted when malformed)."""
        kind = message.type
        if kind is WSMsgType.TEXT:
            try:
                parsed = messages.parse(message.data)
            except Malformed as error:
                self._count(error.reason)
                return None
            if parsed is None:
                self._count("unknown_event")
            return parsed
        elif kind is WSMsgType.PING:
            with suppress(ConnectionError):
                await socket.pong(message.data)
        elif kind is WSMsgType.BINARY:
            self._count("binary")
        elif kind is WSMsgType.ERROR:  # the socket is closed with this code already
            code = getattr(message.data, "code", 0)
            self._count({1007: "not_utf8", 1009: "too_large"}.get(code, "bad_frame"))
        return None

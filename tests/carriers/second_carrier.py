"""A second carrier for the tests, with Plivo's words, and a phone at its far end.

It is about what a real one costs beside `StreamLine`: webhooks (their answers are JSON here, for brevity), a socket's
reader, an encoder. No file under call/, conversation/ or telephony/ was changed for it. Source of the words: Plivo
docs, "Audio streaming".
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

from offhook.gateway.call.line import LineCan, LineFormats
from offhook.gateway.carriers.stream_line import StreamLine
from offhook.gateway.config import Settings
from offhook.gateway.telephony.admission import Admitted
from offhook.gateway.telephony.carrier import Carrier, Kind, Ringing
from offhook.gateway.telephony.status import CallStatus
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.web.limits import Limits
from offhook.media.formats import MULAW_8K
from offhook.metrics.catalogue import Metrics

__all__ = ["PlivoPhone", "PlivoWords"]

FORMATS = LineFormats(MULAW_8K, MULAW_8K)
CAN = LineCan(acknowledges_clear=True, max_message_bytes=16_000)
FRAME_S = 0.02


class PlivoEncoder:
    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id

    def media(self, codes: bytes) -> str:
        payload = base64.b64encode(codes).decode()
        media = {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": payload}
        return json.dumps({"event": "playAudio", "media": media})

    def mark(self, name: str) -> str:
        return json.dumps({"event": "checkpoint", "streamId": self._stream_id, "name": name})

    def clear(self) -> str:
        return json.dumps({"event": "clearAudio", "streamId": self._stream_id})


class PlivoWords(Carrier):
    """A carrier without REST: it can be called, and does what follows when its webhook requests it."""

    name = "plivo"

    def __init__(
        self, settings: Settings, metrics: Metrics, limits: Limits, board: Switchboard, *, clock: Callable[[], float]
    ) -> None:
        self._board, self._clock = board, clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/plivo/answer", self._answer),
            web.post("/plivo/after", self._after),
            web.post("/plivo/hangup", self._hangup),
            web.get("/plivo/media", self._media),
        ]

    async def _answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        call_id, dialled = str(form["CallUUID"]), str(form["To"])
        ringing = Ringing(
            call_id, str(form["From"]), dialled, own_number=dialled, formats=FORMATS, status=CallStatus.RINGING
        )
        answer = self._board.ring(self, ringing, self._clock())
        if not isinstance(answer, Admitted):
            return web.json_response({"speak": answer.fallback.say})
        return web.json_response({"stream": answer.token})

    async def _after(self, request: web.Request) -> web.Response:
        call_id, now_s = str((await request.post())["CallUUID"]), self._clock()
        leg, step = self._board.leg(call_id), self._board.follows(call_id, now_s)
        if leg is None:
            return web.json_response({"hangup": True})
        if step is None and leg.reconnect(now_s) and (token := self._board.reconnect(call_id, now_s)):
            return web.json_response({"stream": token})
        step = step or self._board.give_up(call_id, now_s)
        return web.json_response({"speak": leg.fallback.say} if step.kind is Kind.FALLBACK else {step.kind.value: True})

    async def _hangup(self, request: web.Request) -> web.Response:
        self._board.status(str((await request.post())["CallUUID"]), CallStatus.COMPLETED, self._clock())
        return web.Response()

    async def _media(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        transport = request.transport
        assert transport is not None
        await socket.prepare(request)
        start = await socket.receive_json()
        call_id, stream_id = start["start"]["callId"], start["start"]["streamId"]
        call = self._board.claim(call_id, start["extra_headers"], stream_id, self._clock())
        if call is None:
            await socket.close(code=1008)
            return socket
        line = StreamLine(
            socket, transport, PlivoEncoder(stream_id), call, stream_id=stream_id, formats=FORMATS, can=CAN
        )
        call.attach(line)
        async for message in socket:
            said = json.loads(message.data) if message.type is WSMsgType.TEXT else {}
            match said.get("event"):
                case "media":
                    call.caller_audio(base64.b64decode(said["media"]["payload"]), int(said["media"]["timestamp"]))
                case "playedStream":
                    line.on_mark(said["name"])
                case "clearedAudio":
                    line.on_cleared()
                case "dtmf":
                    call.key_pressed(said["dtmf"]["digit"])
        if call.line is line and call.ending is None:
            self._board.line_gone(call, self._clock())
        if call.ending is not None:
            await call.over()
        return socket


class PlivoPhone:
    """A call at that carrier: a queue played in real time, and a caller who says what is put into `speech`."""

    def __init__(self, http: aiohttp.ClientSession, url: str, call_id: str, dialled: str) -> None:
        self._http, self._url, self.call_id, self._dialled = http, url, call_id, dialled
        self._queue: list[bytes | str] = []
        self.speech = bytearray()  # mu-law that the caller is about to say
        self.heard_s = 0.0  # of the agent
        self.events: list[str] = []
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def post(self, path: str) -> Any:
        form = {"CallUUID": self.call_id, "From": "+15550100", "To": self._dialled}
        async with self._http.post(f"{self._url}/plivo/{path}", data=form) as answer:
            return await answer.json() if answer.content_type == "application/json" else None

    async def stream(self, token: str, number: int = 1) -> None:
        """One media stream, until the gateway or `drop` ends it."""
        async with self._http.ws_connect(f"{self._url}/plivo/media") as socket:
            self._socket, self._queue = socket, []
            begun = {"callId": self.call_id, "streamId": f"{self.call_id}-{number}"}
            await socket.send_json({"event": "start", "start": begun, "extra_headers": token})
            playing = asyncio.create_task(self._play(socket))
            async for message in socket:
                said = json.loads(message.data)
                self.events.append(said["event"])
                if said["event"] == "playAudio":
                    codes = base64.b64decode(said["media"]["payload"])
                    self._queue += [codes[at : at + 160] for at in range(0, len(codes), 160)]
                elif said["event"] == "checkpoint":
                    self._queue.append(said["name"])
                else:
                    self._queue.clear()  # and with it its checkpoints, which are not reported
                    await socket.send_json({"event": "clearedAudio"})
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def _play(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Every 20 ms a frame to the gateway, and one of the queue to the caller's ear."""
        loop = asyncio.get_running_loop()
        began_s, n = loop.time(), 0
        with suppress(ConnectionError):
            while True:
                n += 1
                frame = bytes(self.speech[:160]).ljust(160, b"\xff")
                del self.speech[:160]
                media = {"timestamp": str(20 * n), "payload": base64.b64encode(frame).decode()}
                await socket.send_json({"event": "media", "media": media})
                while self._queue and isinstance(self._queue[0], str):
                    await socket.send_json({"event": "playedStream", "name": self._queue.pop(0)})
                if self._queue:
                    self._queue.pop(0)
                    self.heard_s += FRAME_S
                await asyncio.sleep(max(0.0, began_s + n * FRAME_S - loop.time()))

    async def drop(self) -> None:
        """The stream breaks, as a connection does."""
        assert self._socket is not None
        await self._socket.close()

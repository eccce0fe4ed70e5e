"""The far end of the second model: a WebSocket server with OpenAI's words, whose replies are scripted.

It keeps what it received as received, and detects the caller's turns by level alone.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from offhook.media.formats import AudioFormat

__all__ = ["Answer", "RealtimeService", "serving_realtime"]

LOUD_DBOV = -45.0
SILENCE_FRAMES = 30  # 600 ms after speech: the caller's turn is over
DELTA_S = 0.2


@dataclass(frozen=True)
class Answer:
    """One response: its words and codes, `speed` times as fast as it is spoken; then a tool, if one is named."""

    text: str = ""
    codes: bytes = b""
    speed: float = 2.0
    tool: str = ""


@dataclass
class RealtimeService:
    """What was received, in order. `heard`: the caller's codes; `sent`: per response, the codes sent of it."""

    answers: Sequence[Answer]
    audio: AudioFormat
    sessions: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)  # without those of audio
    heard: bytearray = field(default_factory=bytearray)
    sent: list[bytearray] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        generating: asyncio.Task[None] | None = None
        quiet, speaking = 0, False

        def generate() -> None:
            nonlocal generating
            if generating is not None and not generating.done():
                self.faults.append("conversation_already_has_active_response")
            elif len(self.sent) < len(self.answers):
                self.sent.append(bytearray())
                generating = asyncio.create_task(self._generate(socket, len(self.sent) - 1))

        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            match said["type"]:
                case "input_audio_buffer.append":
                    codes = base64.b64decode(said["audio"])
                    self.heard += codes
                    loud = self.audio.levels_dbov(codes).max() > LOUD_DBOV
                    quiet = 0 if loud else quiet + 1
                    if loud:
                        speaking = True
                    elif speaking and quiet >= SILENCE_FRAMES:
                        speaking = False
                        generate()
                    continue
                case "session.update":
                    self.sessions.append(said["session"])
                    await socket.send_json({"type": "session.updated", "session": said["session"]})
                case "response.create":
                    generate()
                case "response.cancel":
                    assert generating is not None
                    generating.cancel()
                    await asyncio.gather(generating, return_exceptions=True)
                    await self._done(socket, said["response_id"], "cancelled")
            self.messages.append(said)
        if generating is not None:
            generating.cancel()
        return socket

    async def _generate(self, socket: web.WebSocketResponse, number: int) -> None:
        answer, response_id = self.answers[number], f"resp_{number}"
        await socket.send_json({"type": "response.created", "response": {"id": response_id}})
        if answer.codes:
            item = {"response_id": response_id, "item_id": f"item_{number}"}
            size = round(DELTA_S * self.audio.rate_hz) * self.audio.bytes_per_sample
            await socket.send_json({"type": "response.output_audio_transcript.delta", **item, "delta": answer.text})
            for start in range(0, len(answer.codes), size):
                part = answer.codes[start : start + size]
                self.sent[number] += part
                delta = base64.b64encode(part).decode()
                await socket.send_json({"type": "response.output_audio.delta", **item, "delta": delta})
                await asyncio.sleep(DELTA_S / answer.speed)
            await socket.send_json({"type": "response.output_audio.done", **item})
        if answer.tool:
            call = {"call_id": f"call_{number}", "name": answer.tool, "arguments": "{}"}
            await socket.send_json({"type": "response.function_call_arguments.done", **call})
        await self._done(socket, response_id, "completed")

    async def _done(self, socket: web.WebSocketResponse, response_id: str, status: str) -> None:
        usage = {"input_tokens": 10, "output_tokens": 20}
        await socket.send_json(
            {"type": "response.done", "response": {"id": response_id, "status": status, "usage": usage}}
        )


@asynccontextmanager
async def serving_realtime(answers: Sequence[Answer], audio: AudioFormat) -> AsyncIterator[tuple[RealtimeService, str]]:
    """The service and its URL, on a port of its own."""
    service, app = RealtimeService(answers, audio), web.Application()
    app.router.add_get("/v1/realtime", service.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield service, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/realtime"
    finally:
        await runner.cleanup()

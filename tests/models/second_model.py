"""A second model for the tests, with OpenAI's words: the caller's and the agent's codes pass through unconverted.

It is what a provider costs whose protocol truncates and cancels. No file under call/, conversation/ or telephony/ was
changed for it. Source of the words: OpenAI docs, "Realtime API". A lost session is not resumed: the link gives up.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import ModelFailed, ModelReady, ReplyComplete, TurnComplete
from offhook.gateway.models import (
    CallBrief,
    Declared,
    LinkCan,
    LinkCount,
    LinkMemory,
    ModelSink,
    Prices,
    Problem,
    Speaker,
    Usage,
)
from offhook.media.formats import ALAW_8K, MULAW_8K

__all__ = ["RealtimeLink", "RealtimeModel"]

FORMATS = {MULAW_8K: "audio/pcmu", ALAW_8K: "audio/pcma"}
OUTBOX_MAX = 500  # messages: 10 s of frames


class RealtimeModel:
    """`offhook.gateway.models.Model`."""

    prices: Mapping[str, Prices] = {}

    def __init__(self, url: str) -> None:
        self._url = url

    def name_of(self, agent: Agent) -> str:
        return agent.model.name or "gpt-realtime"

    def check(self, agent: Agent, tools: Iterable[Declared]) -> list[Problem]:
        return []

    def link(self, brief: CallBrief, sink: ModelSink) -> RealtimeLink:
        return RealtimeLink(self._url, self.name_of(brief.agent), brief, sink)

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...


class RealtimeLink:
    """`offhook.gateway.models.ModelLink`, of one connection."""

    can = LinkCan(
        resumes=False,
        withdraws_tools=False,
        cancels_replies=True,
        truncates=True,
        full_duplex=False,
        session_limit_s=3_600.0,
    )

    def __init__(self, url: str, model: str, brief: CallBrief, sink: ModelSink) -> None:
        self.faults: deque[str] = deque(maxlen=50)
        self._url, self._model, self._brief, self._sink = url, model, brief, sink
        self._outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._turn = 0
        self._response = ""  # the one being generated
        self._items: dict[int, str] = {}  # turn -> the item that holds its audio
        self._running: asyncio.Task[Any] | None = None

    # --- ModelLink

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        if self._outbox.qsize() >= OUTBOX_MAX:
            self._sink.count(LinkCount.DROPPED_FULL)
            return
        self._send("input_audio_buffer.append", audio=base64.b64encode(codes).decode())

    def flush_audio(self) -> None: ...

    def picture(self, jpeg: bytes) -> None: ...

    def turn_started(self) -> None: ...

    def turn_ended(self) -> None:
        self._send("input_audio_buffer.commit")
        self._send("response.create")

    def prompt(self, text: str) -> None:
        self._item(type="message", role="user", content=[{"type": "input_text", "text": text}])
        self._send("response.create")

    def note(self, text: str) -> None:
        self._item(type="message", role="system", content=[{"type": "input_text", "text": text}])

    def heard(self, turn: int, samples: int, note: str | None) -> None:
        if item := self._items.get(turn):
            ms = samples * 1000 // self._brief.formats.agent.rate_hz
            self._send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms)

    def memory(self) -> LinkMemory:
        return LinkMemory()

    def cancel_reply(self, turn: int) -> None:
        if self._response and turn == self._turn:
            self._send("response.cancel", response_id=self._response)

    def tool_result(self, call_id: str, name: str, response: dict[str, Any], speak: Speak) -> None:
        self._item(type="function_call_output", call_id=call_id, output=json.dumps(response))
        if speak is not Speak.SILENT:
            self._send("response.create")

    def tool_cancelled(self, call_id: str) -> None:
        self._item(type="function_call_output", call_id=call_id, output='{"status": "cancelled"}')

    def rotate(self) -> None: ...

    def reconnect(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._sink.event(ModelFailed(self._brief.clock()))

    def round_trip_s(self) -> float | None:
        return None

    async def run(self) -> None:
        self._running = asyncio.current_task()
        try:
            async with aiohttp.ClientSession() as http, http.ws_connect(self._url) as socket:
                await socket.send_json(self._session())
                sending = asyncio.create_task(self._sending(socket))
                try:
                    async for message in socket:
                        self._received(json.loads(message.data))
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except (aiohttp.ClientError, OSError) as error:
            self.faults.append(type(error).__name__)
        self._sink.event(ModelFailed(self._brief.clock()))

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    # --- the protocol

    def _send(self, kind: str, **fields: Any) -> None:
        self._outbox.put_nowait({"type": kind, **fields})

    def _item(self, **item: Any) -> None:
        self._send("conversation.item.create", item=item)

    async def _sending(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await socket.send_json(await self._outbox.get())

    def _session(self) -> dict[str, Any]:
        agent, formats = self._brief.agent, self._brief.formats
        turns = {"type": "server_vad", "interrupt_response": False}  # the gateway decides a barge-in
        local = agent.turn_detection.mode == "local"
        session = {
            "type": "realtime",
            "model": self._model,
            "instructions": agent.instructions,
            "audio": {
                "input": {"format": {"type": FORMATS[formats.caller]}, "turn_detection": None if local else turns},
                "output": {"format": {"type": FORMATS[formats.agent]}},
            },
            "tools": [
                {"type": "function", "name": t.name, "description": t.description, "parameters": dict(t.parameters)}
                for t in self._brief.tools
            ],
        }
        return {"type": "session.update", "session": session}

    def _received(self, message: dict[str, Any]) -> None:
        sink, now_s = self._sink, self._brief.clock()
        match message["type"]:
            case "session.updated":
                sink.event(ModelReady(now_s))
            case "response.created":
                self._turn, self._response = sink.next_turn(), message["response"]["id"]
            case "response.output_audio.delta":
                self._items[self._turn] = message["item_id"]
                sink.reply_audio(self._turn, base64.b64decode(message["delta"]))
            case "response.output_audio_transcript.delta":
                sink.words(Speaker.AGENT, self._turn, message["delta"], False)
            case "response.output_audio.done":
                sink.event(ReplyComplete(now_s, self._turn))
            case "conversation.item.input_audio_transcription.completed":
                sink.words(Speaker.CALLER, None, message["transcript"], True)
            case "response.function_call_arguments.done":
                sink.tool_call(message["call_id"], message["name"], json.loads(message["arguments"]))
            case "response.done":
                self._response = ""
                tokens = message["response"]["usage"]
                sink.usage(Usage(input_total=tokens["input_tokens"], output_total=tokens["output_tokens"]))
                sink.event(TurnComplete(now_s, self._turn))

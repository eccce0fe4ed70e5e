"""The rehearsal model's responses on the Realtime protocol: one at a time, played from the script.

A client requests them (`response.create`), or the session's turn detection does. Which reply of the script one plays is
decided by what happened last before it: the caller's turn, a text, a tool's result. With none left the request has no
effect, as with a model that stays silent.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pybase64

from offhook.gateway.rehearsal.model.connection import Connection
from offhook.gateway.rehearsal.model.realtime import wire
from offhook.gateway.rehearsal.model.realtime.conversation import Item, Items
from offhook.gateway.rehearsal.model.realtime.wire import EventRefused
from offhook.gateway.rehearsal.model.record import ReplySent, SessionRecord, ToolCallSent
from offhook.gateway.rehearsal.model.script import (
    Abort,
    Action,
    CallTool,
    CancelTools,
    Close,
    EmptyTurn,
    FailResponse,
    Mute,
    Oversize,
    Reply,
    Say,
    Send,
    SendGoAway,
    SendInterrupted,
    Stall,
    Think,
    Wait,
)
from offhook.gateway.rehearsal.model.turns import Progress, Trigger, find_reply, raw_frame, spread
from offhook.gateway.rehearsal.model.voice import chunks_of
from offhook.media.formats import PCM16_24K, AudioFormat, converter

__all__ = ["END_OF_LIFE", "Responses"]

END_OF_LIFE = Close(1001, "Your session hit the maximum duration of 60 minutes.")
_TRANSCRIPT_AHEAD = 2  # chunks: the transcript runs ahead of the audio
_ARGUMENT_PIECE = 12  # characters of a function call's arguments in one delta


@dataclass(slots=True)
class _Response:
    """`late`: frames that are still sent after an interruption. `content`: anything was sent of it."""

    id: str
    trigger: Trigger
    reply: Reply
    index: int | None
    record: ReplySent
    metadata: Any
    output: list[dict[str, Any]] = field(default_factory=list)
    open_item: Item | None = None
    call_open: dict[str, Any] | None = None
    late: list[dict[str, Any]] = field(default_factory=list)
    content: bool = False
    task: asyncio.Task[None] | None = None
    audio_ms: float = 0.0
    text: str = ""


class Responses:
    """Of one session. `session()`: its present settings; `later(delay_s, call)`: a timer that ends with it."""

    def __init__(
        self,
        connection: Connection,
        record: SessionRecord,
        conversation: Items,
        session: Callable[[], Mapping[str, Any]],
        later: Callable[[float, Callable[[], Any]], None],
    ) -> None:
        self._connection, self._record, self._conversation = connection, record, conversation
        self._session, self._later = session, later
        self.progress: Progress
        self.pending: deque[Trigger] = deque(maxlen=50)
        self._active: _Response | None = None
        self._muted = False
        self._untranscribed: list[Item] = []
        self.has_spoken = False
        self.output_ends_s = 0.0  # by the service's reckoning of playback

    @property
    def active(self) -> bool:
        return self._active is not None

    def end(self) -> None:
        """The connection is over."""
        if (response := self._active) is not None:
            response.record.ended, response.record.ended_at_s = "cut off", self._connection.clock()
            self._active = None
            if not response.content and response.index is not None:
                self.progress.used.discard(response.index)
                self.pending.append(response.trigger)
            if response.task is not None:
                response.task.cancel()

    @property
    def unanswered(self) -> Trigger | None:
        """The caller's last turn, where it has had no reply."""
        return next((trigger for trigger in reversed(self.pending) if trigger.kind == "caller"), None)

    def caller_turn(self, item: Item, speech_ms: float) -> None:
        """The caller's turn is part of the conversation."""
        self._untranscribed.append(item)
        self.pending.append(Trigger("caller", speech_ms=speech_ms))

    # -- requests -----------------------------------------------------------------------------------------

    def create(self, wanted: Mapping[str, Any]) -> None:
        """`response.create`, or the detection's own. Raises `EventRefused`."""
        if wanted.get("conversation") == "none":
            self._out_of_band(wanted)
            return
        if self._active is not None:
            text = f"Conversation already has an active response in progress: {self._active.id}."
            raise EventRefused("conversation_already_has_active_response", text)
        for trigger in reversed(self.pending):
            if (found := find_reply(self.progress, trigger)) is not None:
                self.pending.clear()
                if not self._muted:
                    self._begin(trigger, *found, wanted.get("metadata"))
                return

    def cancel(self, response_id: str | None) -> None:
        """Raises `EventRefused` when there is nothing to cancel."""
        if self._active is None or response_id not in (None, self._active.id):
            raise EventRefused(
                "response_cancel_not_active", "Cancellation failed: no active response found.", race=True
            )
        self.interrupt("client_cancelled")

    def interrupt(self, reason: str) -> None:
        """End the active response where it is."""
        response = self._active
        if response is None:
            return
        self._record.interruptions.append(self._connection.clock())
        for frame in response.late:
            self._send(frame)
        if response.task is not None and response.task is not asyncio.current_task():
            response.task.cancel()
        self._close_item(response, "incomplete")
        if response.call_open is not None:
            self._close_call(response, "incomplete", cut=True)
        if not response.content and response.trigger.kind == "caller" and response.index is not None:
            self.progress.used.discard(response.index)  # the caller only paused: the reply is still due
        self._done(response, "cancelled", {"type": "cancelled", "reason": reason})
        response.record.ended = "interrupted"

    def _begin(self, trigger: Trigger, index: int | None, reply: Reply, metadata: Any) -> None:
        event = f"tool:{trigger.detail}" if trigger.kind == "tool" else trigger.kind
        record = ReplySent(event, self._connection.clock())
        self._record.replies.append(record)
        response = _Response(f"resp_{secrets.token_hex(10)}", trigger, reply, index, record, metadata)
        self._active = response
        self._send({"type": "response.created", "response": self._shown(response, "in_progress")})
        self._rate_limits(0.0)
        response.task = self._connection.tasks.begin(self._play(response))

    def _out_of_band(self, wanted: Mapping[str, Any]) -> None:
        """A response beside the conversation: the next text of the script, as text alone."""
        found = find_reply(self.progress, Trigger("text", "out of band"))
        said = [action.text for action in found[1].do if isinstance(action, Say)] if found else []
        shown: dict[str, Any] = {
            "object": "realtime.response",
            "id": f"resp_{secrets.token_hex(10)}",
            "conversation_id": None,
            "metadata": wanted.get("metadata"),
            "status_details": None,
            "output": [],
            "usage": None,
        }
        self._send({"type": "response.created", "response": {**shown, "status": "in_progress"}})
        text, item_id = " ".join(said), f"item_{secrets.token_hex(10)}"
        where = {"response_id": shown["id"], "item_id": item_id, "output_index": 0, "content_index": 0}
        self._send({"type": "response.output_text.delta", **where, "delta": text})
        self._send({"type": "response.output_text.done", **where, "text": text})
        content = [{"type": "output_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": content}
        spent = self._conversation.usage(len(text) // 4, 0)
        self._record.usage.append(spent)
        done = {**shown, "status": "completed", "output": [item], "usage": spent}
        self._send({"type": "response.done", "response": done})

    # -- a response ---------------------------------------------------------------------------------------

    async def _play(self, response: _Response) -> None:
        when = response.reply.heard_when
        if when == "before":
            self._transcribe(response)
        status, details = "completed", None
        rest = deque(response.reply.do)
        while rest and self._active is response and self._connection.open:
            action = rest.popleft()
            match action:
                case Say():
                    await self._speak(response, action)
                case CallTool():
                    await self._call(response, action)
                case EmptyTurn() | Think():
                    pass
                case FailResponse():
                    status, details = action.status, _details(action)
                    self._rate_limits(action.reset_s)
                    if status == "failed":  # what it would have answered is still unanswered
                        self.pending.append(response.trigger)
                    break
                case SendInterrupted():
                    self.interrupt("turn_detected")
                case _:
                    await self.do(action)
        if self._active is not response or not self._connection.open:
            return
        if when == "after":
            self._transcribe(response)
        self._close_item(response, "completed")
        self._done(response, status, details)
        response.record.ended = "complete"

    def _done(self, response: _Response, status: str, details: dict[str, Any] | None) -> None:
        now_s = self._connection.clock()
        response.record.generation_completed(now_s)
        response.record.ended_at_s = now_s
        self._active = None
        spent = self._conversation.usage(len(response.text) // 4, round(response.audio_ms / 50))
        self._record.usage.append(spent)
        shown = self._shown(response, status) | {"status_details": details, "usage": spent}
        self._send({"type": "response.done", "response": shown})
        self._transcribe(response)  # what was not sent before

    def _shown(self, response: _Response, status: str) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": response.id,
            "status": status,
            "status_details": None,
            "output": list(response.output),
            "conversation_id": self._conversation.id,
            "output_modalities": ["audio"],
            "max_output_tokens": "inf",
            "metadata": response.metadata,
            "usage": None,
        }

    def _rate_limits(self, reset_s: float) -> None:
        left = 0 if reset_s else 399
        limits = [
            {"name": "requests", "limit": 400, "remaining": left, "reset_seconds": reset_s},
            {"name": "tokens", "limit": 200_000, "remaining": left and 190_000, "reset_seconds": reset_s},
        ]
        self._send({"type": "rate_limits.updated", "rate_limits": limits})

    def _transcribe(self, response: _Response) -> None:
        """The transcripts of the caller's turns before this response, by a model of its own."""
        settings = self._session()["audio"]["input"]["transcription"]
        items, self._untranscribed = self._untranscribed, []
        if settings is None:
            return
        for item in items:
            pieces = (
                response.reply.heard if item is items[-1] and response.index not in self.progress.heard_sent else ()
            )
            where = {"item_id": item.id, "content_index": 0}
            kind = "conversation.item.input_audio_transcription"
            for piece in pieces:
                self._send({"type": f"{kind}.delta", **where, "delta": piece})
            text = "".join(pieces)
            spent = {"type": "duration", "seconds": round(item.length_ms / 1000, 1)}
            self._send({"type": f"{kind}.completed", **where, "transcript": text, "usage": spent})
        if items and response.index is not None:
            self.progress.heard_sent.add(response.index)

    # -- speech -------------------------------------------------------------------------------------------

    async def _speak(self, response: _Response, say: Say) -> None:
        record = response.record
        begin_s = self._connection.clock() + say.delay_ms / 1000
        if not response.content:
            begin_s = record.decided_at_s + say.delay_ms / 1000
            record.delay_ms = say.delay_ms
        record.text = f"{record.text} {say.text}".strip()
        await asyncio.sleep(max(0.0, begin_s - self._connection.clock()))
        self._close_item(response, "completed")  # of the say before: a reply has several items
        item = self._open_item(response)
        chunks = _coded(say, wire.format_of(self._session()["audio"]["output"]["format"]))
        words = spread(say.text, len(chunks)) if say.transcript not in ("none", "before", "after") else []
        if say.transcript == "before":
            self._words(response, item, say.text)
        for i, (data, starts_ms, length_ms) in enumerate(chunks):
            wait_s = begin_s + starts_ms / 1000 / say.speed - self._connection.clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not self._connection.open or self._active is not response:
                return
            ahead = words[:_TRANSCRIPT_AHEAD] if i == 0 else words[i + _TRANSCRIPT_AHEAD - 1 : i + _TRANSCRIPT_AHEAD]
            for piece in filter(None, ahead):
                self._words(response, item, piece)
            where = self._where(response, item)
            response.late = [_audio(where, late[0]) for late in chunks[i + 1 : i + 1 + say.late_chunks]]
            item.length_ms += length_ms
            response.audio_ms += length_ms
            record.audio_ms += length_ms
            now_s = self._connection.clock()
            self.output_ends_s = max(now_s, self.output_ends_s) + length_ms / 1000
            self._connection.put(wire.encoded(_audio(where, data)), record.audio_sent)
            if i == 0 and response.reply.heard_when == "during":
                self._transcribe(response)
        response.late = []
        if say.transcript == "after":
            self._words(response, item, say.text)

    def _where(self, response: _Response, item: Item) -> dict[str, Any]:
        return {
            "response_id": response.id,
            "item_id": item.id,
            "output_index": len(response.output),
            "content_index": 0,
        }

    def _words(self, response: _Response, item: Item, piece: str) -> None:
        item.text += piece
        response.text += piece
        self._send({"type": "response.output_audio_transcript.delta", **self._where(response, item), "delta": piece})

    def _open_item(self, response: _Response) -> Item:
        item = self._conversation.new("message", role="assistant")
        item.response_id, item.begins_ms = response.id, response.audio_ms
        response.open_item, response.content, self.has_spoken = item, True, True
        shown = item.shown("in_progress")
        where = {"response_id": response.id, "output_index": len(response.output)}
        self._send({"type": "response.output_item.added", **where, "item": shown})
        self._conversation.announce(item, "conversation.item.added", self._send, "in_progress")
        part = {"type": "audio", "transcript": ""}
        self._send({"type": "response.content_part.added", **self._where(response, item), "part": part})
        return item

    def _close_item(self, response: _Response, status: str) -> None:
        item, response.open_item = response.open_item, None
        if item is None:
            return
        where = self._where(response, item)
        self._send({"type": "response.output_audio.done", **where})
        self._send({"type": "response.output_audio_transcript.done", **where, "transcript": item.text})
        part = {"type": "audio", "transcript": item.text}
        self._send({"type": "response.content_part.done", **where, "part": part})
        item.status = status
        self._end_item(response, item)

    def _end_item(self, response: _Response, item: Item) -> None:
        where = {"response_id": response.id, "output_index": len(response.output)}
        self._send({"type": "response.output_item.done", **where, "item": item.shown()})
        self._conversation.announce(item, "conversation.item.done", self._send)
        response.output.append(item.shown())

    # -- functions ----------------------------------------------------------------------------------------

    async def _call(self, response: _Response, call: CallTool) -> None:
        self._close_item(response, "completed")
        item = self._conversation.new("function_call")
        item.call_id, item.name = call.id or f"call_{secrets.token_hex(8)}", call.name
        response.content, arguments = True, json.dumps(dict(call.args))
        where = {"response_id": response.id, "output_index": len(response.output)}
        self._send({"type": "response.output_item.added", **where, "item": item.shown("in_progress")})
        self._conversation.announce(item, "conversation.item.added", self._send, "in_progress")
        response.call_open = {"item": item, "arguments": arguments}
        for start in range(0, len(arguments), _ARGUMENT_PIECE):
            piece = arguments[start : start + _ARGUMENT_PIECE]
            item.arguments += piece
            about = {**where, "item_id": item.id, "call_id": item.call_id}
            self._send({"type": "response.function_call_arguments.delta", **about, "delta": piece})
        sent = ToolCallSent(item.call_id, call.name, dict(call.args), False, self._connection.clock())
        self._record.tool_calls.append(sent)
        self._close_call(response, "completed", cut=False)

    def _close_call(self, response: _Response, status: str, *, cut: bool) -> None:
        assert response.call_open is not None
        item, response.call_open = response.call_open["item"], None
        item.status = status
        about = {
            "response_id": response.id,
            "item_id": item.id,
            "output_index": len(response.output),
            "call_id": item.call_id,
        }
        done = {"name": item.name, "arguments": item.arguments}
        self._send({"type": "response.function_call_arguments.done", **about, **done})
        self._end_item(response, item)

    # -- faults -------------------------------------------------------------------------------------------

    async def do(self, action: Action) -> None:
        """An action that is no part of the model's speech."""
        match action:
            case Wait(ms):
                await asyncio.sleep(ms / 1000)
            case Stall(ms):
                self._connection.stall(ms)
                await asyncio.sleep(ms / 1000)
            case Mute():
                self._muted = True
            case Send():
                self._connection.put(raw_frame(action))
            case Oversize(size_bytes):
                self._send({"type": "response.surprise", "note": "x" * size_bytes})
            case SendInterrupted():
                self.interrupt("turn_detected")
            case SendGoAway():  # this protocol gives no notice
                if action.then_close:
                    self._later(action.time_left_s, partial(self._connection.close, END_OF_LIFE))
            case CancelTools():  # and takes no calls back
                pass
            case Close():
                self._connection.close(action)
            case Abort():
                self._connection.abort()
            case _:
                raise TypeError(f"{type(action).__name__} is part of a reply")

    def _send(self, event: dict[str, Any]) -> None:
        self._connection.put(wire.encoded({"event_id": f"event_{secrets.token_hex(8)}", **event}))


def _details(action: FailResponse) -> dict[str, Any]:
    if action.status == "incomplete":
        return {"type": "incomplete", "reason": action.code}
    kind = "insufficient_quota" if "quota" in action.code else "server_error"
    error = {"type": kind, "code": action.code, "message": f"The response failed: {action.code}."}
    return {"type": "failed", "error": error}


def _audio(where: Mapping[str, Any], data: str) -> dict[str, Any]:
    return {"type": "response.output_audio.delta", "event_id": "event_audio", **where, "delta": data}


@lru_cache(maxsize=512)
def _coded(say: Say, form: AudioFormat) -> tuple[tuple[str, float, float], ...]:
    """The sound of a Say in the session's format: (base64, position in ms, length in ms) of each chunk."""
    chunks = chunks_of(say)
    change = converter(PCM16_24K, form)
    if change is None:
        return tuple((chunk.data.decode(), chunk.starts_ms, chunk.length_ms) for chunk in chunks)
    pcm = b"".join(pybase64.b64decode(chunk.data) for chunk in chunks)
    codes = change.push(pcm) + change.flush()
    coded = []
    for chunk in chunks:
        start = round(chunk.starts_ms * form.rate_hz / 1000) * form.bytes_per_sample
        stop = round((chunk.starts_ms + chunk.length_ms) * form.rate_hz / 1000) * form.bytes_per_sample
        if part := codes[start:stop]:
            length_ms = len(part) / form.bytes_per_sample * 1000 / form.rate_hz
            coded.append((pybase64.b64encode(part).decode(), chunk.starts_ms, length_ms))
    return tuple(coded)

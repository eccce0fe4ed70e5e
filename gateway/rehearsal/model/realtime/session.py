"""One session of the rehearsal model on the Realtime protocol: `session.created`, then the client's events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from offhook.gateway.rehearsal.model.connection import Connection
from offhook.gateway.rehearsal.model.realtime import wire
from offhook.gateway.rehearsal.model.realtime.conversation import Items
from offhook.gateway.rehearsal.model.realtime.responses import END_OF_LIFE, Responses
from offhook.gateway.rehearsal.model.realtime.wire import EventRefused
from offhook.gateway.rehearsal.model.record import (
    ClientViolation,
    SessionRecord,
    Speech,
    TextHeard,
    ToolAnswer,
    Truncation,
    picture_seen,
)
from offhook.gateway.rehearsal.model.script import Close, Script
from offhook.gateway.rehearsal.model.turns import Progress, Trigger
from offhook.gateway.rehearsal.model.voice import SpeechStart, VoiceActivity
from offhook.gateway.rehearsal.model.wire import AutomaticDetection

__all__ = ["RealtimeSession"]

LIFETIME_S = 3_600.0
VOICED_MS = 100  # of speech before it counts as begun
AZURE_PATH = "/openai/"  # there, the model is the name of a deployment
SEMANTIC_WAIT_MS = {"low": 1_500, "medium": 900, "high": 500, "auto": 900}  # no model of what was said: silence alone
COMMIT_MIN_MS = 100.0


class Host(Protocol):
    """What a session needs of its server."""

    time_scale: float
    keep_audio: bool
    keep_arrivals: bool
    violations: list[ClientViolation]
    failures: list[BaseException]

    def progress_for(self, setup: dict[str, Any]) -> Progress: ...

    def set_aside(self, progress: Progress, unanswered: Trigger | None) -> None: ...

    def taken_up(self, script: Script) -> tuple[Progress, Trigger | None] | None: ...


class RealtimeSession:
    """One WebSocket. `run` returns when it is closed."""

    def __init__(self, server: Host, connection: Connection, record: SessionRecord, model: str) -> None:
        self._server, self.connection, self._record, self._model = server, connection, record, model
        self._conversation = Items()
        self._session: dict[str, Any] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._responses = Responses(connection, record, self._conversation, lambda: self._session, self._later)
        self._detector: VoiceActivity | None = None
        self._speaking = False
        self._received_ms = 0.0
        self._buffered_ms = 0.0  # since the last commit or clear
        self._speech_item = ""
        self._set_up = False
        self._seeded = False
        self._idle: asyncio.TimerHandle | None = None
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit_here,
            "input_audio_buffer.clear": lambda _: self._clear(),
            "conversation.item.create": self._item,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.truncate": self._truncate,
            "conversation.item.delete": self._delete,
            "response.create": lambda event: self._responses.create(event.get("response") or {}),
            "response.cancel": lambda event: self._responses.cancel(event.get("response_id")),
            "output_audio_buffer.clear": self._no_buffer,
        }

    async def run(self, denied: Close | None) -> None:
        """`denied`: the close for a key that is not valid, sent after the handshake."""
        connection = self.connection
        connection.text_frames = True
        connection.start()
        try:
            if denied is not None:
                connection.close(denied)
            elif self._model not in wire.MODELS and not self._record.path.startswith(AZURE_PATH):
                self._violation(f"unknown model {self._model[:60]}")
                self._error("invalid_model", f'Model "{self._model[:60]}" is not supported in realtime mode.')
                connection.close(Close(4000, "invalid_request_error.invalid_model"))
            else:
                await self._converse()
        except Exception as error:  # an error of this server is no violation of the client
            self._server.failures.append(error)
            connection.close(Close(1011, "Internal error encountered."))
        finally:
            try:
                while not connection.open and await connection.receive() is not None:
                    pass  # messages are ignored until the client answers the close
            finally:
                for timer in self._timers:
                    timer.cancel()
                self._responses.end()
                if self._set_up:
                    self._server.set_aside(self._responses.progress, self._responses.unanswered)
                await connection.stop()
                self._server.failures += connection.failures

    async def _converse(self) -> None:
        # The script is that of the session's instructions, which come with its first update: until then the
        # lifetime is the protocol's.
        self._session = wire.default_session(
            f"sess_{secrets.token_hex(10)}", self._model, int(time.time() + LIFETIME_S / self._server.time_scale)
        )
        self._send({"type": "session.created", "session": self._session})
        while (data := await self.connection.receive()) is not None:
            event: dict[str, Any] = {}
            try:
                event = wire.client_event(data)
                if event["type"] == "session.update" and not self._set_up:
                    await self._first_update(event)
                elif event["type"] in self._handlers:
                    self._handlers[event["type"]](event)
                else:
                    raise EventRefused("invalid_value", f"Invalid value: {event['type'][:60]!r}.", "type")
            except EventRefused as refused:
                if not refused.race:
                    self._violation(f"{event.get('type', 'a message')}: {refused}")
                self._error(refused.code, refused.message, refused.param, event.get("event_id"))

    # -- the session --------------------------------------------------------------------------------------

    async def _first_update(self, event: dict[str, Any]) -> None:
        record, wanted = self._record, event.get("session")
        merged = wire.merged(self._session, wanted, has_spoken=False)
        record.setup, record.model, record.setup_at_s = wanted or {}, self._model, self.connection.clock()
        progress = self._server.progress_for(record.setup)
        script = progress.script
        self.connection.pong_delay_s = script.pong_delay_s
        if script.setup_delay_ms:
            await asyncio.sleep(script.setup_delay_ms / 1000)
        if script.refuse is not None:
            self.connection.close(script.refuse)
            return
        if script.instead_of_setup is not None:
            message = script.instead_of_setup.message
            self.connection.put(message.encode() if isinstance(message, str) else wire.encoded(message))
            return
        life_s = (LIFETIME_S if script.lifetime_s == 600.0 else script.lifetime_s) / self._server.time_scale
        merged["expires_at"] = round(time.time() + life_s, 3)  # whole seconds in the service: lives are shorter here
        self._session = merged
        self._responses.progress = progress
        self._conversation.instructions_tokens = len(json.dumps(wanted)) / 4
        self._set_up = True
        self._detection(script)
        self._later(life_s, self._expire)
        self._begin_faults()
        self._send({"type": "session.updated", "session": self._session})
        record.set_up(self.connection.clock())

    def _update(self, event: dict[str, Any]) -> None:
        self._session = wire.merged(self._session, event.get("session"), has_spoken=self._responses.has_spoken)
        self._detection(self._responses.progress.script)
        self._send({"type": "session.updated", "session": self._session})

    def _detection(self, script: Script) -> None:
        settings = self._session["audio"]["input"]["turn_detection"]
        if settings is None:
            self._detector = None
            return
        above = script.hears_above_dbfs
        if settings["type"] == "server_vad":
            silence_ms = settings["silence_duration_ms"]
            above = -38.0 + 40.0 * (settings["threshold"] - 0.5) if above is None else above
        else:
            silence_ms = SEMANTIC_WAIT_MS[settings["eagerness"]]
        detection = AutomaticDetection(prefix_padding_ms=VOICED_MS, silence_duration_ms=silence_ms)
        self._detector = VoiceActivity(detection, False, above)

    def _expire(self) -> None:
        script = self._responses.progress.script
        ending = script.end_of_life if script.end_of_life != Script().end_of_life else END_OF_LIFE
        self._error("session_expired", ending.reason)
        self.connection.close(ending)

    def _begin_faults(self) -> None:
        progress = self._responses.progress
        elapsed_s = self.connection.clock() - progress.began_at_s
        for index, fault in enumerate(progress.script.faults):
            if index not in progress.faults_done:
                self._later(max(0.0, fault.at_s - elapsed_s), partial(self._begin_fault, progress, index))

    def _begin_fault(self, progress: Progress, index: int) -> None:
        if progress is not self._responses.progress or index in progress.faults_done:
            return
        progress.faults_done.add(index)
        self.connection.tasks.begin(self._fault(progress, index))

    async def _fault(self, progress: Progress, index: int) -> None:
        for action in progress.script.faults[index].do:
            await self._responses.do(action)

    # -- the caller's audio -------------------------------------------------------------------------------

    def _append(self, event: dict[str, Any]) -> None:
        codes = wire.audio_bytes(event)
        form = wire.format_of(self._session["audio"]["input"]["format"])
        if len(codes) % form.bytes_per_sample:
            raise EventRefused("invalid_value", "Invalid 'audio': an odd number of bytes.", "audio")
        pcm, record, now_s = form.decode(codes).tobytes(), self._record, self.connection.clock()
        length_ms = len(pcm) / 2 / form.rate_hz * 1000
        record.audio_rate_hz = form.rate_hz
        record.audio_bytes += len(pcm)
        if self._server.keep_audio:
            record.audio += pcm
        if self._server.keep_arrivals:
            record.audio_arrivals.append((now_s, record.audio_bytes))
        self._received_ms += length_ms
        self._buffered_ms += length_ms
        if self._detector is None:
            return
        for decided in self._detector.push(pcm, form.rate_hz):
            if isinstance(decided, SpeechStart):
                self._speech_started(decided.onset_ms, now_s)
            else:
                self._speech_stopped(decided.speech_ms, now_s)
        if self._detector.heard_voice:
            record.speech[-1].last_voice_at_s = now_s

    def _speech_started(self, onset_ms: float, now_s: float) -> None:
        settings = self._session["audio"]["input"]["turn_detection"]
        self._speaking = True
        self._record.speech.append(Speech(onset_ms, now_s, now_s))
        self._speech_item = f"item_{secrets.token_hex(10)}"
        start_ms = max(0, round(onset_ms - settings.get("prefix_padding_ms", 300)))
        self._stop_idle()
        self._send(
            {"type": "input_audio_buffer.speech_started", "audio_start_ms": start_ms, "item_id": self._speech_item}
        )
        if settings["interrupt_response"]:
            self._responses.interrupt("turn_detected")

    def _speech_stopped(self, speech_ms: float, now_s: float) -> None:
        self._speaking = False
        speech = self._record.speech[-1]
        speech.ended_at_s, speech.speech_ms = now_s, speech_ms
        self._send(
            {
                "type": "input_audio_buffer.speech_stopped",
                "audio_end_ms": round(self._received_ms),
                "item_id": self._speech_item,
            }
        )
        self._commit(by_client=False, speech_ms=speech_ms)
        if self._session["audio"]["input"]["turn_detection"]["create_response"] and not self._responses.active:
            self._responses.create({})
        self._start_idle()

    def _start_idle(self) -> None:
        """`idle_timeout_ms` after the end of playback, as the service reckons it, silence counts as a turn."""
        self._stop_idle()
        settings = self._session["audio"]["input"]["turn_detection"]
        if idle_ms := settings and settings.get("idle_timeout_ms"):
            now_s = self.connection.clock()
            delay_s = max(0.0, self._responses.output_ends_s - now_s) + idle_ms / 1000
            self._idle = asyncio.get_running_loop().call_later(delay_s, self._timed_out)
            self._timers.append(self._idle)

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _timed_out(self) -> None:
        if self._speaking or self._responses.active:
            self._start_idle()
            return
        item_id = self._commit(by_client=False)
        times = {"audio_start_ms": 0, "audio_end_ms": round(self._received_ms)}
        self._send({"type": "input_audio_buffer.timeout_triggered", **times, "item_id": item_id})
        self._responses.create({})

    def _commit(self, *, by_client: bool, speech_ms: float | None = None) -> str:
        if by_client and self._buffered_ms < COMMIT_MIN_MS:
            text = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer "
                f"only has {self._buffered_ms:.2f}ms of audio."
            )
            raise EventRefused("input_audio_buffer_commit_empty", text, race=True)
        item = self._conversation.new("message", role="user", item_id=self._speech_item)
        self._speech_item = ""
        item.length_ms, self._buffered_ms = self._buffered_ms, 0.0
        before = self._conversation.before(item)
        self._send({"type": "input_audio_buffer.committed", "previous_item_id": before, "item_id": item.id})
        self._conversation.announce(item, "conversation.item.added", self._send)
        self._conversation.announce(item, "conversation.item.done", self._send)
        if by_client:
            now_s = self.connection.clock()
            self._record.activity.append((now_s, "commit"))
            self._record.speech.append(Speech(self._received_ms - item.length_ms, now_s, now_s, now_s, item.length_ms))
        self._responses.caller_turn(item, item.length_ms if speech_ms is None else speech_ms)
        return item.id

    def _commit_here(self, event: dict[str, Any]) -> None:
        self._commit(by_client=True)

    def _clear(self) -> None:
        self._buffered_ms = 0.0
        self._send({"type": "input_audio_buffer.cleared"})

    # -- items --------------------------------------------------------------------------------------------

    def _item(self, event: dict[str, Any]) -> None:
        given = event.get("item")
        if not isinstance(given, dict):
            raise EventRefused("missing_required_parameter", "Missing required parameter: 'item'.", "item")
        match given.get("type"):
            case "message":
                self._message(given)
            case "function_call_output":
                self._function_output(given)
            case other:
                raise EventRefused("invalid_value", f"Invalid value: {str(other)[:40]!r}.", "item.type")

    def _message(self, given: dict[str, Any]) -> None:
        role = given.get("role")
        if role not in ("system", "user", "assistant"):
            raise EventRefused("invalid_value", f"Invalid value: {str(role)[:40]!r}.", "item.role")
        parts = given.get("content")
        parts = parts if isinstance(parts, list) else [None]
        kinds = {part.get("type") if isinstance(part, dict) else None for part in parts}
        if role == "user" and kinds == {"input_image"}:
            self._pictures(given, parts)
            return
        kind = "output_text" if role == "assistant" else "input_text"
        if kinds - {kind}:
            raise EventRefused(
                "invalid_value", f"Invalid content of a {role} message: expected {kind}.", "item.content"
            )
        item = self._conversation.new("message", role=role, item_id=str(given.get("id") or ""))
        item.text = "".join(str(part.get("text", "")) for part in parts)
        self._added(item)
        self._record.texts.append(TextHeard(self.connection.clock(), item.text, "item", role))
        if role == "assistant":
            self._seed()
        else:
            self._responses.pending.append(Trigger("text", item.text))

    def _pictures(self, given: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        for part in parts:
            seen = picture_seen(wire.image_bytes(part), self.connection.clock())
            if seen is None:
                raise EventRefused("invalid_value", "The image is not valid.", "item.content")
            self._record.pictures.append(seen)
        item = self._conversation.new("message", role="user", item_id=str(given.get("id") or ""))
        item.pictures = len(parts)
        self._added(item)

    def _seed(self) -> None:
        """The client gives the conversation so far: this session goes on where another one ended."""
        responses = self._responses
        responses.pending.clear()
        if self._seeded or responses.has_spoken or not self._set_up:
            return
        self._seeded = True
        if (taken := self._server.taken_up(responses.progress.script)) is not None:
            responses.progress, unanswered = taken
            responses.pending.append(Trigger("resume"))
            if unanswered is not None:
                responses.pending.append(unanswered)
            self._begin_faults()

    def _function_output(self, given: dict[str, Any]) -> None:
        call_id, output = given.get("call_id"), given.get("output")
        call = self._conversation.call(call_id)
        if call is None:
            raise EventRefused("invalid_tool_call_id", f"Tool call ID '{str(call_id)[:40]}' not found.", "item.call_id")
        if not isinstance(output, str):
            raise EventRefused("invalid_type", "Invalid type for 'item.output': expected a string.", "item.output")
        if self._conversation.answered(call_id):
            self._violation(f"a second result of {call.name}")
        item = self._conversation.new("function_call_output", item_id=str(given.get("id") or ""))
        item.call_id, item.output = str(call_id), output
        self._added(item)
        self._note_answer(call.name, str(call_id), output)

    def _note_answer(self, name: str, call_id: str, output: str) -> None:
        now_s = self.connection.clock()
        try:
            response = json.loads(output)
        except ValueError:
            response = None
        response = response if isinstance(response, dict) else {"output": output}
        sent = next((call for call in self._record.tool_calls if call.id == call_id), None)
        state = sent.state if sent else "unknown"
        self._record.tool_answers.append(ToolAnswer(now_s, call_id, name, response, "", state))
        if sent is not None:
            sent.state = "answered"
        if response.get("status") != "cancelled":
            self._responses.pending.append(Trigger("tool", name))

    def _added(self, item: Any) -> None:
        self._conversation.announce(item, "conversation.item.added", self._send)
        self._conversation.announce(item, "conversation.item.done", self._send)

    def _retrieve(self, event: dict[str, Any]) -> None:
        item = self._conversation.find(event.get("item_id"))
        self._send({"type": "conversation.item.retrieved", "item": item.shown()})

    def _truncate(self, event: dict[str, Any]) -> None:
        item = self._conversation.find(event.get("item_id"))
        length_ms = item.length_ms
        self._conversation.truncate(event)
        end_ms = event["audio_end_ms"]
        now_s = self.connection.clock()
        self._record.truncations.append(Truncation(now_s, item.id, end_ms, length_ms, item.begins_ms))
        self._send(
            {"type": "conversation.item.truncated", "item_id": item.id, "content_index": 0, "audio_end_ms": end_ms}
        )

    def _delete(self, event: dict[str, Any]) -> None:
        item = self._conversation.find(event.get("item_id"))
        self._conversation.delete(item)
        if item.role == "assistant":
            now_s = self.connection.clock()
            self._record.truncations.append(Truncation(now_s, item.id, 0, item.length_ms, item.begins_ms))
        self._send({"type": "conversation.item.deleted", "item_id": item.id})

    def _no_buffer(self, event: dict[str, Any]) -> None:
        raise EventRefused("invalid_value", "output_audio_buffer.clear is for WebRTC and SIP only.", "type")

    # -- out ----------------------------------------------------------------------------------------------

    def _later(self, delay_s: float, call: Callable[[], Any]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, call))

    def _send(self, event: dict[str, Any]) -> None:
        self.connection.put(wire.encoded({"event_id": f"event_{secrets.token_hex(8)}", **event}))

    def _error(self, code: str, message: str, param: str | None = None, event_id: Any = None) -> None:
        self._record.errors.append(code)
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": param}
        self._send({"type": "error", "error": {**error, "event_id": event_id}})

    def _violation(self, what: str) -> None:
        self._server.violations.append(ClientViolation(self._record.index, self.connection.clock(), what))

"""One session of the rehearsal model: from the setup message to the close."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectionError, WSMsgType, web

from gateway.rehearsal.model_record import (
    ReplySent,
    SessionRecord,
    Speech,
    TextHeard,
    ToolAnswer,
    ToolCallSent,
    Violation,
)
from gateway.rehearsal.model_script import (
    Abort,
    Action,
    CallTool,
    CancelTools,
    Close,
    EmptyTurn,
    Fault,
    GoAway,
    Interrupted,
    Mute,
    Oversize,
    Reply,
    Say,
    Script,
    Send,
    Stall,
    Think,
    Wait,
)
from gateway.rehearsal.model_voice import Ear, SpeechEnd, SpeechStart, chunks_of
from gateway.rehearsal.model_wire import (
    BadMessage,
    Profile,
    Refused,
    audio_frame,
    base64_decoded,
    check_setup,
    client_message,
    declared_functions,
    pcm_rate_hz,
    pretty,
)

if TYPE_CHECKING:
    from gateway.rehearsal.model_server import ModelServer

__all__ = ["Conversation", "Handle", "Session"]

_SETUP_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0
# A result that crossed the cancellation on its way is nobody's fault.
_CROSSING_S = 0.25
_AUDIO_TOKENS_PER_S = 25
_INVALID = "Request contains an invalid argument."


@dataclass(slots=True)
class Conversation:
    """What outlives a connection: the script, how far it got, and the size of the context."""

    script: Script
    used: set[int] = field(default_factory=set)
    heard_sent: set[int] = field(default_factory=set)
    context_audio_tokens: float = 0.0
    context_text_tokens: float = 0.0
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Handle:
    """What a resumption handle stands for."""

    conversation: Conversation
    owner: SessionRecord
    model: str


@dataclass(frozen=True, slots=True)
class _Trigger:
    """Something a reply may be waiting for. `kind`: start, resume, caller, text, tool."""

    kind: str
    detail: str = ""
    speech_ms: float = 0.0


@dataclass(slots=True)
class _Turn:
    """The model's turn under way. `reply` is None for the script's default."""

    trigger: _Trigger
    reply: Reply
    index: int | None
    record: ReplySent
    task: asyncio.Task[None] | None = None
    content: bool = False  # anything of it was sent
    generated: bool = False
    playing_until_s: float = 0.0
    late: list[bytes] = field(default_factory=list)


class Session:
    """One WebSocket. `run` returns when it is closed."""

    def __init__(
        self,
        server: ModelServer,
        ws: web.WebSocketResponse,
        request: web.Request,
        record: SessionRecord,
        vertex: bool,
    ) -> None:
        self._server, self._ws, self._request, self.record = server, ws, request, record
        self._vertex = vertex
        self._profile: Profile
        self._conversation: Conversation
        self._script = Script()
        self._ear: Ear | None = None
        self._interruptible = True
        self._blocking: dict[str, bool] = {}
        self._turn: _Turn | None = None
        self._pending: deque[_Trigger] = deque()
        self._caller_speaks = False
        self._history_open = False
        self._conversation_began = False
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._messages = 0
        self._outbox: deque[tuple[bytes | Close, Callable[[float], None] | None]] = deque()
        self._wake = asyncio.Event()
        self._stalled_until_s = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._open = True

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self, denied: Close | None) -> None:
        """`denied`: the credentials are bad; said after the setup, as the service does."""
        try:
            self._begin(self._write())
            setup = await self._first_message()
            if setup is None:
                return
            try:
                await self._set_up(setup, denied)
            except Refused as refused:
                self._violation(refused.reason)
                self._close(Close(refused.code, refused.reason))
            await self._read()
        finally:
            self._over()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._server.failures.append(error)
            self._close(Close(1011, "Internal error encountered."))

    def _over(self) -> None:
        self._open = False
        for timer in self._timers:
            timer.cancel()
        if self._turn is not None:
            self._end_turn("cut off")
        if self.record.closed_at_s is None:
            self.record.closed_at_s = time.monotonic()
            self.record.closed_by = self.record.closed_by or "network"
            self.record.close_code = self.record.close_code or 1006

    def _violation(self, what: str) -> None:
        self._server.violations.append(Violation(self.record.index, time.monotonic(), what))

    async def _first_message(self) -> dict[str, Any] | None:
        try:
            message = await asyncio.wait_for(self._ws.receive(), _SETUP_TIMEOUT_S)
        except TimeoutError:
            self._violation("no setup message came")
            await self._ws.close(code=1008, message=b"No setup message received.")
            return None
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._closed_by_client(message)
            return None
        try:
            kind, body = client_message(message.data)
            if kind != "setup":
                raise BadMessage(f"The first message must be setup, not {kind}.")
        except BadMessage as bad:
            self._violation(str(bad))
            self._close(Close(1007, str(bad)))
            await self._read()
            return None
        self.record.setup, self.record.setup_at_s = body, time.monotonic()
        self.record.model = str(body.get("model", ""))
        return body

    async def _set_up(self, setup: dict[str, Any], denied: Close | None) -> None:
        if denied is not None:
            raise Refused(denied.code, denied.reason)
        setup = self._server.locked_setup(self._request, setup)
        version = self._request.match_info.get("version", "v1beta")
        self._profile = check_setup(setup, version, self._vertex)
        resumption = setup.get("sessionResumption")
        handle = (resumption or {}).get("handle")
        if handle:
            known = self._server.resumed(str(handle), self.record.model)
            self._conversation = known.conversation
            self.record.resumed_from = known.owner.index
        else:
            self._conversation = Conversation(self._server.script_for(setup))
        script = self._script = self._conversation.script
        realtime = setup.get("realtimeInputConfig") or {}
        detection = realtime.get("automaticActivityDetection") or {}
        self._interruptible = realtime.get("activityHandling") != "NO_INTERRUPTION"
        if not detection.get("disabled"):
            self._ear = Ear(detection, self._vertex, script.hears_above_dbfs)
        self._declare(setup.get("tools"))
        self._history_open = bool((setup.get("historyConfig") or {}).get("initialHistoryInClientContent"))
        if not handle:
            self._conversation.context_text_tokens = len(json.dumps(setup)) / 4
        if script.setup_delay_ms:
            await asyncio.sleep(script.setup_delay_ms / 1000)
        if script.refuse is not None:
            self._close(script.refuse)
            return
        if script.instead_of_setup is not None:
            self._put(_raw(script.instead_of_setup))
            return
        self._send({"setupComplete": {}}, lambda at_s: setattr(self.record, "ready_at_s", at_s))
        self._offer_handle()
        self._live(script, bool(handle))

    def _live(self, script: Script, resumed: bool) -> None:
        scale = self._server.time_scale
        left_s = min(script.go_away_s, script.lifetime_s) / scale
        life_s = script.lifetime_s / scale
        self._later(life_s - left_s, lambda: self._go_away(GoAway(left_s)))
        for fault in script.faults:
            self._later(fault.at_s, partial(self._begin_fault, fault))
        self._trigger(_Trigger("resume" if resumed else "start"))

    def _later(self, delay_s: float, call: Callable[[], Any]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, call))

    # -- sending ------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any], sent: Callable[[float], None] | None = None) -> None:
        self._put(pretty(message), sent)

    def _put(self, frame: bytes, sent: Callable[[float], None] | None = None) -> None:
        if self._open:
            self._outbox.append((frame, sent))
            self._wake.set()

    def _close(self, close: Close) -> None:
        """Close behind what was already to be sent. Nothing after it goes out."""
        if self._open:
            self._outbox.append((close, None))
            self._wake.set()
            self._open = False

    def _abort(self) -> None:
        self.record.closed_by, self.record.close_code = "server", 1006
        self._open = False
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _write(self) -> None:
        ws = self._ws
        while True:
            while not self._outbox:
                self._wake.clear()
                await self._wake.wait()
            if self._stalled_until_s > time.monotonic():
                await self._unstalled()
            frame, sent = self._outbox.popleft()
            if isinstance(frame, Close):
                self.record.closed_by = "server"
                self.record.close_code, self.record.close_reason = frame.code, frame.reason
                await ws.close(code=frame.code, message=frame.reason.encode()[:123])
                return
            try:
                if self._script.text_frames:
                    await ws.send_str(frame.decode())
                else:
                    await ws.send_bytes(frame)
            except ClientConnectionError:
                return
            if sent is not None:
                sent(time.monotonic())

    async def _unstalled(self) -> None:
        await asyncio.sleep(max(0.0, self._stalled_until_s - time.monotonic()))

    # -- receiving ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        ws = self._ws
        while True:
            message = await ws.receive()
            if self._stalled_until_s > time.monotonic():
                await self._unstalled()
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    if not self._open:
                        continue
                    try:
                        self._receive(message.data)
                    except BadMessage as bad:
                        self._violation(str(bad))
                        self._close(Close(1007, str(bad)))
                case WSMsgType.PING:
                    self._begin(self._pong(message.data))
                case WSMsgType.PONG:
                    pass
                case _:
                    self._closed_by_client(message)
                    return

    async def _pong(self, data: bytes) -> None:
        if self._script.pong_delay_s:
            await asyncio.sleep(self._script.pong_delay_s)
        try:
            await self._ws.pong(data)
        except ClientConnectionError:
            return

    def _closed_by_client(self, message: Any) -> None:
        if self.record.closed_by is None:
            if message.type is WSMsgType.CLOSE:
                self.record.closed_by = "client"
                self.record.close_code, self.record.close_reason = message.data, message.extra or ""
            else:
                self.record.closed_by, self.record.close_code = "network", 1006
        self.record.closed_at_s = time.monotonic()
        self._open = False

    def _receive(self, data: str | bytes) -> None:
        kind, body = client_message(data)
        self._messages += 1
        match kind:
            case "realtimeInput":
                self._realtime(body)
            case "clientContent":
                self._content(body)
            case "toolResponse":
                self._tool_response(body)
            case "contextUpdate":
                self._context_update(body)
            case _:
                raise BadMessage("setup may only be the first message.")

    def _realtime(self, body: dict[str, Any]) -> None:
        for key, value in body.items():
            match key:
                case "audio":
                    self._audio(value)
                case "mediaChunks":
                    for chunk in value:
                        self._audio(chunk)
                case "text":
                    if not isinstance(value, str):
                        raise BadMessage("Invalid value at 'realtime_input.text': a string is expected.")
                    self._text(value, "realtime")
                    self._trigger(_Trigger("text", value))
                case "activityStart" | "activityEnd":
                    self.record.activity.append((time.monotonic(), key))
                    self._manual_activity(started=key == "activityStart")
                case "audioStreamEnd":
                    self.record.activity.append((time.monotonic(), key))
                    if self._ear is not None and (ended := self._ear.flush()):
                        self._speech_ended(ended.speech_ms)
                case "video":
                    base64_decoded(value.get("data"))
                case _:
                    raise BadMessage(
                        f"Invalid JSON payload received. Unknown name \"{key}\" at 'realtime_input':"
                        " Cannot find field."
                    )

    def _audio(self, blob: Any) -> None:
        if not isinstance(blob, dict):
            raise BadMessage("Invalid value at 'realtime_input.audio': an object is expected.")
        rate_hz = pcm_rate_hz(blob.get("mimeType"))
        pcm = base64_decoded(blob.get("data"))
        if len(pcm) % 2:
            raise BadMessage("PCM16 audio of an odd number of bytes.")
        now_s = time.monotonic()
        record = self.record
        record.audio_rate_hz = rate_hz
        record.audio_bytes += len(pcm)
        if self._server.keep_audio:
            record.audio += pcm
            record.audio_arrivals.append((now_s, record.audio_bytes))
        length_s = len(pcm) / 2 / rate_hz
        if self._history_open:
            return
        self._conversation_began = True
        if self._ear is None:
            if self._caller_speaks:
                record.speech[-1].last_voice_at_s = now_s
                record.speech[-1].speech_ms += length_s * 1000
                self._conversation.context_audio_tokens += length_s * _AUDIO_TOKENS_PER_S
            return
        for decided in self._ear.push(pcm, rate_hz):
            match decided:
                case SpeechStart(onset_ms):
                    self._speech_started(onset_ms, now_s)
                case SpeechEnd(speech_ms):
                    self._speech_ended(speech_ms)
        if self._ear.heard_voice:
            record.speech[-1].last_voice_at_s = now_s
        if self._ear.speaking:
            self._conversation.context_audio_tokens += length_s * _AUDIO_TOKENS_PER_S

    def _manual_activity(self, started: bool) -> None:
        if self._ear is not None:
            raise BadMessage(
                "Explicit activity control is not supported when automatic activity detection is enabled."
            )
        if started == self._caller_speaks:
            self._violation(f"activity{'Start' if started else 'End'} twice")
            return
        if started:
            self._speech_started(
                self.record.audio_bytes / 2 / self.record.audio_rate_hz * 1000, time.monotonic()
            )
        else:
            self._speech_ended(self.record.speech[-1].speech_ms)

    def _speech_started(self, onset_ms: float, now_s: float) -> None:
        self._caller_speaks = True
        self.record.speech.append(Speech(onset_ms, now_s, now_s))
        if self._interruptible:
            self._interrupt()
            self._cancel_calls(all_of_them=self._script.barge_in_cancels == "all")

    def _speech_ended(self, speech_ms: float) -> None:
        self._caller_speaks = False
        speech = self.record.speech[-1]
        speech.ended_at_s, speech.speech_ms = time.monotonic(), speech_ms
        self._trigger(_Trigger("caller", speech_ms=speech_ms))

    def _text(self, text: str, how: Any, role: str | None = None, turn_complete: bool = False) -> None:
        self._conversation_began = True
        self._conversation.context_text_tokens += len(text) / 4
        self.record.texts.append(TextHeard(time.monotonic(), text, how, role, turn_complete))

    def _content(self, body: dict[str, Any]) -> None:
        complete = bool(body.get("turnComplete"))
        began = self._conversation_began
        if self._profile.client_content == "initial history" and not self._history_open:
            raise BadMessage(_INVALID + " clientContent is only for the initial history of this model.")
        pieces = []
        for turn in body.get("turns") or ():
            role = turn.get("role")
            if role not in ("user", "model") and (role or self._profile.explicit_roles):
                raise BadMessage(_INVALID + " Please use a valid role: user, model.")
            pieces.append("".join(str(part.get("text", "")) for part in turn.get("parts") or ()))
            self._text(pieces[-1], "content", role, complete)
        if self._history_open:
            self._conversation_began = began
            self._history_open = not complete
            return
        if complete:
            self._interrupt()
            self._trigger(_Trigger("text", " ".join(pieces)))

    def _context_update(self, body: dict[str, Any]) -> None:
        if not self._profile.context_update:
            raise BadMessage(
                'Invalid JSON payload received. Unknown name "contextUpdate": Cannot find field.'
            )
        if "tools" in body:
            try:
                self._declare((body["tools"] or {}).get("tools"))
            except Refused as refused:
                raise BadMessage(refused.reason) from None
        self._text(json.dumps(body, ensure_ascii=False), "update")

    # -- tools --------------------------------------------------------------------------------------------

    def _declare(self, tools: Any) -> None:
        rule = self._profile.blocking
        self._blocking = {
            function["name"]: rule == "only"
            or (rule == "default" and function.get("behavior") != "NON_BLOCKING")
            or (rule == "opt in" and function.get("behavior") == "BLOCKING")
            for function in declared_functions(tools)
        }

    def _call(self, calls: Sequence[CallTool]) -> list[ToolCallSent]:
        sent = [
            ToolCallSent(
                call.id or f"function-call-{secrets.randbits(63)}",
                call.name,
                dict(call.args),
                self._blocking.get(call.name, self._profile.blocking in ("default", "only")),
                time.monotonic(),
            )
            for call in calls
        ]
        self.record.tool_calls += sent
        for call in sent:
            if call.blocking:
                self._waiting[call.id] = asyncio.get_running_loop().create_future()

        def went_out(at_s: float) -> None:
            for call in sent:
                call.at_s = at_s

        self._send(
            {"toolCall": {"functionCalls": [{"id": c.id, "name": c.name, "args": c.args} for c in sent]}},
            went_out,
        )
        return sent

    def _open_calls(self) -> list[ToolCallSent]:
        return [call for call in self.record.tool_calls if call.state == "open"]

    def _cancel_calls(self, all_of_them: bool) -> None:
        calls = [call for call in self._open_calls() if all_of_them or call.blocking]
        for call in calls:
            call.state, call.cancelled_at_s = "cancelled", time.monotonic()
            if waiting := self._waiting.pop(call.id, None):
                waiting.cancel()
        if calls:
            self._send({"toolCallCancellation": {"ids": [call.id for call in calls]}})

    def _tool_response(self, body: dict[str, Any]) -> None:
        for answer in body.get("functionResponses") or ():
            self._tool_answer(answer)

    def _tool_answer(self, answer: dict[str, Any]) -> None:
        call_id, name = str(answer.get("id") or ""), str(answer.get("name") or "")
        response = answer.get("response")
        if not isinstance(response, dict):
            raise BadMessage(
                f"Invalid value at 'tool_response.function_responses.response' of {name!r}:"
                " an object is expected."
            )
        # Some clients put the scheduling into the response.
        scheduling = str(answer.get("scheduling") or response.get("scheduling") or "WHEN_IDLE")
        call = next((c for c in self.record.tool_calls if c.id == call_id), None)
        now_s = time.monotonic()
        self.record.tool_answers.append(
            ToolAnswer(now_s, call_id, name, response, scheduling, call.state if call else "unknown")
        )
        self._conversation.context_text_tokens += len(json.dumps(response)) / 4
        if call is None or call.state != "open":
            if (
                call is not None
                and call.cancelled_at_s is not None
                and now_s - call.cancelled_at_s < _CROSSING_S
            ):
                return
            what = f"result of {name or 'no name'} for an id that is {call.state if call else 'unknown'}"
            self._violation(what)
            if self._script.unknown_tool_id == "close":
                self._close(Close(1007, _INVALID + f" Function call id {call_id!r} not found."))
            return
        if name and name != call.name:
            self._violation(f"result named {name} for a call of {call.name}")
        if answer.get("willContinue") and not call.blocking:
            pass
        else:
            call.state = "answered"
        if call.blocking:
            if waiting := self._waiting.pop(call.id, None):
                waiting.set_result(None)
            return
        trigger = _Trigger("tool", call.name)
        match scheduling:
            case "SILENT":
                pass
            case "INTERRUPT" if not (self._caller_speaks and self._profile.waits_for_caller):
                self._interrupt()
                self._pending.appendleft(trigger)
                self._pump(even_over_caller=True)
            case "WHEN_IDLE" | "INTERRUPT":
                self._trigger(trigger)
            case _:
                raise BadMessage(
                    f"Invalid value at 'tool_response.function_responses.scheduling': {scheduling!r}"
                )

    # -- replying -----------------------------------------------------------------------------------------

    def _trigger(self, trigger: _Trigger) -> None:
        self._pending.append(trigger)
        self._pump()

    def _pump(self, even_over_caller: bool = False) -> None:
        """Begin the next reply, if it is the model's turn and one is due."""
        while (
            self._open
            and self._turn is None
            and self._pending
            and (even_over_caller or not self._caller_speaks)
        ):
            trigger = self._pending.popleft()
            found = self._find(trigger)
            if found is None or self._conversation.muted:
                continue
            index, reply = found
            if index is not None:
                self._conversation.used.add(index)
            record = ReplySent(_said(trigger), time.monotonic())
            self._turn = _Turn(trigger, reply, index, record)
            self.record.replies.append(record)
            self._turn.task = self._begin(self._play(self._turn))

    def _find(self, trigger: _Trigger) -> tuple[int | None, Reply] | None:
        for index, reply in enumerate(self._script.replies):
            if index not in self._conversation.used and _matches(reply, trigger):
                return index, reply
        default = self._script.default
        if trigger.kind == "caller" and default is not None and trigger.speech_ms >= default.min_speech_ms:
            return None, default
        return None

    async def _play(self, turn: _Turn) -> None:
        if turn.reply.heard_when == "before":
            self._heard(turn)
        await self._act(turn, turn.reply.do)
        if self._turn is not turn:
            return
        if turn.reply.heard_when == "after":
            self._heard(turn)
        if not turn.content:
            self._end_turn("complete")
            self._pump()
            return
        await self._finish(turn, idle=True)
        self._end_turn("complete")
        self._offer_handle()
        self._pump()

    def _heard(self, turn: _Turn) -> None:
        key = -1 if turn.index is None else turn.index
        if key in self._conversation.heard_sent or "inputAudioTranscription" not in self.record.setup:
            return
        if turn.index is not None:
            self._conversation.heard_sent.add(key)
        for piece in turn.reply.heard:
            transcription: dict[str, Any] = {"text": piece}
            if self._profile.marks_finished:
                transcription["finished"] = True
            self._send({"serverContent": {"inputTranscription": transcription}})

    async def _act(self, turn: _Turn, actions: Sequence[Action]) -> None:
        i = 0
        while i < len(actions) and self._turn is turn and self._open:
            action = actions[i]
            match action:
                case Say():
                    if turn.generated and self._profile.extended_thinking:
                        await self._finish(turn, idle=False)
                    await self._say(turn, action)
                case Think(text):
                    self._generating(turn)
                    self._send({"serverContent": {"modelTurn": {"parts": [{"text": text, "thought": True}]}}})
                case CallTool():
                    calls = [action]
                    while i + 1 < len(actions) and isinstance(following := actions[i + 1], CallTool):
                        calls.append(following)
                        i += 1
                    self._generating(turn)
                    await self._results(turn, self._call(calls))
                case EmptyTurn():
                    self._send({"serverContent": {"turnComplete": True}, **self._usage(0.0)})
                case Interrupted():
                    self._interrupt(phantom=True)
                    return
                case _:
                    await self._do(action)
            i += 1

    async def _results(self, turn: _Turn, calls: Sequence[ToolCallSent]) -> None:
        """Wait for the results of blocking calls, then go on with the replies scripted for them."""
        waiting = [self._waiting[call.id] for call in calls if call.id in self._waiting]
        if not waiting:
            return
        await asyncio.wait(waiting)
        if self._turn is not turn:
            return
        for call in calls:
            if call.state == "answered" and (found := self._find(_Trigger("tool", call.name))):
                index, reply = found
                if index is not None:
                    self._conversation.used.add(index)
                await self._act(turn, reply.do)

    def _generating(self, turn: _Turn) -> None:
        if not turn.content:
            turn.content = True
            if "sessionResumption" in self.record.setup:
                self._send({"sessionResumptionUpdate": {"resumable": False}})
        turn.generated = True

    async def _say(self, turn: _Turn, say: Say) -> None:
        record = turn.record
        chunks = chunks_of(say)
        # The first delay counts from the decision, so that this server's own lateness does not add up.
        begin_s = (time.monotonic() if record.first_audio_at_s else record.decided_at_s) + say.delay_ms / 1000
        record.delay_ms = record.delay_ms if record.first_audio_at_s else say.delay_ms
        record.text = f"{record.text} {say.text}".strip()
        await asyncio.sleep(max(0.0, begin_s - time.monotonic()))
        self._generating(turn)
        pieces = self._transcript_pieces(say, len(chunks))
        own_frame = say.transcript == "own frame" or (
            say.transcript == "as the model does" and not self._profile.same_frame_transcript
        )
        if say.transcript == "before":
            self._transcript(say.text)
        for i, chunk in enumerate(chunks):
            due_s = begin_s + chunk.starts_ms / 1000 / say.speed
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            piece = pieces[i]
            if piece and own_frame:
                self._transcript(piece)
                piece = ""
            now_s = time.monotonic()
            turn.playing_until_s = max(now_s, turn.playing_until_s) + chunk.length_ms / 1000
            turn.late = [audio_frame(late.data) for late in chunks[i + 1 : i + 1 + say.late_chunks]]
            record.audio_ms += chunk.length_ms
            self._put(
                audio_frame(chunk.data, {"text": piece} if piece else None), lambda at_s: _sent(record, at_s)
            )
            if i == 0 and turn.reply.heard_when == "during":
                self._heard(turn)
        turn.late = []
        if say.transcript == "after":
            self._transcript(say.text)

    def _transcript_pieces(self, say: Say, count: int) -> list[str]:
        """The words spread over the chunks; what comes after the first word begins with a space."""
        pieces = [""] * count
        spread = say.transcript in ("as the model does", "same frame", "own frame")
        if not spread or "outputAudioTranscription" not in self.record.setup:
            return pieces
        words = say.text.split()
        for i, word in enumerate(words):
            pieces[i * count // len(words)] += word if i == 0 else " " + word
        return pieces

    def _transcript(self, text: str) -> None:
        if "outputAudioTranscription" in self.record.setup:
            self._send({"serverContent": {"outputTranscription": {"text": text}}})

    async def _finish(self, turn: _Turn, idle: bool) -> None:
        """generationComplete, then turnComplete once the audio would have been played."""
        record = turn.record
        self._send(
            {"serverContent": {"generationComplete": True}},
            lambda at_s: setattr(record, "generation_complete_at_s", at_s),
        )
        await asyncio.sleep(max(0.0, turn.playing_until_s - time.monotonic()))
        content: dict[str, Any] = {"turnComplete": True}
        if self._profile.extended_thinking:
            content["interactionStatus"] = "IDLE" if idle else "IN_PROGRESS"
        turn.generated = False
        self._send({"serverContent": content, **self._usage(record.audio_ms)})

    def _end_turn(self, how: Any) -> None:
        turn = self._turn
        assert turn is not None
        turn.record.ended, turn.record.ended_at_s = how, time.monotonic()
        self._turn = None
        self._conversation.context_audio_tokens += turn.record.audio_ms / 1000 * _AUDIO_TOKENS_PER_S

    def _interrupt(self, phantom: bool = False) -> None:
        """The model falls silent in mid-turn. Without a turn nothing happens (unless phantom)."""
        turn = self._turn
        if turn is None and not phantom:
            return
        record = turn.record if turn else None
        self._send({"serverContent": {"interrupted": True}}, self.record.interruptions.append)
        for frame in turn.late if turn else ():
            self._put(frame)
        content: dict[str, Any] = {"turnComplete": True}
        if self._profile.extended_thinking:
            content["interactionStatus"] = "IDLE"
        self._send({"serverContent": content, **self._usage(record.audio_ms if record else 0.0)})
        if turn is None:
            return
        self._end_turn("interrupted")
        if turn.task is not None and turn.task is not asyncio.current_task():
            turn.task.cancel()
        # The caller was only drawing breath: what was going to be said is still to be said.
        if not turn.content and turn.trigger.kind == "caller" and turn.index is not None:
            self._conversation.used.discard(turn.index)
        self._offer_handle()

    def _usage(self, audio_ms: float) -> dict[str, Any]:
        """The whole context is billed at every turn."""
        conversation = self._conversation
        audio, text = round(conversation.context_audio_tokens), round(conversation.context_text_tokens)
        answer = round(audio_ms / 1000 * _AUDIO_TOKENS_PER_S)
        name = "candidates" if self._vertex else "response"
        return {
            "usageMetadata": {
                "promptTokenCount": audio + text,
                f"{name}TokenCount": answer,
                "totalTokenCount": audio + text + answer,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": text},
                    {"modality": "AUDIO", "tokenCount": audio},
                ],
                f"{name}TokensDetails": [{"modality": "AUDIO", "tokenCount": answer}],
            }
        }

    # -- faults and lifetimes -----------------------------------------------------------------------------

    def _begin_fault(self, fault: Fault) -> None:
        self._begin(self._fault(fault))

    async def _fault(self, fault: Fault) -> None:
        for action in fault.do:
            if isinstance(action, Interrupted):
                self._interrupt(phantom=True)
                self._pump()
            else:
                await self._do(action)

    async def _do(self, action: Action) -> None:
        """An action that is no part of the model's speech."""
        match action:
            case Wait(ms):
                await asyncio.sleep(ms / 1000)
            case Stall(ms):
                self._stalled_until_s = time.monotonic() + ms / 1000
                await asyncio.sleep(ms / 1000)
            case Mute():
                self._conversation.muted = True
            case Send():
                self._put(_raw(action))
            case Oversize(size_bytes):
                self._send(
                    {"serverContent": {"modelTurn": {"parts": [{"text": "x" * size_bytes, "thought": True}]}}}
                )
            case CancelTools():
                self._cancel_calls(all_of_them=True)
            case GoAway():
                self._go_away(action)
            case Close():
                self._close(action)
            case Abort():
                self._abort()
            case _:
                raise TypeError(f"{type(action).__name__} is part of a reply")

    def _go_away(self, action: GoAway) -> None:
        self._send({"goAway": {"timeLeft": f"{action.time_left_s:g}s"}}, self.record.go_aways.append)
        if action.close:
            self._later(action.time_left_s, lambda: self._close(self._script.end_of_life))

    def _offer_handle(self) -> None:
        if "sessionResumption" not in self.record.setup or not self._open:
            return
        if self._open_calls() or self._turn is not None:
            return
        handle = secrets.token_urlsafe(24)
        self._server.keep_handle(handle, Handle(self._conversation, self.record, self.record.model))
        self.record.handles.append(handle)
        update: dict[str, Any] = {"newHandle": handle, "resumable": True}
        if (self.record.setup["sessionResumption"] or {}).get("transparent"):
            update["lastConsumedClientMessageIndex"] = str(self._messages)
        self._send({"sessionResumptionUpdate": update})


def _matches(reply: Reply, trigger: _Trigger) -> bool:
    if reply.on == "any":
        return trigger.kind in ("caller", "text", "tool")
    kind, _, detail = reply.on.partition(":")
    if kind != trigger.kind:
        return False
    if kind == "text":
        return detail in trigger.detail
    if kind == "tool":
        return detail == trigger.detail
    return kind != "caller" or trigger.speech_ms >= reply.min_speech_ms


def _said(trigger: _Trigger) -> str:
    return f"tool:{trigger.detail}" if trigger.kind == "tool" else trigger.kind


def _sent(record: ReplySent, at_s: float) -> None:
    record.first_audio_at_s = record.first_audio_at_s or at_s
    record.last_audio_at_s = at_s


def _raw(send: Send) -> bytes:
    return send.message.encode() if isinstance(send.message, str) else pretty(dict(send.message))

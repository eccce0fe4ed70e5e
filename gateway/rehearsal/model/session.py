"""One session of the rehearsal model: the setup, then the client's messages."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any, Protocol

from offhook.gateway.rehearsal.model import wire
from offhook.gateway.rehearsal.model.connection import Connection
from offhook.gateway.rehearsal.model.declarations import wrong_functions
from offhook.gateway.rehearsal.model.record import ClientViolation, SessionRecord, Speech, TextHeard, picture_seen
from offhook.gateway.rehearsal.model.script import Close
from offhook.gateway.rehearsal.model.turns import (
    AUDIO_TOKENS_PER_S,
    IMAGE_TOKENS,
    Conversation,
    Progress,
    ScriptPlayer,
    Trigger,
    raw_frame,
)
from offhook.gateway.rehearsal.model.voice import SpeechEnd, SpeechStart, VoiceActivity
from offhook.gateway.rehearsal.model.wire import (
    BadMessage,
    Blob,
    ClientContent,
    ContextUpdate,
    Profile,
    RealtimeInput,
    SessionRefused,
    ToolResponse,
    base64_decoded,
    checked_setup,
    client_message,
    functions,
    pcm_rate_hz,
)

__all__ = ["ResumptionHandle", "Session"]

_SETUP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ResumptionHandle:
    """The state that a resumption handle restores. `owner` and `connection` are of the session that received it."""

    conversation: Conversation
    connection: Connection
    owner: SessionRecord
    model: str


class SessionHost(Protocol):
    """What a session needs of its server: settings, the scripts, and what outlives a connection."""

    time_scale: float
    keep_audio: bool
    keep_arrivals: bool
    violations: list[ClientViolation]
    failures: list[BaseException]

    def locked_setup(self, secret: str, setup: dict[str, Any]) -> dict[str, Any]: ...

    def progress_for(self, setup: dict[str, Any]) -> Progress: ...

    def keep_handle(self, name: str, handle: ResumptionHandle) -> None: ...

    def resumed(self, name: str, model: str) -> ResumptionHandle: ...


class Session:
    """One WebSocket. `run` returns when it is closed."""

    def __init__(
        self, server: SessionHost, connection: Connection, record: SessionRecord, version: str, vertex: bool
    ) -> None:
        self._server, self.connection, self._record = server, connection, record
        self._version, self._vertex = version, vertex
        self._profile: Profile
        self._conversation: Conversation
        self._turns: ScriptPlayer | None = None
        self._detector: VoiceActivity | None = None
        self._history_open = False
        self._messages = 0
        self._resumption: Any = None
        self._vad_signal = False

    async def run(self, denied: Close | None, secret: str) -> None:
        """`denied`: the close for bad credentials, sent after the setup, as the service does."""
        self.connection.start()
        try:
            await self._converse(denied, secret)
        except BadMessage as bad:
            self._violation(str(bad))
            self.connection.close(Close(1007, str(bad)))
        except SessionRefused as refused:
            if not refused.scripted:
                self._violation(str(refused))
            self.connection.close(Close(refused.code, refused.reason))
        except Exception as error:  # an error of this server is no violation of the client
            self._server.failures.append(error)
            self.connection.close(Close(1011, "Internal error encountered."))
        finally:
            try:
                while not self.connection.open and await self.connection.receive() is not None:
                    pass  # messages are ignored until the client answers the close
            finally:
                if self._turns is not None:
                    self._turns.end()
                await self.connection.stop()
                self._server.failures += self.connection.failures

    def _violation(self, what: str) -> None:
        self._server.violations.append(ClientViolation(self._record.index, self.connection.clock(), what))

    # -- setup --------------------------------------------------------------------------------------------

    async def _converse(self, denied: Close | None, secret: str) -> None:
        try:
            data = await asyncio.wait_for(self.connection.receive(), _SETUP_TIMEOUT_S)
        except TimeoutError:
            raise SessionRefused(1008, "No setup message received.") from None
        if data is None:
            return
        message = client_message(data)
        if not isinstance(message, dict):
            raise BadMessage("The first message must be setup.")
        record = self._record
        record.setup, record.setup_at_s = message, self.connection.clock()
        record.model = str(message.get("model", ""))
        if denied is not None:
            raise SessionRefused(denied.code, denied.reason)
        record.setup = self._server.locked_setup(secret, message)
        if not await self._set_up(record.setup):
            return
        while (data := await self.connection.receive()) is not None:
            self._receive(data)

    async def _set_up(self, raw: dict[str, Any]) -> bool:
        """Check the setup; False if the connection is closed."""
        setup, self._profile = checked_setup(raw, self._version, self._vertex)
        self._resumption, self._vad_signal = setup.session_resumption, bool(setup.explicit_vad_signal)
        handle = self._resumption and self._resumption.handle
        if handle:
            known = self._server.resumed(handle, self._record.model)
            self._conversation = known.conversation
            self._record.resumed_from = known.owner.index
        else:
            progress = self._server.progress_for(raw)
            self._conversation = Conversation(progress, self.connection.clock(), text_tokens=len(json.dumps(raw)) / 4)
        script = self._conversation.progress.script
        self.connection.text_frames, self.connection.pong_delay_s = script.text_frames, script.pong_delay_s
        detection = setup.realtime_input_config.automatic_activity_detection
        if not detection.disabled:
            self._detector = VoiceActivity(detection, self._vertex, script.hears_above_dbfs)
        self._history_open = setup.history_config.initial_history_in_client_content
        if script.setup_delay_ms and not await self._wait_before_setup(script.setup_delay_ms / 1000):
            return False
        if script.refuse is not None:
            self.connection.close(script.refuse)
            return False
        if script.instead_of_setup is not None:
            self.connection.put(raw_frame(script.instead_of_setup))
        else:
            self.connection.send(wire.setup_complete(), self._record.set_up)
        self._turns = ScriptPlayer(
            self.connection,
            self._record,
            setup,
            self._profile,
            self._conversation,
            vertex=self._vertex,
            violation=self._violation,
            idle=self._offer_handle,
        )
        self._offer_handle()
        self._turns.begin(bool(handle), self._server.time_scale)
        return True

    async def _wait_before_setup(self, delay_s: float) -> bool:
        """Delay `setupComplete`; False if the client closed meanwhile."""
        try:
            data = await asyncio.wait_for(self.connection.receive(), delay_s)
        except TimeoutError:
            return True
        if data is not None:
            raise BadMessage("A message before setupComplete.")
        return False

    def _offer_handle(self) -> None:
        if self._resumption is None or not self.connection.open:
            return
        name = secrets.token_urlsafe(24)
        self._server.keep_handle(
            name, ResumptionHandle(self._conversation, self.connection, self._record, self._record.model)
        )
        self._record.handles.append(name)
        last_index = self._messages if self._resumption.transparent else None
        self.connection.send(wire.resumption_update(name, last_index=last_index))

    # -- what the client sends ----------------------------------------------------------------------------

    def _receive(self, data: str | bytes) -> None:
        message = client_message(data)
        self._messages += 1
        assert self._turns is not None
        match message:
            case RealtimeInput():
                self._realtime(message, self._turns)
            case ClientContent():
                self._content(message, self._turns)
            case ToolResponse(function_responses):
                for answer in function_responses:
                    self._turns.tool_answer(answer)
            case ContextUpdate():
                self._context_update(message, self._turns)
            case _:
                raise BadMessage("setup may only be the first message.")

    def _realtime(self, given: RealtimeInput, turns: ScriptPlayer) -> None:
        if given.audio is not None:
            self._audio(given.audio, turns)
        for chunk in given.media_chunks:
            self._audio(chunk, turns)
        if given.video is not None:
            self._picture(given.video)
        if given.text is not None:
            self._text(given.text, "realtime")
            turns.trigger(Trigger("text", given.text))
        if given.activity_start is not None:
            self._manual_activity(True, turns)
        if given.activity_end is not None:
            self._manual_activity(False, turns)
        if given.audio_stream_end:
            self._record.activity.append((self.connection.clock(), "audioStreamEnd"))
            if self._detector is not None and (ended := self._detector.flush()):
                self._speech_ended(ended.speech_ms, turns)

    def _picture(self, blob: Blob) -> None:
        if blob.mime_type != "image/jpeg":  # the one that Google's samples send; others are not listed for frames
            raise BadMessage(f"Unsupported video type {blob.mime_type[:40]!r}: image/jpeg is expected.")
        seen = picture_seen(base64_decoded(blob.data), self.connection.clock())
        if seen is None:
            raise BadMessage("Unable to process input image.")
        self._record.pictures.append(seen)
        self._conversation.image_tokens += IMAGE_TOKENS

    def _audio(self, blob: Blob, turns: ScriptPlayer) -> None:
        rate_hz = pcm_rate_hz(blob.mime_type)
        pcm = base64_decoded(blob.data)
        if len(pcm) % 2:
            raise BadMessage("PCM16 audio of an odd number of bytes.")
        now_s = self.connection.clock()
        record = self._record
        record.audio_rate_hz = rate_hz
        record.audio_bytes += len(pcm)
        if self._server.keep_audio:
            record.audio += pcm
        if self._server.keep_arrivals:
            record.audio_arrivals.append((now_s, record.audio_bytes))
        if self._history_open:
            return  # audio before the end of the initial history is ignored
        length_s = len(pcm) / 2 / rate_hz
        if self._detector is not None:
            for decided in self._detector.push(pcm, rate_hz):
                match decided:
                    case SpeechStart(onset_ms):
                        self._speech_started(onset_ms, turns)
                    case SpeechEnd(speech_ms):
                        self._speech_ended(speech_ms, turns)
            voiced = self._detector.heard_voice
        else:
            voiced = turns.caller_speaks
            if voiced:
                record.speech[-1].speech_ms += length_s * 1000
        if voiced:
            record.speech[-1].last_voice_at_s = now_s
        if turns.caller_speaks:
            self._conversation.audio_tokens += length_s * AUDIO_TOKENS_PER_S

    def _manual_activity(self, started: bool, turns: ScriptPlayer) -> None:
        name = "activityStart" if started else "activityEnd"
        self._record.activity.append((self.connection.clock(), name))
        if self._detector is not None:
            raise BadMessage(f"{name} is not supported when automatic activity detection is enabled.")
        if started == turns.caller_speaks:
            self._violation(f"{name} twice" if started else f"{name} without activityStart")
        elif started:
            self._speech_started(self._received_ms(), turns)
        else:
            self._speech_ended(self._record.speech[-1].speech_ms, turns)

    def _received_ms(self) -> float:
        return self._record.audio_bytes / 2 / self._record.audio_rate_hz * 1000

    def _speech_started(self, onset_ms: float, turns: ScriptPlayer) -> None:
        now_s = self.connection.clock()
        self._record.speech.append(Speech(onset_ms, now_s, now_s))
        self._activity_signal("ACTIVITY_START")
        turns.caller_started()

    def _speech_ended(self, speech_ms: float, turns: ScriptPlayer) -> None:
        speech = self._record.speech[-1]
        speech.ended_at_s, speech.speech_ms = self.connection.clock(), speech_ms
        self._activity_signal("ACTIVITY_END")
        turns.caller_ended(speech_ms)

    def _activity_signal(self, kind: str) -> None:
        if self._vad_signal:
            self.connection.send(wire.voice_activity(kind, self._received_ms() / 1000))

    def _text(self, text: str, how: Any, role: str | None = None, turn_complete: bool = False) -> None:
        self._conversation.text_tokens += len(text) / 4
        self._record.texts.append(TextHeard(self.connection.clock(), text, how, role, turn_complete))

    def _content(self, content: ClientContent, turns: ScriptPlayer) -> None:
        if self._profile.client_content == "initial history" and not self._history_open:
            raise BadMessage(
                "Request contains an invalid argument. clientContent is only for this model's initial history."
            )
        pieces = []
        for turn in content.turns:
            if turn.role not in ("user", "model") and (turn.role or self._profile.explicit_roles):
                raise BadMessage("Request contains an invalid argument. Please use a valid role: user, model.")
            pieces.append("".join(str(part.get("text", "")) for part in turn.parts))
            self._text(pieces[-1], "content", turn.role, content.turn_complete)
        if self._history_open:
            self._history_open = not content.turn_complete
        elif content.turn_complete:
            turns.interrupt()
            turns.trigger(Trigger("text", " ".join(pieces)))

    def _context_update(self, update: ContextUpdate, turns: ScriptPlayer) -> None:
        if not self._profile.context_update:
            raise BadMessage('Invalid JSON payload received. Unknown name "contextUpdate": Cannot find field.')
        if update.tools is not None:
            if (wrong := wrong_functions(functions(update.tools.tools), vertex=self._vertex)) is not None:
                raise BadMessage(f"Request contains an invalid argument. {wrong}")
            turns.declare(functions(update.tools.tools))
        parts = update.system_instruction.parts if update.system_instruction else ()
        self._text("".join(str(part.get("text", "")) for part in parts), "update")

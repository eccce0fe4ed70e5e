"""What a session and a call say to each other: server events to the call's sink, the call's wishes to client events.

The service detects the caller's turns and does nothing about them (`create_response` and `interrupt_response` are
false), so a turn is answered by a request of ours: at once while the agent is silent. What the caller says over a reply
is answered when the barge-in is confirmed (`cancel_reply`); when it is dismissed, once the reply has been heard.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pybase64

from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import CallerTranscribed, ModelInterrupted, ReplyComplete, TurnComplete
from offhook.gateway.models import CallBrief, LinkCount, LinkMemory, ModelSink, Speaker
from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.openai.memory import CallSoFar
from offhook.gateway.models.openai.outbox import Outbox
from offhook.gateway.models.openai.recovery import HOPELESS, Cause, cause_of
from offhook.gateway.models.openai.responses import LOST_S, Replies, Reply, ResponseState, Sequence
from offhook.gateway.models.openai.setup import format_of
from offhook.media.formats import PCM16_24K, converter

__all__ = ["Dialogue"]

RETRY_MAX_S = 2.0  # a pause after a failed response; the caller waits meanwhile
RETRY_MIN_S = 0.3
GIVE_UP_SHARE = 0.6  # of the agent's `silent_after_ms`, which failed responses may take
LOOK_AGAIN_S = 1.0  # at whether a reply that was spoken over has been heard: a pause that is no hesitation
STALE_S = 2.0  # an active response that brings nothing for this long yields to a prompt
ITEMS_KEPT = 50  # of the caller, whose transcript is known to be complete
FAULTY_MAX = 300  # characters of an error's text
CANCELLED = {
    "status": "cancelled",
    "message": "This was stopped, as the caller interrupted; whether any of it was done is not known. "
    "Do not speak of it. Call again only if the caller still wants it.",
    "retryable": True,
}
UNWRITABLE = {"status": "error", "message": "The result of this could not be sent.", "retryable": False}
# What an error says of the whole session; any other is of one event, and the session lives.
FATAL = frozenset({Cause.LIFETIME, Cause.KEY, Cause.QUOTA})
QUIET = frozenset({"response_cancel_not_active", "input_audio_buffer_commit_empty"})  # a race that costs nothing


class Dialogue:
    """One call's, across its sessions. `leave_for(cause)` ends the present session; `renew()` asks for a new one."""

    def __init__(
        self,
        brief: CallBrief,
        sink: ModelSink,
        outbox: Outbox,
        fault: Callable[[str], None],
        leave_for: Callable[[Cause], None],
        renew: Callable[[], None],
    ) -> None:
        self._sink, self._outbox, self._clock = sink, outbox, brief.clock
        self._fault, self._leave_for, self._renew = fault, leave_for, renew
        self._rate_hz = brief.formats.agent.rate_hz
        line = brief.formats.agent
        self._to_line = None if format_of(line) else converter(PCM16_24K, line)
        self._bytes_per_sample = line.bytes_per_sample
        self._mode = brief.agent.barge_in.mode
        self._local_turns = brief.agent.turn_detection.mode == "local"
        self._keep_turns = brief.agent.model.keep_turns
        self._patient_s = GIVE_UP_SHARE * brief.agent.model.silent_after_ms / 1000
        self._so_far = CallSoFar(self._keep_turns)
        if brief.memory is not None:
            self._so_far.restore(brief.memory)
        self._connected = False
        self._sequence = Sequence()
        self._replies = Replies()
        self._active: Reply | None = None
        self._caller_speaks = False
        self._turn_waits = False  # a turn of the caller's, spoken over a reply
        self._overtaken = False  # the caller spoke again before a requested response had begun
        self._calls: dict[str, str] = {}  # open on this session: id -> the response that requested it
        self._spoken_of: set[str] = set()  # responses of which a result is to be spoken of
        self._done_calls: deque[str] = deque(maxlen=ITEMS_KEPT)
        self._partial: dict[str, str] = {}  # the caller's transcripts so far, by item
        self._transcribed: deque[str] = deque(maxlen=ITEMS_KEPT)
        self._failing_since_s: float | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._lost: asyncio.TimerHandle | None = None  # when an unconfirmed request counts as lost
        self._reset_s = 0.0  # of the last rate limits
        self._last_event_s = 0.0
        self._turns_complete = 0  # on this session
        self._act: dict[str, Callable[[wire.ServerEvent, float], None]] = {
            "response.output_audio.delta": self._on_audio,
            "response.output_audio_transcript.delta": self._on_words,
            "response.output_text.delta": self._on_words,
            "response.created": self._on_created,
            "response.output_item.done": self._on_item_done,
            "response.done": self._on_done,
            "input_audio_buffer.speech_started": self._on_speech_started,
            "input_audio_buffer.speech_stopped": self._on_speech_stopped,
            "input_audio_buffer.committed": self._on_committed,
            "conversation.item.input_audio_transcription.delta": self._on_caller_delta,
            "conversation.item.input_audio_transcription.completed": self._on_caller_words,
            "conversation.item.input_audio_transcription.failed": self._on_transcription_failed,
            "rate_limits.updated": self._on_rate_limits,
            "error": self._on_error,
        }

    # --- sessions

    def memory(self) -> LinkMemory:
        return self._so_far.kept()

    def begin_session(self) -> bool:
        """A new session is up: give it the call so far, then what waits. Whether it was given anything."""
        lines = self._so_far.items()
        self._outbox.new_session(wire.message_item(role, text) for role, text in lines)
        self._connected, self._turns_complete = True, 0
        self._pump()  # prompts of the meantime
        return bool(lines)

    def session_lost(self) -> None:
        self._connected = False
        self._stop_timers()
        if self._to_line is not None:
            self._to_line.flush()
        self._sequence = Sequence()
        self._replies.forget()
        self._active = None
        self._caller_speaks = self._turn_waits = self._overtaken = False
        self._partial.clear()
        self._spoken_of.clear()

    def forget_calls(self) -> list[str]:
        """The calls of the last session that are open; a new one does not have them."""
        forgotten = list(self._calls)
        self._calls.clear()
        return forgotten

    def close(self) -> None:
        self._stop_timers()

    # --- from the call

    def caller_started(self, at_s: float) -> None:
        """The caller's turn begins: a reply of which nothing has been received yet comes too late."""
        self._caller_speaks = True
        reply = self._active
        if reply is None or reply.dead:
            if self._sequence.phase is ResponseState.REQUESTED:
                self._overtaken = True
            return
        if not reply.items:
            self._cancel(reply)
            self._sink.event(ModelInterrupted(at_s, reply.turn))

    def committed_here(self) -> None:
        """Local turns: the caller's turn was committed by us."""
        self._caller_speaks = False
        self._request()

    def prompt(self, text: str) -> None:
        """Text that the model answers. A response that has stalled makes room for it."""
        if self._active is not None and self._clock() - self._last_event_s > STALE_S:
            self._cancel(self._active)
        self._outbox.event(wire.message_item("system", text), kept=True)
        self._request()

    def note(self, text: str) -> None:
        self._outbox.event(wire.message_item("system", text), kept=True)

    def heard(self, turn: int, samples: int, note: str | None) -> None:
        """Cut the reply's items at what was heard. The service drops the transcript of an item that it cuts, so the
        words that were heard are told in a note.
        """
        reply = self._replies.of_turn(turn)
        if reply is not None:
            self._so_far.cut(turn, samples / reply.samples if reply.samples else 0.0)
            for cut in reply.cuts(samples, self._rate_hz):
                if cut.audio_end_ms:
                    self._outbox.event(wire.truncate(cut.item_id, cut.audio_end_ms))
                else:
                    self._outbox.event(wire.delete(cut.item_id))
        if note:
            self.note(note)

    def cancel_reply(self, turn: int) -> None:
        """The caller has the floor, or the reply is dead for another reason: a turn spoken over it is due now."""
        reply = self._replies.of_turn(turn)
        if reply is not None and not reply.dead:
            reply.dead = True
            if reply is self._active:
                self._cancel(reply)
        if self._turn_waits and not self._caller_speaks:
            self._request()

    def tool_result(self, call_id: str, response: dict[str, Any], speak: Speak) -> None:
        """Several calls of one response are answered by one response, once all have their outcome."""
        requested_by = self._calls.pop(call_id, None)
        if requested_by is None:
            self._sink.count(LinkCount.RESULT_DROPPED)
            return
        self._done_calls.append(call_id)
        try:
            output = wire.function_output(call_id, response)
        except Exception as error:  # it cannot be written: the model gets an error in its place
            self._sink.task_failed("link_writer", error)
            output = wire.function_output(call_id, UNWRITABLE)
        self._outbox.event(output)
        if speak is not Speak.SILENT:
            self._spoken_of.add(requested_by)
        self._speak_of(requested_by)

    def tool_cancelled(self, call_id: str) -> None:
        """The model is sent a result that it does not speak of."""
        requested_by = self._calls.pop(call_id, None)
        if requested_by is None:
            return
        self._done_calls.append(call_id)
        self._outbox.event(wire.function_output(call_id, CANCELLED))
        self._speak_of(requested_by)

    def _speak_of(self, response_id: str) -> None:
        open_still = response_id in self._calls.values()
        if open_still or (self._active is not None and self._active.response_id == response_id):
            return
        if response_id in self._spoken_of:
            self._spoken_of.discard(response_id)
            if not self._caller_speaks:  # else the caller's turn is answered, and this with it
                self._request()

    # --- responses

    def _request(self) -> None:
        self._sequence.wanted = True
        self._pump()

    def _pump(self) -> None:
        if self._connected and (event_id := self._sequence.next(self._clock())):
            self._turn_waits = False
            self._outbox.event(wire.create_response(event_id))
        elif self._sequence.wanted and self._sequence.phase is ResponseState.REQUESTED and self._lost is None:
            # Nothing may come any more that would try again: a service that stays silent loses requests.
            self._lost = asyncio.get_running_loop().call_later(LOST_S, self._pump_again)

    def _pump_again(self) -> None:
        self._lost = None
        self._pump()

    def _cancel(self, reply: Reply) -> None:
        reply.dead = True
        self._outbox.event(wire.cancel(reply.response_id))

    def _stop_timers(self) -> None:
        for timer in (self._retry, self._looking, self._lost):
            if timer is not None:
                timer.cancel()
        self._retry = self._looking = self._lost = None

    def _wait_for_floor(self) -> None:
        """A turn spoken over a reply. Where the barge-in is dismissed the reply is heard to its end; a caller who then
        says no more waits for an answer to it ("... at eight, or at nine?" - "Nine.").
        """
        self._turn_waits = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        if not self._turn_waits or self._caller_speaks:
            return
        if self._sink.agent_has_floor():
            self._wait_for_floor()
        else:
            self._request()

    # --- from the model

    def received(self, event: wire.ServerEvent, at_s: float) -> None:
        """One server event; a type that is not in the table says nothing that a phone call needs."""
        act = self._act.get(event.type)
        if act is not None:
            act(event, at_s)

    def _on_created(self, event: wire.ServerEvent, at_s: float) -> None:
        response = event.response
        if response is None or not response.id:
            self._sink.count(LinkCount.BAD_FIELD)
            return
        self._last_event_s = at_s
        self._sequence.created(response.id)
        self._active = reply = self._replies.begin(self._sink.next_turn(), response.id)
        if self._overtaken and self._caller_speaks:
            self._cancel(reply)
            self._sink.event(ModelInterrupted(at_s, reply.turn))
        self._overtaken = False

    def _on_audio(self, event: wire.ServerEvent, at_s: float) -> None:
        reply = self._replies.of_response(event.response_id)
        if reply is None or event.delta is None:
            return
        self._last_event_s = at_s
        try:
            codes = pybase64.b64decode(event.delta, validate=True)
        except ValueError:
            self._sink.count(LinkCount.MALFORMED, reason="bad_base64")
            return
        if self._to_line is not None:
            codes = self._to_line.push(codes)
        self._deliver(reply, event.item_id or "", codes)

    def _deliver(self, reply: Reply, item_id: str, codes: bytes) -> None:
        """Audio in the line's format. Of a dead reply, too: the call counts what it drops."""
        if not codes:
            return
        if not reply.dead:
            reply.items[item_id] = reply.items.get(item_id, 0) + len(codes) // self._bytes_per_sample
        self._sink.reply_audio(reply.turn, codes)

    def _on_words(self, event: wire.ServerEvent, at_s: float) -> None:
        reply = self._replies.of_response(event.response_id)
        if reply is None or not event.delta:
            return
        self._last_event_s = at_s
        if not reply.dead:
            self._so_far.agent_words(reply.turn, event.delta)
        self._sink.words(Speaker.AGENT, reply.turn, event.delta, False)

    def _on_item_done(self, event: wire.ServerEvent, at_s: float) -> None:
        """A function call is complete here; one that was cut off has another status, and broken arguments."""
        item = event.item
        if item is None or item.type != "function_call" or item.status != "completed" or not item.call_id:
            return
        self._last_event_s = at_s
        if item.call_id in self._calls or item.call_id in self._done_calls:
            self._sink.count(LinkCount.REPEATED)
            return
        arguments = wire.arguments_of(item.arguments)
        if arguments is None or not item.name:
            self._sink.count(LinkCount.BAD_FIELD)
            arguments = {}
        self._calls[item.call_id] = event.response_id or ""
        self._sink.tool_call(item.call_id, item.name or "", arguments)

    def _on_done(self, event: wire.ServerEvent, at_s: float) -> None:
        response = event.response
        if response is None or not response.id:
            self._sink.count(LinkCount.BAD_FIELD)
            return
        self._sequence.done(response.id)
        self._sequence.end_unknown()
        if response.usage:
            self._sink.usage(wire.usage_of(response.usage))
        reply = self._replies.of_response(response.id)
        if reply is None:
            self._pump()
            return
        if reply is self._active:
            self._active = None
        if self._to_line is not None and reply.items and (codes := self._to_line.flush()):
            self._deliver(reply, next(reversed(reply.items)), codes)
        self._end_turn(reply, response, at_s)
        self._speak_of(response.id)
        self._pump()

    def _end_turn(self, reply: Reply, response: wire.Response, at_s: float) -> None:
        status, why = response.status or "completed", response.why
        if status == "failed" and not reply.items:
            if not reply.dead:
                self._on_failed(reply, response, at_s)
            return
        self._failing_since_s = None
        if status == "cancelled" and not reply.dead:  # by the service
            reply.dead = True
            self._sink.event(ModelInterrupted(at_s, reply.turn))
        if status in ("failed", "incomplete"):
            self._count_error(why or status, f"a response ended: {status}, {why}")
        cut = bool(reply.items) and (status == "failed" or why == "max_output_tokens")
        if cut:
            self._sink.count(LinkCount.TURN_CUT)
        if reply.items and status == "completed":
            self._sink.event(ReplyComplete(at_s, reply.turn))
        self._sink.event(TurnComplete(at_s, reply.turn, cut))
        self._turns_complete += 1
        if self._keep_turns and self._turns_complete == 2 * self._keep_turns:
            self._renew()

    def _on_failed(self, reply: Reply, response: wire.Response, at_s: float) -> None:
        """The response did not happen. It is requested again while the caller's patience lasts; then the call gets
        its fallback, as another session would meet the same.
        """
        cause = cause_of(500, response.why)
        self._count_error(cause.value, f"a response failed: {response.why}")
        if self._failing_since_s is None:
            self._failing_since_s = at_s
        left_s = self._failing_since_s + self._patient_s - at_s
        pause_s = min(max(self._reset_s, RETRY_MIN_S), RETRY_MAX_S) if cause is Cause.RATE_LIMIT else RETRY_MIN_S
        if cause in HOPELESS or pause_s > left_s:
            self._leave_for(cause if cause in HOPELESS else Cause.REFUSED)
            return
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(pause_s, self._request)

    def _on_rate_limits(self, event: wire.ServerEvent, at_s: float) -> None:
        """How long until the scarcest of them is whole again."""
        resets = [
            float(limit["reset_seconds"])
            for limit in (event.rate_limits or ())[:10]
            if isinstance(limit.get("reset_seconds"), int | float) and not limit.get("remaining")
        ]
        self._reset_s = max(resets, default=0.0)

    # --- the caller, as the model hears

    def _on_speech_started(self, event: wire.ServerEvent, at_s: float) -> None:
        """With barge-in mode `model` this is the model's word; else it is the gateway's own detector that decides."""
        reply = self._replies.last
        if self._mode == "off":  # the reply is finished, whatever the caller says
            self._caller_speaks = True
            return
        self.caller_started(at_s)
        if self._mode == "model" and reply is not None and not reply.dead and self._sink.agent_has_floor():
            self._sink.event(ModelInterrupted(at_s, reply.turn))

    def _on_speech_stopped(self, event: wire.ServerEvent, at_s: float) -> None:
        self._caller_speaks = False

    def _on_committed(self, event: wire.ServerEvent, at_s: float) -> None:
        """The caller's turn is over and part of the conversation."""
        if event.item_id:
            self._so_far.caller_spoke(event.item_id)
        if self._local_turns:  # our own commit, which was followed by its request
            return
        self._caller_speaks = False
        self._sink.event(CallerTranscribed(at_s))
        if self._mode != "off" and self._sink.agent_has_floor():
            self._wait_for_floor()
        else:
            self._request()

    def _on_caller_delta(self, event: wire.ServerEvent, at_s: float) -> None:
        item_id = event.item_id or ""
        if not event.delta or item_id in self._transcribed:
            return
        self._partial[item_id] = self._partial.get(item_id, "") + event.delta
        self._sink.words(Speaker.CALLER, None, event.delta, False)

    def _on_caller_words(self, event: wire.ServerEvent, at_s: float) -> None:
        item_id, text = event.item_id or "", event.transcript or ""
        if item_id in self._transcribed:
            self._sink.count(LinkCount.REPEATED)
            return
        self._transcribed.append(item_id)
        if text.strip():
            self._so_far.caller_words(item_id, text)
        rest = text.removeprefix(self._partial.pop(item_id, ""))
        if rest.strip():
            self._sink.words(Speaker.CALLER, None, rest, True)

    def _on_transcription_failed(self, event: wire.ServerEvent, at_s: float) -> None:
        self._partial.pop(event.item_id or "", None)
        self._count_error("transcription", "a turn of the caller's was not transcribed")

    # --- errors

    def _on_error(self, event: wire.ServerEvent, at_s: float) -> None:
        error = event.error or wire.Error()
        code = error.code or error.type or ""
        if code in QUIET:
            return
        active = code == "conversation_already_has_active_response"
        self._sequence.refused(error.event_id or "", again=active)
        text = " ".join((error.message or "").split())[:FAULTY_MAX]
        cause = cause_of(500, code)
        if cause in FATAL or (cause is Cause.REFUSED and not error.event_id):
            self._fault(f"error: {code} {text}")
            self._leave_for(cause)
            return
        self._count_error(cause.value if cause is Cause.RATE_LIMIT else "event_refused", f"error: {code} {text}")
        self._pump()

    def _count_error(self, reason: str, what: str) -> None:
        self._sink.count(LinkCount.MODEL_ERROR, reason=reason)
        self._fault(what)

"""The one place that says which event starts and which ends each segment of latency.

Observes every event and every command of the conversation machine; feeds the histograms and the
call's record, so that `/metrics`, the console, the record and the picture show the same numbers. A segment
whose end never came is absent and counted, never zero. All times are the loop's monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from offhook.gateway.call.line import Span
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import transcript
from offhook.gateway.store.record import (
    ActionRecord,
    BargeInRecord,
    CallRecord,
    ListeningRecord,
    MessageRecord,
    ToolRecord,
    TranscriptLine,
    TurnRecord,
)
from offhook.gateway.text import visible
from offhook.metrics.catalogue import Metrics

__all__ = ["Timeline"]

FRAME_S = 0.02
SO_FAR_TURNS = 40  # of a live call, for watchers who get it each second: a bound on its cost
WORDS_MAX = 500_000  # characters of both sides in a record: ten hours of talk
ENTRIES_MAX = 5_000  # turns, barge-ins, tool calls of a record, each; of 24 hours at one turn in 17 s
MESSAGES_MAX = 100
ACTIONS_MAX = 200  # of operators
LONG_WAIT_S = 1.2  # the turn gap's target: who hangs up sooner after speaking was not waiting for an answer


class _Turn:
    """One reply on its way: the times between which its segments lie."""

    __slots__ = (
        "audible",
        "caller_end_s",
        "closed",
        "first_audio_s",
        "first_event_s",
        "first_sent_s",
        "interrupted",
        "onset_played_s",
        "onset_sent_s",
        "playing_until_s",
        "received",
        "record",
        "tool_answered_s",
    )

    def __init__(self, record: TurnRecord) -> None:
        self.record = record
        self.caller_end_s: float | None = None
        self.first_event_s: float | None = None
        self.first_audio_s: float | None = None
        self.first_sent_s: float | None = None
        self.onset_sent_s: float | None = None
        self.onset_played_s: float | None = None
        self.audible: int | None = None
        self.playing_until_s: float | None = None
        self.tool_answered_s: float | None = None
        self.interrupted = False
        self.closed = False
        self.received = 0


class Timeline:
    """One call's times, from ring to end."""

    def __init__(
        self, record: CallRecord, metrics: Metrics, rate_hz: int = 8_000, *, rang_s: float | None = None
    ) -> None:
        """`rate_hz`: of the samples that events and commands count, the line's own."""
        self.record = record
        self.on_tool: Callable[[ToolRecord], None] = lambda _: None  # a tool has its outcome; must not raise
        self._sample_ms = 1000 / rate_hz
        self._metrics = metrics
        self._zero_s: float | None = None  # the call's own axis begins at the carrier's `start`
        self._rang_s = rang_s
        self._answered_webhook_s: float | None = None
        self._turns: dict[int, _Turn] = {}
        self._speech_start_s: float | None = None
        self._speech_end_s: float | None = None  # of the caller's last turn, until a reply takes it
        self._speaking = False
        self._awaiting_end: _Turn | None = None  # a reply that came before the detector's hangover was over
        self._barge_in: BargeInRecord | None = None
        self._spoken_over_s: float | None = None  # from when the caller spoke over the agent; None: not detected
        self._decided_s = 0.0
        self._unacknowledged: int | None = None  # epoch of the clear that the carrier has not acknowledged
        self._tools: dict[str, tuple[float, ToolRecord]] = {}
        self._tool_answered_s: float | None = None
        self._greeted = False
        self._pending_caller_text = ""
        self._onset_s: float | None = None  # of the caller's newest speech
        self._characters = 0  # of both sides' words
        self._said = transcript.Transcript()
        self._turns_before: list[TurnRecord] = []  # of another process, where the call began
        self._lines_before: list[TranscriptLine] = []
        self._on_event: dict[type[e.Event], Callable[[Any], None]] = {
            e.StreamStarted: self._stream_started,
            e.LineAway: self._line_away,
            e.CallerSpeechStarted: self._speech_started,
            e.CallerSpeechEnded: self._speech_ended,
            e.ReplyAudio: self._reply_audio,
            e.MarkReturned: self._mark_returned,
            e.ClearAcknowledged: self._clear_acknowledged,
            e.LoudWithoutSpeech: lambda _: metrics.loud_without_speech_total.inc(),
            e.ClearTimeout: lambda _: self._never_silent("no_mark"),
        }
        self._on_command: dict[type[c.Command], Callable[[Any, float], None]] = {
            c.Play: self._played,
            c.Replay: self._played,
            c.Clear: self._cleared,
            c.BargeIn: self._barged_in,
            c.ReplyEnded: self._reply_ended,
            c.AnswerTool: self._tool_answered,
            c.CancelTool: self._tool_cancelled,
            c.CloseTurn: self._endpoint,
            c.Unanswered: lambda *_: metrics.unanswered_turns_total.inc(),
        }

    # --- what the shell reports

    def observe(self, event: e.Event, commands: Iterable[c.Command]) -> None:
        """One step of the machine: what happened, and what was decided upon it."""
        if (on_event := self._on_event.get(type(event))) is not None:
            on_event(event)
        for command in commands:
            if (on_command := self._on_command.get(type(command))) is not None:
                on_command(command, event.at_s)

    def webhook_answered(self, at_s: float) -> None:
        """The TwiML was handed to the socket."""
        self._answered_webhook_s = at_s
        if self._rang_s is not None:
            self._call_segment("webhook_response", at_s - self._rang_s)

    def model_segment(self, name: str, seconds: float) -> None:
        """A stretch the model link measured itself; of repeated ones the record keeps the worst."""
        self._observe(name, seconds)
        self.record.segments[name] = max(self.record.segments.get(name, 0.0), round(seconds * 1000, 3))

    def action(self, at_s: float, who: str, what: str, detail: str, *, done: bool) -> None:
        """An operator did this to the call."""
        if len(self.record.actions) < ACTIONS_MAX:
            self.record.actions.append(ActionRecord(at_ms=self.ms(at_s), who=who, what=what, detail=detail, done=done))
        else:
            self._full("further actions of operators")

    def listening(self, at_s: float, who: str) -> ListeningRecord | None:
        """An operator begins to listen in: the record's entry of it; None when the record is full."""
        if len(self.record.listened) >= ACTIONS_MAX:
            self._full("further operators who would listen in")
            return None
        self.record.listened.append(entry := ListeningRecord(who=who, from_ms=self.ms(at_s)))
        return entry

    def sound_reply(self, generation: int, kind: str) -> None:
        """This reply is no turn of the model: `sound` (greeting) or `filler`."""
        self._turn(generation).record.kind = kind

    def caller_text(self, text: str, finished: bool, at_s: float) -> None:
        """A piece of the caller's words; they belong to the reply that follows."""
        text = self._fitting(text)
        if not text:
            return
        self._pending_caller_text += text
        began_s = self._onset_s if self._onset_s is not None else at_s
        self._said = transcript.caller_said(self._said, text, began_s, finished)

    def reply_text(self, generation: int, text: str) -> None:
        """A piece of what the agent says in this reply."""
        text = self._fitting(text)
        turn = self._turn(generation)
        if not text:
            return
        turn.record.reply_text += text
        self._said = transcript.agent_said(self._said, generation, text, turn.received)

    def _fitting(self, text: str) -> str:
        """As much of it as the record has room for, without control characters."""
        room = WORDS_MAX - self._characters
        if len(text) > room:
            self._full(f"words after the first {WORDS_MAX} characters")
        text = text[:room]
        self._characters += len(text)
        return visible(text, lines=True)

    def _full(self, what: str) -> None:
        if (note := f"not in the record, which is full: {what}") not in self.record.errors:
            self.error(note)

    def heard_text(self, generation: int, heard: int) -> str | None:
        """The words of this reply that the caller heard; None when its words are not known."""
        turn = self._turns.get(generation)
        if turn is None or not turn.record.reply_text:
            return None
        return transcript.heard_text(self._said, generation, heard, turn.received)

    def error(self, what: str) -> None:
        """Something went wrong that the operator should see with this call."""
        if len(self.record.errors) < 50:  # a stuck peer must not grow the record without end
            self.record.errors.append(what)

    def message(self, recipient: str, text: str, at_s: float) -> None:
        """A message was taken for a person."""
        if len(self.record.messages) < MESSAGES_MAX:
            self.record.messages.append(MessageRecord(at_ms=self.ms(at_s), recipient=recipient, text=text))
        else:
            self._full("further messages")

    def ended(self, at_s: float) -> None:
        """The call is over: close what is open."""
        self.record.duration_ms = self.ms(at_s)
        if self._speech_end_s is not None and at_s - self._speech_end_s > LONG_WAIT_S:
            self._metrics.incomplete("turn_gap", "no_audio")  # they waited, and then the call was over
        self._never_silent("call_ended")
        for turn in self._turns.values():
            self._close(turn, "call_ended")
        # A turn without a sound (a tool call, an interruption before the first word) is no reply.
        self.record.turns = self._turns_before + [t.record for t in self._turns.values() if t.first_audio_s is not None]
        for number, record in enumerate(self.record.turns, 1):
            record.number = number
        for call_id in list(self._tools):
            self._tool_done(call_id, at_s, "cancelled")
        self.record.transcript = self._transcript()

    def so_far(self, at_s: float, audio_in_ms: float = 0.0) -> CallRecord:
        """The record of a call that goes on, as known at `at_s`: a copy, with its last `SO_FAR_TURNS` turns.

        `audio_in_ms`: of the caller's audio received until then; the call counts it.
        """
        turns = self._turns_before + [t.record for t in self._turns.values() if t.first_audio_s is not None]
        return msgspec.structs.replace(
            self.record,
            duration_ms=self.ms(at_s),
            audio_in_ms=audio_in_ms,
            turns=turns[-SO_FAR_TURNS:],
            barge_ins=self.record.barge_ins[-SO_FAR_TURNS:],
            tool_calls=self.record.tool_calls[-SO_FAR_TURNS:],
            transcript=self._transcript(SO_FAR_TURNS),
        )

    def _transcript(self, last: int | None = None) -> list[TranscriptLine]:
        """What was said, in order; `last`: only of so many turns."""
        newest = -last if last is not None else None
        said = transcript.Transcript(self._said.replies[newest:], self._said.caller[newest:])
        sounded, over = {}, set()
        for turn in self._turns.values():
            if turn.first_sent_s is not None:
                heard = int(turn.record.heard_ms / self._sample_ms)
                sounded[turn.record.generation] = transcript.Sounded(turn.first_sent_s, heard, turn.received)
            if turn.closed:
                over.add(turn.first_sent_s)
        return self._lines_before[newest:] + [
            TranscriptLine(
                at_ms=self.ms(line.at_s),
                who=line.who,
                text=line.text,
                # How far a reply will have been heard is not known while it plays.
                heard_text=line.heard_text if line.at_s in over else None,
            )
            for line in transcript.lines(said, sounded)
        ]

    # --- the call in another process

    @property
    def zero_s(self) -> float | None:
        """When the call's own axis begins; None before its first stream."""
        return self._zero_s

    def restore(self, zero_s: float, turns: list[TurnRecord], lines: list[TranscriptLine]) -> None:
        """The call began elsewhere: what is over of it, and where its axis begins on this process's clock."""
        self._zero_s, self._turns_before, self._lines_before, self._greeted = zero_s, turns, lines, bool(turns)
        self.record.turns = list(turns)
        for entry in self.record.listened:  # their sockets were that process's
            entry.to_ms = self.record.duration_ms if entry.to_ms is None else entry.to_ms

    def open_turns(self) -> list[TurnRecord]:
        """Replies on their way."""
        return [t.record for t in self._turns.values() if not t.closed and t.first_audio_s is not None]

    def closed_turns(self) -> Iterator[TurnRecord]:
        """Replies of this process that are over."""
        return (t.record for t in self._turns.values() if t.closed and t.first_audio_s is not None)

    def pieces(self, generation: int) -> list[tuple[str, int]]:
        """The words of a reply as they came, each with the samples received by then."""
        return [(p.text, p.received) for r in self._said.replies if r.generation == generation for p in r.pieces]

    def caller_lines(self) -> list[TranscriptLine]:
        """What the caller said in this process, in order; the last one may go on."""
        said = (line for line in self._said.caller if line.text.strip())
        return [TranscriptLine(at_ms=self.ms(line.at_s), who="caller", text=line.text.strip()) for line in said]

    def ms(self, at_s: float) -> float:
        """`at_s` on the call's own axis, in milliseconds."""
        zero_s = self._zero_s if self._zero_s is not None else (self._rang_s or at_s)
        return round((at_s - zero_s) * 1000, 3)

    # --- events

    def _stream_started(self, event: e.StreamStarted) -> None:
        if self._zero_s is None:
            self._zero_s = event.at_s
            if self._answered_webhook_s is not None:
                self._call_segment("stream_setup", event.at_s - self._answered_webhook_s)

    def _speech_started(self, event: e.CallerSpeechStarted) -> None:
        self._speaking = True
        self._onset_s = event.onset_s
        if self._speech_start_s is None or self._speech_end_s is None:
            self._speech_start_s = event.onset_s
        self._speech_end_s = None

    def _speech_ended(self, event: e.CallerSpeechEnded) -> None:
        self._speaking = False
        waiting, self._awaiting_end = self._awaiting_end, None
        if waiting is not None:
            if waiting.first_audio_s is not None and event.offset_s <= waiting.first_audio_s:
                waiting.caller_end_s = event.offset_s
                waiting.record.caller_ended_ms = self.ms(event.offset_s)
                self._speech_start_s = None
            else:  # the caller talked on over the reply: where the turn ended is not known
                self._metrics.incomplete("turn_gap", "superseded")
            return
        self._speech_end_s = event.offset_s

    def _reply_audio(self, event: e.ReplyAudio) -> None:
        turn = self._turn(event.generation)
        turn.received += event.samples
        turn.record.received_ms = turn.received * self._sample_ms
        if event.audible_sample is not None:
            turn.audible = event.audible_sample
        if turn.first_audio_s is not None:
            return
        turn.first_audio_s = event.at_s
        if turn.first_event_s is None:
            turn.first_event_s = event.at_s
        turn.tool_answered_s, self._tool_answered_s = self._tool_answered_s, None
        if turn.record.kind == "filler":
            return  # no answer: the caller is still waiting
        record = turn.record
        record.caller_text, self._pending_caller_text = self._pending_caller_text.strip(), ""
        if self._speech_start_s is not None:
            record.caller_started_ms = self.ms(self._speech_start_s)
        if self._speech_end_s is not None:
            turn.caller_end_s = self._speech_end_s
            record.caller_ended_ms = self.ms(self._speech_end_s)
            self._speech_start_s = self._speech_end_s = None
        elif self._speaking:
            self._awaiting_end = turn

    def _mark_returned(self, event: e.MarkReturned) -> None:
        turn = self._turns.get(event.generation)
        if turn is None or turn.onset_played_s is not None or turn.audible is None or turn.interrupted:
            return
        if event.sample >= turn.audible:
            turn.onset_played_s = event.at_s - event.late_s - FRAME_S  # the mark stands behind the frame

    def _clear_acknowledged(self, event: e.ClearAcknowledged) -> None:
        if event.epoch != self._unacknowledged:
            return
        self._unacknowledged = None
        if (record := self._barge_in) is not None:
            record.stopped_ms = self.ms(event.at_s)
            self._barge_in_segment(record, "bargein_stop", event.at_s - self._decided_s)
            if self._spoken_over_s is not None:
                self._barge_in_segment(record, "bargein_silence", event.at_s - self._spoken_over_s)

    def _never_silent(self, why: str) -> None:
        """The clear on its way is not acknowledged any more: the segments that end there are absent, and counted."""
        if self._unacknowledged is None:
            return
        self._unacknowledged = None
        if self._barge_in is not None:
            self._metrics.incomplete("bargein_stop", why)
            if self._spoken_over_s is not None:
                self._metrics.incomplete("bargein_silence", why)

    def tool_started(self, call_id: str, name: str, arguments: dict[str, Any], at_s: float) -> None:
        """The model asked for this tool; the arguments are bounded, and without secrets."""
        if call_id in self._tools:
            return
        record = ToolRecord(call_id=call_id, name=name, arguments=arguments, requested_ms=self.ms(at_s))
        self._tools[call_id] = (at_s, record)
        if len(self.record.tool_calls) < ENTRIES_MAX:
            self.record.tool_calls.append(record)
        else:
            self._full("further tool calls")

    def tool_again(self, call_id: str, at_s: float) -> None:
        """A tool call that had no outcome in the process before runs again: its record goes on."""
        if (record := self._without_outcome(call_id)) is not None:
            self._tools[call_id] = (at_s, record)

    def tool_moved(self, call_id: str, outcome: e.Outcome, answer: str, error: str, at_s: float) -> None:
        """The outcome of one that ran in the process before, as far as it is known."""
        if (record := self._without_outcome(call_id)) is not None:
            record.answer, record.error, record.outcome = answer, error, outcome.value
            record.finished_ms = self.ms(at_s)
            self._metrics.tool_calls_total.inc(outcome.value)
            self.on_tool(record)

    def _without_outcome(self, call_id: str) -> ToolRecord | None:
        found = (tool for tool in reversed(self.record.tool_calls) if tool.call_id == call_id)
        return next((tool for tool in found if tool.finished_ms is None), None)

    def tool_told(self, call_id: str, answer: str, error: str) -> None:
        """What the tool's run came to."""
        if call_id in self._tools:
            record = self._tools[call_id][1]
            record.answer, record.error = answer, error

    def tool_afterwards(self, call_id: str, state: str, what: str) -> None:
        """What becomes of a run that had its outcome before."""
        self._metrics.tool_afterwards_total.inc(state)
        for record in reversed(self.record.tool_calls):
            if record.call_id == call_id:
                record.afterwards = f"{state}: {what}" if what else state
                return

    # --- commands

    def _played(self, command: c.Play, decided_s: float) -> None:
        turn = self._turn(command.generation)
        record = turn.record
        record.sent_ms = max(record.sent_ms, command.to_sample * self._sample_ms)
        now_s = decided_s
        if turn.first_sent_s is None:
            turn.first_sent_s = now_s
            record.reply_started_ms = self.ms(now_s)
        elif turn.playing_until_s is not None and not isinstance(command, c.Replay):
            gap_ms = (now_s - turn.playing_until_s) * 1000
            record.longest_gap_ms = max(record.longest_gap_ms, gap_ms)
        length_s = (command.to_sample - command.from_sample) * self._sample_ms / 1000
        turn.playing_until_s = max(turn.playing_until_s or now_s, now_s) + length_s

    def sent(self, span: Span, at_s: float) -> None:
        """The audio was handed to the carrier's socket."""
        turn = self._turns.get(span.generation)
        if turn is None or turn.onset_sent_s is not None or turn.audible is None:
            return
        if span.to_sample >= turn.audible:
            turn.onset_sent_s = at_s

    def _cleared(self, command: c.Clear, decided_s: float) -> None:
        self._never_silent("superseded")
        self._decided_s = decided_s
        self._unacknowledged = command.epoch
        self._barge_in = None  # `BargeIn` follows in the same step, unless the gateway itself cancels a reply
        self._playback_cut()

    def _line_away(self, event: e.LineAway) -> None:
        self._never_silent("no_mark")
        self._playback_cut()

    def _playback_cut(self) -> None:
        for turn in self._turns.values():
            turn.playing_until_s = None

    def clear_sent(self, at_s: float) -> None:
        """The clear was handed to the carrier's socket."""
        if self._barge_in is not None and self._barge_in.clear_sent_ms is None:
            self._barge_in_segment(self._barge_in, "bargein_clear_sent", at_s - self._decided_s)
            self._barge_in.clear_sent_ms = self.ms(at_s)

    def _barged_in(self, command: c.BargeIn, decided_s: float) -> None:
        record = self._barge_in
        self._metrics.barge_ins_total.inc(command.verdict.value)
        if record is None or record.verdict_ms is not None or record.generation != command.generation:
            record = self._barge_in = BargeInRecord(
                generation=command.generation, onset_ms=self.ms(command.onset_s), decided_ms=self.ms(decided_s)
            )
            if len(self.record.barge_ins) < ENTRIES_MAX:
                self.record.barge_ins.append(record)
            else:
                self._full("further barge-ins")
            self._spoken_over_s = None
            if command.onset_s < decided_s:  # without a detected onset the machine gives the decision's time
                # A caller who was speaking already speaks over the agent from the reply's first audio.
                turn = self._turns.get(command.generation)
                began_s = turn.first_sent_s if turn is not None and turn.first_sent_s is not None else command.onset_s
                self._spoken_over_s = max(command.onset_s, began_s)
                self._barge_in_segment(record, "bargein_detect", decided_s - self._spoken_over_s)
        record.verdict = command.verdict.value
        if command.verdict is not c.Verdict.SUSPECTED:
            record.verdict_ms = self.ms(decided_s)

    def _reply_ended(self, command: c.ReplyEnded, decided_s: float) -> None:
        turn = self._turns.get(command.generation)
        if turn is None:
            return
        record = turn.record
        record.received_ms = command.received * self._sample_ms
        record.heard_ms = command.heard * self._sample_ms
        record.interrupted = turn.interrupted = command.interrupted
        record.heard_text = self.heard_text(command.generation, command.heard) or ""
        record.reply_ended_ms = self.ms(decided_s)
        if self._barge_in is not None and self._barge_in.generation == command.generation:
            self._barge_in.heard_ms = record.heard_ms
        self._close(turn, "interrupted" if command.interrupted else "no_mark")

    def _tool_answered(self, command: c.AnswerTool, decided_s: float) -> None:
        self._tool_done(command.call_id, decided_s, command.outcome.value)
        if command.speak is not None and command.speak is not c.Speak.SILENT:
            self._tool_answered_s = decided_s

    def _tool_cancelled(self, command: c.CancelTool, decided_s: float) -> None:
        self._tool_done(command.call_id, decided_s, "cancelled")

    def _endpoint(self, command: c.CloseTurn, decided_s: float) -> None:
        if self._speech_end_s is not None:
            self._observe("endpoint_delay", decided_s - self._speech_end_s)

    # --- closing

    def _tool_done(self, call_id: str, at_s: float, outcome: str) -> None:
        started = self._tools.pop(call_id, None)
        if started is None:
            return
        began_s, record = started
        record.finished_ms, record.outcome = self.ms(at_s), outcome
        self._metrics.tool_calls_total.inc(outcome)
        self._observe("tool_call", at_s - began_s, record.name)
        self.on_tool(record)

    def _close(self, turn: _Turn, missing: str) -> None:
        """All that can be known of this reply is known: its segments are counted, once."""
        if turn.closed:
            return
        turn.closed = True
        record = turn.record
        if self._awaiting_end is turn:
            self._awaiting_end = None
            self._metrics.incomplete("turn_gap", "superseded")
        if turn.first_audio_s is None:
            return  # a turn without a sound: a tool call, or nothing
        if record.kind == "model" and turn.caller_end_s is not None:
            if turn.first_event_s is not None:
                self._turn_segment(turn, "model_first_event", turn.caller_end_s, turn.first_event_s, missing)
            self._turn_segment(turn, "model_first_audio", turn.caller_end_s, turn.first_audio_s, missing)
            self._turn_segment(turn, "output_onset_played", turn.caller_end_s, turn.onset_played_s, missing)
            played = turn.onset_played_s is not None
            end_s = turn.onset_played_s if played else turn.onset_sent_s
            self._turn_segment(
                turn, "turn_gap", turn.caller_end_s, end_s, missing, label="played" if played else "sent"
            )
        self._turn_segment(turn, "output_onset_sent", turn.first_audio_s, turn.onset_sent_s, missing)
        if turn.tool_answered_s is not None:
            self._turn_segment(turn, "tool_to_audio", turn.tool_answered_s, turn.first_audio_s, missing)
        if not self._greeted:
            self._greeted = True
            begin_s = self._rang_s if self._rang_s is not None else self._zero_s
            if begin_s is not None and turn.onset_played_s is not None:
                self._call_segment("answer_to_greeting", turn.onset_played_s - begin_s)

    def _observe(self, name: str, seconds: float, label: str = "") -> None:
        self._metrics.observe(name, seconds, label, self.record.trace_id)

    def _turn_segment(
        self, turn: _Turn, name: str, begin_s: float, end_s: float | None, missing: str, label: str = ""
    ) -> None:
        if end_s is None:
            self._metrics.incomplete(name, missing)
            return
        seconds = end_s - begin_s
        self._observe(name, seconds, label)  # a negative one is counted as invalid
        if seconds >= 0:
            turn.record.segments[name] = round(seconds * 1000, 3)

    def _barge_in_segment(self, record: BargeInRecord, name: str, seconds: float) -> None:
        self._observe(name, seconds)
        record.segments[name] = round(seconds * 1000, 3)

    def _call_segment(self, name: str, seconds: float) -> None:
        self._observe(name, seconds)
        self.record.segments[name] = round(seconds * 1000, 3)

    def _turn(self, generation: int) -> _Turn:
        turn = self._turns.get(generation)
        if turn is None:
            if len(self._turns) >= ENTRIES_MAX:
                self._forget_turn()
            record = TurnRecord(number=len(self.record.turns) + 1, generation=generation)
            turn = self._turns[generation] = _Turn(record)
            self.record.turns.append(record)
        return turn

    def _forget_turn(self) -> None:
        """The oldest turn that is over makes room."""
        self._full("the oldest turns")
        turn = next((turn for turn in self._turns.values() if turn.closed), next(iter(self._turns.values())))
        self._close(turn, "call_ended")
        del self._turns[turn.record.generation]
        self.record.turns.remove(turn.record)

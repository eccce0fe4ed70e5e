"""What is kept of a call: plain values, the same in the store, on the console and in `report.json`.

All `_ms` times are on the call's own axis: milliseconds since the carrier's `start` was received.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "ActionRecord",
    "BargeInRecord",
    "CallRecord",
    "ListeningRecord",
    "MessageRecord",
    "PartRecord",
    "RecordingRecord",
    "ToolRecord",
    "TranscriptLine",
    "TurnRecord",
]


class TurnRecord(msgspec.Struct, kw_only=True):
    """One reply of the agent and what the caller said before it. A segment that never ended is absent."""

    number: int
    generation: int
    kind: str = "model"  # or "sound" (greeting from a file), "filler"
    caller_started_ms: float | None = None
    caller_ended_ms: float | None = None
    caller_text: str = ""
    reply_started_ms: float | None = None  # first audio of the reply sent to the carrier
    reply_ended_ms: float | None = None  # the reply's last heard sample, by the ledger
    reply_text: str = ""
    heard_text: str = ""
    received_ms: float = 0.0
    sent_ms: float = 0.0
    heard_ms: float = 0.0
    interrupted: bool = False
    longest_gap_ms: float = 0.0  # longest silence inside the reply because no audio was at hand
    segments: dict[str, float] = {}  # name -> ms


class BargeInRecord(msgspec.Struct, kw_only=True):
    """One interruption, suspected or not, and what became of it. A segment that never ended is absent."""

    generation: int
    onset_ms: float  # of the caller's speech; the decision's time where the gateway detected none (a key, the model)
    decided_ms: float  # the gateway decided to stop playback
    clear_sent_ms: float | None = None
    stopped_ms: float | None = None  # the carrier acknowledged the clear
    verdict: str = "suspected"  # or confirmed_by_model, confirmed_locally, dismissed
    verdict_ms: float | None = None
    heard_ms: float = 0.0  # of the reply, when it was stopped
    segments: dict[str, float] = {}  # name -> ms: bargein_silence; its parts bargein_detect, bargein_stop; ...


class ToolRecord(msgspec.Struct, kw_only=True):
    """One tool call and its single outcome."""

    call_id: str
    name: str
    requested_ms: float
    finished_ms: float | None = None
    outcome: str = ""  # done, failed, timed_out, cancelled
    arguments: dict[str, Any] = {}  # as the model gave them; secrets masked, long ones cut
    answer: str = ""  # what the model received, JSON, likewise
    error: str = ""  # what went wrong, for the operator
    afterwards: str = ""  # a run that was given up and could not be stopped: running, finished or failed, and how


class MessageRecord(msgspec.Struct, kw_only=True):
    """A message taken for a person who cannot be reached."""

    at_ms: float
    recipient: str
    text: str


class ActionRecord(msgspec.Struct, kw_only=True):
    """What an operator did to the call from the console."""

    at_ms: float
    who: str  # the user name that the browser gave, and its address
    what: str  # place, hang_up, transfer, say, note, hold, resume
    detail: str = ""
    done: bool = True


class ListeningRecord(msgspec.Struct, kw_only=True):
    """An operator listened in on the call."""

    who: str  # as of an action
    from_ms: float
    to_ms: float | None = None  # None: listens now


class TranscriptLine(msgspec.Struct, kw_only=True):
    """One stretch of speech, ordered by when it was heard on the line."""

    at_ms: float
    who: str  # "caller" or "agent"
    text: str
    heard_text: str | None = None  # agent only: the part that the caller heard


class PartRecord(msgspec.Struct, kw_only=True):
    """What one owner of a call recorded, as a file on its disk."""

    file: str  # absolute path
    offset_ms: float  # of its first sample, on the call's own axis


class RecordingRecord(msgspec.Struct, kw_only=True):
    """A call's recording: stereo WAV, left the caller, right the agent as heard; encrypted where `file` ends so."""

    file: str = ""  # absolute path, on the machine that ended the call
    offset_ms: float = 0.0  # of its first sample, on the call's own axis
    size_bytes: int = 0
    object: str = ""  # the same in a bucket, s3://...: the file is removed once it is there
    parts: list[PartRecord] = []  # of which it was made, one per owner of the call
    refused: bool = False  # while the call lasts: nothing is recorded from here on, and what was is removed


class CallRecord(msgspec.Struct, kw_only=True):
    """One call from ring to end."""

    call_sid: str
    trace_id: str = ""  # of its OpenTelemetry trace, 32 hex digits, where traces are sent
    agent: str = ""
    model: str = ""  # provider/name
    direction: str = "inbound"
    caller: str = ""
    dialled: str = ""
    simulated: bool = False
    started_at: str = ""  # ISO 8601, wall clock, UTC
    answered_by: str = ""  # outbound: human, machine_..., fax or unknown, by the carrier's detection
    duration_ms: float = 0.0
    end_reason: str = ""
    end_side: str = ""
    streams: list[str] = []
    turns: list[TurnRecord] = []
    barge_ins: list[BargeInRecord] = []
    tool_calls: list[ToolRecord] = []
    transcript: list[TranscriptLine] = []
    messages: list[MessageRecord] = []
    actions: list[ActionRecord] = []  # of operators
    listened: list[ListeningRecord] = []  # operators
    remembered: dict[str, str] = {}  # facts the tools kept
    segments: dict[str, float] = {}  # call-level ones, ms: answer_to_greeting, model_setup, ...
    audio_in_ms: float = 0.0
    audio_out_ms: float = 0.0
    samples_after_clear: int = 0
    pictures: int = 0  # that the caller showed the model; none is kept
    pictures_refused: int = 0
    usage: dict[str, float] = {}  # tokens and cost, as far as known
    errors: list[str] = []
    recording: RecordingRecord | None = None

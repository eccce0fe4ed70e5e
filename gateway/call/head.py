"""A call's head: what another process needs to go on with it, as plain values with a version. Pure.

The head stays small however long the call is; what only grows (replies that are over, tools, what the caller said) is
appended to a log, entry by entry. Unknown fields are ignored and missing ones have a default, so that neighbouring
versions read each other's; a head of another `v` is not read at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from offhook.gateway.conversation import transcript
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Owed
from offhook.gateway.conversation.state import Phase, State
from offhook.gateway.models import LinkMemory
from offhook.gateway.store.record import (
    BargeInRecord,
    CallRecord,
    MessageRecord,
    ToolRecord,
    TranscriptLine,
    TurnRecord,
)

__all__ = [
    "VERSION",
    "FollowsHead",
    "Head",
    "LegHead",
    "LogEntry",
    "OpenReply",
    "RunningHead",
    "Taken",
    "open_replies",
    "read_head",
    "read_log",
    "taken_from",
]

VERSION = 1
FILLER = "filler"  # `TurnRecord.kind` of what covers a wait and answers nothing
TURNAROUND_MAX_S = 1.0  # a carrier's webhook takes less


class OpenReply(msgspec.Struct, omit_defaults=True):
    """A reply that is not over. `plays_from_s`: wall time at which its first sample was, or would have been, played;
    None while playback is stopped. Samples are the line's. `words`: each with the samples received by then.
    """

    generation: int
    received: int
    heard: int = 0
    plays_from_s: float | None = None
    complete: bool = False
    words: list[tuple[str, int]] = []


class RunningHead(msgspec.Struct, omit_defaults=True):
    """A tool call without an outcome. `arguments`: None where they are too large. `unnoted`: it began while the live
    store was away, which has no note of it.
    """

    call_id: str
    name: str
    key: str
    arguments: dict[str, Any] | None = None
    unnoted: bool = False


class FollowsHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """What follows the conversation, once that is decided (`NextStep`)."""

    kind: str
    target: str = ""
    whisper: str = ""
    starts: bool = False


class LegHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """The call at its carrier."""

    own_number: str = ""
    caller_id: str = ""
    follows: FollowsHead | None = None


class Head(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A live call, as of `wall_s`. `record`: what the log does not have of its record."""

    v: int
    wall_s: float
    record: CallRecord
    parameters: dict[str, str] = {}
    effects: list[str] = []
    leg: LegHead = LegHead()
    began_s: float = 0.0  # wall time of its first stream's start; 0: none has come
    turnaround_s: float = 0.0  # from our document to the first stream, measured once: how long this carrier takes
    phase: str = "connecting"
    ending: str = ""
    transfer: tuple[str, str, bool] | None = None
    newest: int = 0  # reply number
    session: int = 0  # model session
    replies: list[OpenReply] = []
    tools: list[RunningHead] = []
    memory: LinkMemory = msgspec.field(default_factory=LinkMemory)


class LogEntry(msgspec.Struct, omit_defaults=True):
    """One thing that is over; one field is set."""

    turn: TurnRecord | None = None
    tool: ToolRecord | None = None
    barge_in: BargeInRecord | None = None
    message: MessageRecord | None = None
    said: TranscriptLine | None = None


class Taken(NamedTuple):
    """What a head and its log mean to the process that takes the call over.

    `record`: all of it so far, with the reply that was cut as far as it was heard. `turns` and `lines`: those of it
    that are over. `sound`: samples of a greeting from a file that was cut.
    """

    head: Head
    record: CallRecord
    turns: list[TurnRecord]
    lines: list[TranscriptLine]
    owed: Owed
    ending: Ending | None
    heard_text: str
    sound_heard: int
    age_s: float
    epoch: int = 1  # this process's


def read_head(data: bytes) -> Head | None:
    """None for one of another version, or none at all."""
    try:
        if msgspec.json.decode(data, type=_Version).v != VERSION:
            return None
        return msgspec.json.decode(data, type=Head)
    except msgspec.DecodeError:
        return None


class _Version(msgspec.Struct):
    v: int


def read_log(entries: Iterable[bytes]) -> list[LogEntry]:
    """Those that can be read."""
    found = []
    for entry in entries:
        try:
            found.append(msgspec.json.decode(entry, type=LogEntry))
        except msgspec.DecodeError:
            continue
    return found


def open_replies(state: State, now_s: float, wall_s: float) -> list[OpenReply]:
    """The ledger's open replies, on the wall clock and without words."""
    ledger = state.ledger
    plays = state.phase in (Phase.SPEAKING, Phase.CLOSING) and state.line.value == "up"
    found = []
    for r in ledger.replies:
        start_s = ledger.anchor_s + (r.base - ledger.anchor) / ledger.rate_hz
        plays_from_s = wall_s + start_s - now_s if plays and r.placed > r.heard else None
        found.append(OpenReply(r.generation, r.received, r.heard, plays_from_s, r.complete))
    return found


def taken_from(head: Head, log: Iterable[LogEntry], wall_s: float, rate_hz: int) -> Taken:
    """What the call is at `wall_s`, when its carrier asked what follows: the stream ended `turnaround_s` before that,
    and after the head, which is of a moment when it was up.
    """
    record = head.record
    turns = [entry.turn for entry in log if entry.turn is not None] + record.turns
    record.tool_calls = [entry.tool for entry in log if entry.tool is not None] + record.tool_calls
    record.barge_ins = [entry.barge_in for entry in log if entry.barge_in is not None] + record.barge_ins
    record.messages = [entry.message for entry in log if entry.message is not None] + record.messages
    in_flight = {running.call_id for running in head.tools}  # the new owner finds out what became of them
    for tool in record.tool_calls:
        if tool.finished_ms is None and tool.call_id not in in_flight:
            tool.finished_ms, tool.outcome = round((wall_s - head.began_s) * 1000, 3), "cancelled"
            tool.error = "the process that ran it was lost"
    said = [entry.said for entry in log if entry.said is not None] + record.transcript
    heard_s = max(wall_s - min(head.turnaround_s, TURNAROUND_MAX_S), min(head.wall_s, wall_s))
    by_generation = {turn.generation: turn for turn in turns}
    heard_text, cut, heard_any, answered, sound_heard = "", False, False, not head.replies, 0
    for reply in head.replies:
        heard = _heard(reply, heard_s, rate_hz)
        received = max(reply.received, heard)
        whole = reply.complete and heard >= received
        turn = by_generation.get(reply.generation)
        if turn is None or turn.kind != FILLER:
            cut, heard_any, answered = cut or not whole, heard_any or heard > 0, True
        if turn is None:
            continue
        words = _heard_words(reply, heard, received)
        turn.heard_ms, turn.received_ms = heard * 1000 / rate_hz, received * 1000 / rate_hz
        turn.heard_text, turn.interrupted = words, not whole
        if turn.reply_started_ms is not None:
            turn.reply_ended_ms = turn.reply_started_ms + turn.heard_ms
        if not whole:
            heard_text = words
            sound_heard = heard if turn.kind == "sound" else 0
    agent = [
        TranscriptLine(at_ms=t.reply_started_ms, who="agent", text=t.reply_text.strip(), heard_text=t.heard_text)
        for t in turns
        if t.reply_started_ms is not None and t.reply_text.strip()
    ]
    lines = sorted(said + agent, key=lambda line: (line.at_ms, line.who != "caller"))
    record.turns, record.transcript = turns, lines
    ending = Ending(head.ending) if head.ending else None
    spoke = heard_any or any(turn.heard_ms > 0 for turn in turns if turn.kind != FILLER)
    phase = Phase(head.phase)
    if phase is Phase.SPEAKING and not answered:  # fillers alone are heard
        phase = Phase.THINKING
    owed = _owed(phase, cut=cut, heard=heard_any, spoke=spoke)
    return Taken(head, record, turns, lines, owed, ending, heard_text, sound_heard, wall_s - head.wall_s)


def _heard(reply: OpenReply, at_s: float, rate_hz: int) -> int:
    """Samples of the reply that were heard by `at_s`: replies are sent ahead, at a known time."""
    if reply.plays_from_s is None:
        return reply.heard
    played = int((at_s - reply.plays_from_s) * rate_hz)
    return max(reply.heard, min(played, reply.received) if reply.complete else played)


def _heard_words(reply: OpenReply, heard: int, received: int) -> str:
    pieces = tuple(transcript.Piece(text, at) for text, at in reply.words)
    if not pieces:
        return ""
    said = transcript.Transcript((transcript.ReplySaid(reply.generation, pieces),))
    return transcript.heard_text(said, reply.generation, heard, received)


def _owed(phase: Phase, *, cut: bool, heard: bool, spoke: bool) -> Owed:
    """Who speaks next. `cut`: a reply was not heard to its end; `heard`: something of it was; `spoke`: of any."""
    if phase is Phase.LISTENING and not cut:
        return Owed.NOTHING
    if not spoke:
        return Owed.GREETING
    if phase in (Phase.THINKING, Phase.STOPPING) or not heard:
        return Owed.ANSWER if cut or phase is not Phase.CLOSING else Owed.NOTHING
    return Owed.REST if cut else Owed.NOTHING

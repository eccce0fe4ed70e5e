"""The values that the console shows, made from records and metrics. Times in ms; an unknown one is absent, never NaN.
Phone numbers are masked here, before any value leaves the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from heapq import nlargest
from itertools import islice
from operator import itemgetter

import msgspec

from offhook.gateway.numbers import mask
from offhook.gateway.store.record import CallRecord, ToolRecord, TurnRecord
from offhook.metrics.quantiles import Counts, summarise
from offhook.metrics.segments import Segment

__all__ = [
    "WINDOWS",
    "ActiveCall",
    "Bar",
    "EndedCall",
    "LiveCall",
    "SegmentView",
    "TurnView",
    "active_call",
    "bars_of",
    "ended_call",
    "last_turns",
    "mask",
    "points_of",
    "segment_view",
]

WINDOWS = {"1m": (60, 30), "5m": (300, 60), "1h": (3600, 60)}  # name -> seconds, points of the sparkline
OUR_SIDES = ("gateway", "model")  # a call ended from these sides ended by a fault, a limit or a restart, not on purpose


class LiveCall(msgspec.Struct, frozen=True):
    """An active call. Its record is still being written."""

    phase: str
    elapsed_ms: float  # since the stream started (before: since the ring)
    record: CallRecord


class ActiveCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of the active calls."""

    call_sid: str
    agent: str
    caller: str
    direction: str
    phase: str
    elapsed_ms: float
    turns: int
    started_at: str = ""
    last_gap_ms: float | None = None
    tool: str = ""  # the one running longest
    simulated: bool = False


class EndedCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of the ended calls."""

    call_sid: str
    agent: str
    caller: str
    direction: str
    duration_ms: float
    turns: int
    barge_ins: int
    tools: int
    errors: int
    end_reason: str
    end_side: str
    fault: bool
    started_at: str = ""
    worst_gap_ms: float | None = None
    simulated: bool = False


class Bar(msgspec.Struct, frozen=True):
    """One stage of a turn. Times start at the end of the caller's speech."""

    kind: str  # model, voice, tool, gateway, carrier
    what: str
    from_ms: float
    to_ms: float


class TurnView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answered turn: the stages of the caller's wait."""

    call_sid: str
    agent: str
    number: int
    gap_ms: float
    bars: list[Bar]
    played: bool = False  # the gap ends at the carrier's mark; otherwise when the audio was sent
    interrupted: bool = False
    at: str = ""


class SegmentView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One segment in one window. P95 and P99 are absent where there are too few samples for them."""

    name: str
    count: int
    headline: bool = False
    start: str = ""
    end: str = ""
    note: str = ""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    target_ms: float | None = None
    within: float | None = None  # share of the samples within the target
    points: list[list[float | None]] = []  # [medians, slowest], oldest first


def _other_side(record: CallRecord) -> str:
    return mask(record.dialled if record.direction == "outbound" else record.caller)


def active_call(call: LiveCall) -> ActiveCall:
    """One row of an active call."""
    record = call.record
    gaps = (turn.segments["turn_gap"] for turn in reversed(record.turns) if "turn_gap" in turn.segments)
    running = [tool.name for tool in record.tool_calls if tool.finished_ms is None]
    return ActiveCall(
        call_sid=record.call_sid,
        agent=record.agent,
        caller=_other_side(record),
        direction=record.direction,
        phase=call.phase,
        elapsed_ms=round(call.elapsed_ms),
        turns=sum(turn.reply_started_ms is not None for turn in record.turns),
        started_at=record.started_at,
        last_gap_ms=next(gaps, None),
        tool=running[0] if running else "",
        simulated=record.simulated,
    )


def ended_call(record: CallRecord) -> EndedCall:
    """One row of an ended call."""
    return EndedCall(
        call_sid=record.call_sid,
        agent=record.agent,
        caller=_other_side(record),
        direction=record.direction,
        duration_ms=record.duration_ms,
        turns=len(record.turns),
        barge_ins=sum(barge_in.verdict.startswith("confirmed") for barge_in in record.barge_ins),
        tools=len(record.tool_calls),
        errors=len(record.errors),
        end_reason=record.end_reason,
        end_side=record.end_side,
        fault=record.end_side in OUR_SIDES,
        started_at=record.started_at,
        worst_gap_ms=max((t.segments["turn_gap"] for t in record.turns if "turn_gap" in t.segments), default=None),
        simulated=record.simulated,
    )


def bars_of(turn: TurnRecord, tools: Iterable[ToolRecord] = ()) -> list[Bar]:
    """The stages of this turn's gap; empty for a turn that answers no utterance (a greeting, a filler)."""
    segments, ended_ms = turn.segments, turn.caller_ended_ms
    audio_ms = segments.get("model_first_audio")
    if audio_ms is None or ended_ms is None:
        return []
    event_ms = segments.get("model_first_event", audio_ms)
    bars = [Bar("model", "turn end and model's first sign", 0.0, event_ms)]
    if audio_ms > event_ms:
        bars.append(Bar("voice", "model's first sign to its first audio", event_ms, audio_ms))
    done_ms = audio_ms
    if (onset_ms := segments.get("output_onset_sent")) is not None:
        done_ms = audio_ms + onset_ms
        bars.append(Bar("gateway", "first audio to first voice sent", audio_ms, done_ms))
    if (played_ms := segments.get("output_onset_played")) is not None and played_ms > done_ms:
        bars.append(Bar("carrier", "first voice sent to played", done_ms, played_ms))
    for tool in tools:
        begins_ms = tool.requested_ms - ended_ms
        if 0 <= begins_ms < audio_ms:
            ends_ms = tool.finished_ms - ended_ms if tool.finished_ms is not None else audio_ms
            bars.append(Bar("tool", f"{tool.name} ({tool.outcome or 'running'})", begins_ms, ends_ms))
    return [Bar(bar.kind, bar.what, round(bar.from_ms, 1), round(bar.to_ms, 1)) for bar in bars]


def last_turns(records: Iterable[CallRecord], limit: int) -> list[TurnView]:
    """The newest answered turns of these calls, newest first."""
    found: list[tuple[float, int, TurnRecord, CallRecord]] = []
    for record in records:
        begun_s = datetime.fromisoformat(record.started_at).timestamp() if record.started_at else 0.0
        answered = (
            (begun_s + turn.caller_ended_ms / 1000, number, turn, record)
            for number, turn in zip(range(len(record.turns), 0, -1), reversed(record.turns), strict=True)
            if turn.caller_ended_ms is not None and "turn_gap" in turn.segments
        )
        found += islice(answered, limit)
    return [_turn_view(*turn) for turn in nlargest(limit, found, key=itemgetter(0))]


def _turn_view(at_s: float, number: int, turn: TurnRecord, record: CallRecord) -> TurnView:
    return TurnView(
        call_sid=record.call_sid,
        agent=record.agent,
        number=number,
        gap_ms=turn.segments["turn_gap"],
        bars=bars_of(turn, record.tool_calls),
        played="output_onset_played" in turn.segments,
        interrupted=turn.interrupted,
        at=datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds") if record.started_at else "",
    )


def segment_view(counts: Counts, segment: Segment) -> SegmentView:
    """Percentiles of one segment; without its points."""
    summary = summarise(counts)
    if not summary.count:
        return SegmentView(name=segment.name, count=0, headline=segment.headline, start=segment.start, end=segment.end)
    return SegmentView(
        name=segment.name,
        count=summary.count,
        headline=segment.headline,
        start=segment.start,
        end=segment.end,
        note=segment.note,
        p50_ms=_ms(summary.p50),
        p95_ms=_ms(summary.p95),
        p99_ms=_ms(summary.p99),
        max_ms=_ms(summary.max),
        target_ms=_ms(segment.target_s),
        within=None if segment.target_s is None else round(counts.share_within(segment.target_s), 4),
    )


def points_of(history: Iterable[Counts]) -> list[list[float | None]]:
    """[medians, maxima] of the window's intervals, oldest first."""
    parts = [summarise(part) for part in history]
    return [[_ms(part.p50) for part in parts], [_ms(part.max) for part in parts]]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)

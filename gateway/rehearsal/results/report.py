"""Reports of rehearsed calls: the gateway's record and the ground truth, as JSON and as tables.

All `_ms` times of a call count from its first stream's `start`, the axis of the gateway's record.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offhook.gateway import __version__
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.phone.truth import CallTruth, ClearReceived, Utterance, longest_wait_s
from offhook.gateway.rehearsal.results.runs import ScenarioRuns
from offhook.gateway.rehearsal.results.sides import ModelSession, caller_level_db, pair
from offhook.gateway.rehearsal.results.thinking import ThinkingReport
from offhook.gateway.store.record import CallRecord, TurnRecord
from offhook.media.mulaw import RATE_HZ, decode
from offhook.metrics import canary
from offhook.metrics.quantiles import exact
from offhook.metrics.segments import BY_NAME, OUTSIDE

__all__ = [
    "LINE_SEGMENTS",
    "CallReport",
    "CallerTurn",
    "ExpectationResult",
    "LineBargeIn",
    "LineReply",
    "LineReport",
    "ModelReport",
    "ModelSession",
    "Percentiles",
    "Report",
    "RunFacts",
    "Totals",
    "aligned",
    "call_report",
    "report_of",
    "samples_of",
    "show",
    "show_totals",
    "write_report",
]

_SAME_MS = 300.0  # the gateway's decision and its clear at the carrier are closer than this
_MARK = re.compile(r"r(\d+)\.\d+\.\d+")
_PAUSE_SAMPLES = RATE_HZ  # of another gateway's speech: a shorter one is a gap in a reply

# Segments that only a rehearsal can measure, because caller, carrier, gateway and model share one clock.
LINE_SEGMENTS: dict[str, str] = {
    **{segment.name: f"{segment.start} -> {segment.end}" for segment in canary.LINE_SEGMENTS},
    "line_to_model": "frame with the caller's last voice sent by the carrier -> received by the model",
    "model_to_line": "first audio of a reply sent by the model -> received by the carrier",
    "added": "the gateway's share of an answer: line_to_model + model_to_line",
}


class ExpectationResult(msgspec.Struct, kw_only=True):
    """Whether an expectation was met; `words` is the message. Not `seen`: what would decide it is not accessible."""

    ok: bool
    expectation: str
    words: str
    seen: bool = True

    @property
    def failed(self) -> bool:
        return self.seen and not self.ok

    @property
    def mark(self) -> str:
        return "✓" if self.ok else "✗" if self.seen else "–"


class CallerTurn(msgspec.Struct, kw_only=True):
    """One utterance of the caller, by its audible samples, and the time until the answer."""

    text: str
    kind: str
    onset_ms: float
    end_ms: float
    over_agent: bool
    answered_ms: float | None = None
    line_to_model_ms: float | None = None
    model_to_line_ms: float | None = None


class LineReply(msgspec.Struct, kw_only=True):
    """One reply on the line. `sent_ms` reached the carrier, `heard_ms` was played to the caller.

    Audio that is sent again after a dismissed barge-in counts again. `unheard_tail_ms` is the unheard end of what was
    sent.
    """

    generation: int
    started_ms: float | None
    ended_ms: float | None
    sent_ms: float
    heard_ms: float
    unheard_tail_ms: float
    longest_gap_ms: float
    model_ms: float | None = None  # what the rehearsal model sent of it, where the two could be paired
    level_db: float | None = None  # of what was heard, against what the model sent; of replies heard whole


class LineBargeIn(msgspec.Struct, kw_only=True):
    """The caller spoke over the agent. `clear_ms` None: playback was never stopped."""

    text: str
    kind: str
    generation: int
    onset_ms: float
    clear_ms: float | None = None
    silent_ms: float | None = None
    onset_to_clear_ms: float | None = None
    onset_to_silence_ms: float | None = None
    discarded_ms: float = 0.0
    old_samples_after_clear: int = 0
    verdict: str = ""  # the gateway's


class LineReport(msgspec.Struct, kw_only=True):
    """The call as the simulated carrier and caller observed it."""

    ended_by: str
    duration_ms: float
    caller: list[CallerTurn]
    replies: list[LineReply]
    barge_ins: list[LineBargeIn]
    announced: list[str]
    failed_steps: list[str]
    violations: list[str]
    unplayed_ms: float
    frames_sent: int
    frames_dropped: int
    latest_tick_ms: float
    clears: int = 0  # that stopped audible playback
    longest_wait_ms: float = 0.0  # silence before the agent was heard again, or a caller without an answer said more
    legs: list[str] = []  # numbers of the other parties that joined the caller's conference


class ModelReport(msgspec.Struct, kw_only=True):
    """The call as the rehearsal model observed it, over all its sessions.

    `caller_audio_ms` is how much audio arrived of the caller, `caller_level_db` its level against what the caller sent;
    None where it was not kept.
    """

    sessions: int = 0
    caller_audio_ms: float = 0.0
    caller_level_db: float | None = None
    told: list[str] = []  # every text that it received
    tool_answers: list[tuple[str, str]] = []  # name, and the answer as JSON


class CallReport(msgspec.Struct, kw_only=True):
    """One call. `record` is None when the gateway kept none."""

    call_sid: str
    scenario: str
    end_reason: str
    record: CallRecord | None
    line: LineReport
    model: ModelReport | None = None  # None: with several calls, sessions cannot be assigned to calls
    model_violations: list[str] = []
    counted: dict[str, float] = {}  # increase of the gateway's counters, named without their prefix
    verdicts: list[ExpectationResult] = []
    thinking: ThinkingReport | None = None  # of a caller who thinks

    @property
    def ok(self) -> bool:
        return not any(verdict.failed for verdict in self.verdicts)


class Percentiles(msgspec.Struct, kw_only=True):
    """Milliseconds. P95 is None below 20 samples and P99 below 300, where one call would decide it."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Totals(msgspec.Struct, kw_only=True):
    calls: int
    failed: int
    segments: dict[str, Percentiles]


class RunFacts(msgspec.Struct, kw_only=True):
    """What two runs must share to be compared; `scenarios` are digests of their files, by name."""

    scenarios: dict[str, str]
    machine: str
    seed: int | None = None
    repeat: int = 1
    speed: float = 1.0
    provider: str = ""
    voice: str = ""
    real: bool = False  # real models, not the rehearsal model


class Report(msgspec.Struct, kw_only=True):
    """One run of rehearsals."""

    offhook: str = __version__
    at: str = ""
    calls: list[CallReport]
    totals: Totals
    note: str = OUTSIDE
    paths: dict[str, str] = {}
    run: RunFacts | None = None
    scenarios: list[ScenarioRuns] = []  # of a run of several, in order

    @property
    def ok(self) -> bool:
        return all(call.ok for call in self.calls)


# -- building -------------------------------------------------------------------------------------------------


def call_report(
    truth: CallTruth,
    record: CallRecord | None,
    session: ModelSession | None = None,
    *,
    scenario: str = "",
    model_violations: Iterable[str] = (),
    sessions: Sequence[ModelSession] | None = None,
    legs: Sequence[str] = (),
    counted: Mapping[str, float] | None = None,
    by_marks: bool = True,
) -> CallReport:
    """One call's report from the ground truth, the gateway's record and the model's sessions.

    `by_marks`: replies are told apart by the names of this project's marks; otherwise by pauses of a second.

    `session` is the session of the whole call, None if it had several; `sessions` are all of them, None if they
    cannot be distinguished from those of other calls.
    """
    owners = _owners(truth) if by_marks else _by_pauses(truth)
    replies = _replies(truth, owners)
    of_call = [session] if session is not None and sessions is None else sessions
    if record is not None and of_call:
        unheard_ms = {reply.generation: reply.unheard_tail_ms for reply in replies}
        paired = pair(truth, record, unheard_ms, owners, of_call)
        for reply in replies:
            reply.model_ms, reply.level_db = paired.get(reply.generation, (None, None))
    caller = [_caller_turn(truth, spoken) for spoken in truth.spoken]
    if session is not None:
        _add_transport(truth, session, caller)
    return CallReport(
        call_sid=truth.call_sid,
        scenario=scenario,
        end_reason=record.end_reason if record else truth.ended_by,
        record=record,
        line=LineReport(
            ended_by=truth.ended_by,
            duration_ms=_round(1000.0 * (truth.ended_s - _zero_s(truth))) if truth.began_s else 0.0,
            caller=caller,
            replies=replies,
            barge_ins=[
                _barge_in(truth, owners, spoken, record)
                for spoken in truth.spoken
                if spoken.over_agent and spoken.kind == "say"
            ],
            announced=[f"{verb.verb} {verb.text}".strip() for verb in truth.announced],
            failed_steps=[f"{step.step}: {step.failed}" for step in truth.steps if step.failed],
            violations=[f"{fault.code}: {fault.what}" for fault in truth.violations],
            unplayed_ms=sum(stream.unplayed for stream in truth.streams) / 8.0,
            frames_sent=sum(stream.frames for stream in truth.streams),
            frames_dropped=truth.frames_dropped,
            latest_tick_ms=_round(truth.latest_tick_ms),
            clears=sum(clear.while_audible for clear in truth.clears),
            longest_wait_ms=_round(1000.0 * longest_wait_s(truth)),
            legs=list(legs),
        ),
        model=_model_side(truth, of_call),
        counted=dict(counted or {}),
        model_violations=list(model_violations),
    )


def _model_side(truth: CallTruth, sessions: Sequence[ModelSession] | None) -> ModelReport | None:
    if sessions is None:
        return None
    return ModelReport(
        sessions=len(sessions),
        caller_audio_ms=sum(500.0 * session.audio_bytes / session.audio_rate_hz for session in sessions),
        caller_level_db=caller_level_db(truth, sessions),
        told=[text.text for session in sessions for text in session.texts],
        tool_answers=[
            (answer.name, msgspec.json.encode(answer.response).decode())
            for session in sessions
            for answer in session.tool_answers
        ],
    )


def report_of(calls: Sequence[CallReport], paths: Mapping[str, str] | None = None) -> Report:
    """The report of a run; percentiles are exact, over all calls' turns."""
    samples: dict[str, list[float]] = {}
    for call in calls:
        for name, ms in samples_of(call):
            samples.setdefault(name, []).append(ms)
    known = [*BY_NAME, *LINE_SEGMENTS]
    order = {name: index for index, name in enumerate(known)}
    names = sorted(samples, key=lambda name: (order.get(name, len(order)), name))
    return Report(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        calls=list(calls),
        totals=Totals(
            calls=len(calls),
            failed=sum(not call.ok for call in calls),
            segments={name: _percentiles(samples[name]) for name in names},
        ),
        paths=dict(paths or {}),
    )


def write_report(report: Report, path: Path) -> None:
    """`report` as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _zero_s(truth: CallTruth) -> float:
    started = [stream.started_s for stream in truth.streams if stream.started_s is not None]
    return started[0] if started else truth.began_s


def _ms(truth: CallTruth, at_s: float) -> float:
    return _round(1000.0 * (at_s - _zero_s(truth)))


def _place_ms(truth: CallTruth, place: int) -> float:
    return _ms(truth, truth.began_s + place / RATE_HZ)


def _round(ms: float) -> float:
    return round(ms, 3)


def _caller_turn(truth: CallTruth, spoken: Utterance) -> CallerTurn:
    return CallerTurn(
        text=spoken.text,
        kind=spoken.kind,
        onset_ms=_ms(truth, spoken.onset_s),
        end_ms=_ms(truth, spoken.end_s),
        over_agent=spoken.over_agent,
        answered_ms=_answered_ms(truth, spoken),
    )


def _answered_ms(truth: CallTruth, spoken: Utterance) -> float | None:
    """From the last audible sample to the agent's next audible one, before the caller speaks again."""
    later = [other.onset_s for other in truth.spoken if other.kind == "say" and other.onset_s > spoken.end_s]
    until_s = min(later, default=float("inf"))
    for interval in truth.agent:
        if spoken.onset_s < interval.start_s < until_s and interval.end_s > spoken.end_s:
            return _round(1000.0 * (interval.start_s - spoken.end_s))
    return None


def _owners(truth: CallTruth) -> list[tuple[int, int, int]]:
    """`(from, to, generation)` of all positions: audio belongs to the next mark after it, 0 to none."""
    owners: list[tuple[int, int, int]] = []
    at = 0
    for mark in truth.marks:
        found = _MARK.fullmatch(mark.name)
        if found and mark.position > at:
            generation = int(found[1])
            if owners and owners[-1][2] == generation:
                owners[-1] = (owners[-1][0], mark.position, generation)
            else:
                owners.append((at, mark.position, generation))
            at = mark.position
    end = max((media.position + media.samples for media in truth.media), default=0)
    if end > at:
        owners.append((at, end, 0))
    return owners


def _by_pauses(truth: CallTruth) -> list[tuple[int, int, int]]:
    """As `_owners`, of any gateway: a reply ends where playback pauses for a second, or where it is cleared."""
    end = max((media.position + media.samples for media in truth.media), default=0)
    if not end:
        return []
    starts = [0]
    for run, following in zip(truth.played, truth.played[1:], strict=False):
        paused = following.place - run.place - run.samples >= _PAUSE_SAMPLES
        if paused or following.position != run.position + run.samples:
            starts.append(following.position)
    return [(at, to, n) for n, (at, to) in enumerate(zip(starts, [*starts[1:], end], strict=True), 1)]


def _owner(owners: Sequence[tuple[int, int, int]], position: int) -> int:
    for first, last, generation in owners:
        if first <= position < last:
            return generation
    return 0


def _replies(truth: CallTruth, owners: Sequence[tuple[int, int, int]]) -> list[LineReply]:
    """Replies by generation: the audio sent, the audio heard, and the longest gap that no clear explains."""
    found: dict[int, LineReply] = {}
    for first, last, generation in owners:
        reply = found.setdefault(
            generation,
            LineReply(
                generation=generation,
                started_ms=None,
                ended_ms=None,
                sent_ms=0.0,
                heard_ms=0.0,
                unheard_tail_ms=0.0,
                longest_gap_ms=0.0,
            ),
        )
        reply.sent_ms += (last - first) / 8.0
        heard_to = first
        for run in truth.played:
            start, end = max(first, run.position), min(last, run.position + run.samples)
            if start < end:
                reply.heard_ms += (end - start) / 8.0
                heard_to = max(heard_to, end)
                started_ms = _place_ms(truth, run.place + start - run.position)
                if reply.started_ms is None or started_ms < reply.started_ms:
                    reply.started_ms = started_ms
                reply.ended_ms = _place_ms(truth, run.place + end - run.position)
        reply.unheard_tail_ms = (last - heard_to) / 8.0
    for run, following in zip(truth.played, truth.played[1:], strict=False):
        if run.position + run.samples != following.position:
            continue  # a clear discarded the samples between
        generation = _owner(owners, following.position)
        if generation != _owner(owners, following.position - 1):
            continue
        if any(clear.position == following.position for clear in truth.clears):
            continue
        gap_ms = (following.place - run.place - run.samples) / 8.0
        found[generation].longest_gap_ms = max(found[generation].longest_gap_ms, gap_ms)
    return list(found.values())


def _barge_in(
    truth: CallTruth, owners: Sequence[tuple[int, int, int]], spoken: Utterance, record: CallRecord | None
) -> LineBargeIn:
    onset_ms = _ms(truth, spoken.onset_s)
    clear = next((c for c in truth.clears if c.while_audible and spoken.onset_s <= c.at_s <= spoken.end_s + 1.0), None)
    place = spoken.onset_place
    playing = [run.position + run.samples - 1 for run in truth.played if run.place <= place]
    generation = _owner(owners, clear.position - 1 if clear else playing[-1] if playing else 0)
    if clear is None:
        return LineBargeIn(text=spoken.text, kind=spoken.kind, generation=generation, onset_ms=onset_ms)
    clear_ms = _ms(truth, clear.at_s)
    decided = [b for b in record.barge_ins if abs(b.decided_ms - clear_ms) < _SAME_MS] if record else []
    verdict = min(decided, key=lambda b: abs(b.decided_ms - clear_ms)).verdict if decided else ""
    dismissed = verdict == "dismissed"  # no barge-in after all: the reply continues
    return LineBargeIn(
        text=spoken.text,
        kind=spoken.kind,
        generation=generation,
        onset_ms=onset_ms,
        clear_ms=clear_ms,
        silent_ms=_ms(truth, clear.stopped_s),
        onset_to_clear_ms=_round(1000.0 * (clear.at_s - spoken.onset_s)),
        onset_to_silence_ms=_round(1000.0 * (clear.stopped_s - spoken.onset_s)),
        discarded_ms=clear.discarded / 8.0,
        old_samples_after_clear=0 if dismissed else _old_samples(truth, owners, clear, generation, spoken),
        verdict=verdict,
    )


def _old_samples(
    truth: CallTruth,
    owners: Sequence[tuple[int, int, int]],
    clear: ClearReceived,
    generation: int,
    spoken: Utterance,
) -> int:
    """Samples of the dropped reply after the clear: by their marks, or because the caller still spoke."""
    queued = clear.position + clear.discarded
    return sum(
        media.samples
        for media in truth.media
        if media.position >= queued and (0 < _owner(owners, media.position) <= generation or media.at_s < spoken.end_s)
    )


def _add_transport(truth: CallTruth, session: ModelSession, caller: list[CallerTurn]) -> None:
    """Add the times of the last speech to the model and of the answer back, if the answer is the model's next reply."""
    offset = aligned(truth, session)
    for spoken, turn in zip(truth.spoken, caller, strict=True):
        if spoken.kind != "say" or turn.answered_ms is None:
            continue
        if offset is not None:
            turn.line_to_model_ms = _line_to_model_ms(truth, session, spoken.end_place, offset)
        reply = next((r for r in session.replies if r.first_audio_at_s and r.first_audio_at_s > spoken.end_s), None)
        if reply is not None and reply.first_audio_at_s is not None:
            arrived = next((m.at_s for m in truth.media if m.at_s >= reply.first_audio_at_s), None)
            if arrived is not None:
                turn.model_to_line_ms = _round(1000.0 * (arrived - reply.first_audio_at_s))


def aligned(truth: CallTruth, session: ModelSession) -> int | None:
    """The place in the left channel of the model's first sample, by correlation.

    None if the two signals differ (a muted caller, an upload with gaps).
    """
    step = session.audio_rate_hz // RATE_HZ
    if session.audio_rate_hz % RATE_HZ or not session.audio:
        return None
    sent = decode(truth.left).astype(np.float64)
    received = np.frombuffer(bytes(session.audio[: len(session.audio) // 2 * 2]), dtype="<i2")[::step].astype(
        np.float64
    )
    size = 1 << (len(sent) + len(received)).bit_length()
    product = np.fft.irfft(np.fft.rfft(sent, size) * np.conj(np.fft.rfft(received, size)), size)
    at = int(np.argmax(product))
    alike = product[at] / (np.linalg.norm(sent) * np.linalg.norm(received) + 1e-9)
    return (at if at < size // 2 else at - size) if alike > 0.8 else None


def _line_to_model_ms(truth: CallTruth, session: ModelSession, place: int, offset: int) -> float | None:
    """From the tick that sent the frame of this place to the arrival of the middle of the frame at the model."""
    frame = (place - 1) // 160
    sent_s = truth.began_s + (frame + 1) * 0.020
    wanted = 2 * (session.audio_rate_hz // RATE_HZ) * (frame * 160 + 80 - offset)
    ends = [end for _, end in session.audio_arrivals]
    index = bisect_left(ends, wanted)
    if wanted <= 0 or index >= len(ends):
        return None
    return _round(1000.0 * (session.audio_arrivals[index][0] - sent_s))


def samples_of(call: CallReport) -> Iterable[tuple[str, float]]:
    """Segment and milliseconds of everything that was measured in a call."""
    if call.record is not None:
        yield from call.record.segments.items()
        for turn in call.record.turns:
            yield from turn.segments.items()
        for tool in call.record.tool_calls:
            if tool.finished_ms is not None:
                yield "tool_call", tool.finished_ms - tool.requested_ms
        for barge in call.record.barge_ins:
            yield from barge.segments.items()
    for utterance in call.line.caller:
        if utterance.answered_ms is not None and utterance.kind == "say":
            yield "line_answer", utterance.answered_ms
        up, down = utterance.line_to_model_ms, utterance.model_to_line_ms
        if up is not None:
            yield "line_to_model", up
        if down is not None:
            yield "model_to_line", down
        if up is not None and down is not None:
            yield "added", up + down
    for barged in call.line.barge_ins:
        if barged.onset_to_clear_ms is not None:
            yield "line_bargein_clear", barged.onset_to_clear_ms
        if barged.onset_to_silence_ms is not None:
            yield "line_bargein_silence", barged.onset_to_silence_ms


def _percentiles(samples_ms: Sequence[float]) -> Percentiles:
    found = exact(samples_ms)
    return Percentiles(count=found.count, p50_ms=found.p50, p95_ms=found.p95, p99_ms=found.p99, max_ms=found.max)


# -- showing --------------------------------------------------------------------------------------------------


def show(report: Report, console: Console | None = None) -> None:
    """The report as tables: per call for a few calls, totals and verdicts for any number."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    for call in report.calls if len(report.calls) <= 3 else ():
        _show_call(call, console)
    show_totals(report, console)
    several = len(report.calls) > 1
    for call in report.calls:
        for verdict in call.verdicts:
            if verdict.ok and several:
                continue
            mark = Text(f"{verdict.mark} ", {"✓": "green", "✗": "bold red"}.get(verdict.mark, "dim"))
            console.print(mark + Text(f"{call.scenario} {call.call_sid}: " if several else "") + Text(verdict.words))
    if several:
        met = report.totals.calls - report.totals.failed
        console.print(Text(f"{met} of {report.totals.calls} calls met all expectations", "bold"))
    console.print()
    console.print(Text(report.note, "dim"))
    console.print()
    for name, path in report.paths.items():
        if name == "report" or not several:
            console.print(Text(f"{name:10} ", "dim") + Text(path), soft_wrap=True)


def _table(title: str, *columns: str, left: Sequence[str] = ()) -> Table:
    """Figures are right-aligned and never cut; the `left` columns hold text."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        if column in left:
            table.add_column(column, overflow="fold", ratio=1 if column == "text" else None)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _show_call(call: CallReport, console: Console) -> None:
    record, line = call.record, call.line
    head = f"{call.scenario or 'call'}: {line.duration_ms / 1000:.1f} s, ended by {call.end_reason or line.ended_by}"
    console.print()
    console.print(Text(head, "bold"))
    if record is not None:
        console.print()
        console.print(_turn_table(record, line))
        if line.barge_ins or record.barge_ins:
            console.print()
            console.print(_barge_in_table(record, line))
        if record.tool_calls:
            console.print()
            table = _table("Tools", "tool", "called at", "took", "outcome", left=("tool", "outcome"))
            for tool in record.tool_calls:
                took = None if tool.finished_ms is None else tool.finished_ms - tool.requested_ms
                table.add_row(tool.name, _s(tool.requested_ms), _int(took), tool.outcome)
            console.print(table)
    for fault in [*line.failed_steps, *line.violations, *call.model_violations, *(record.errors if record else ())]:
        console.print(Text(f"! {fault}", "red"))


def _turn_table(record: CallRecord, line: LineReport) -> Table:
    table = _table(
        "Turns (ms)",
        *("", "text", "answered", "turn gap", "model", "onset", "heard", "of", "gap"),
        left=("text",),
    )
    by_generation = {reply.generation: reply for reply in line.replies}
    caller = [turn for turn in line.caller if turn.kind == "say"]
    rows: list[tuple[float, tuple[str | Text, ...]]] = []
    for utterance in caller:
        rows.append(
            (
                utterance.onset_ms,
                ("", Text(f"caller: {utterance.text}", "cyan"), _int(utterance.answered_ms), *[""] * 6),
            )
        )
    for turn in record.turns:
        heard = by_generation.get(turn.generation)
        text = Text(f"agent: {_shorter(turn)}", "magenta")
        if turn.interrupted:
            text.append(" ✂", "bold red")
        at_ms = turn.reply_started_ms if turn.reply_started_ms is not None else 0.0
        segments = turn.segments
        rows.append(
            (
                at_ms,
                (
                    str(turn.number),
                    text,
                    "",
                    _int(segments.get("turn_gap")),
                    _int(segments.get("model_first_audio")),
                    _one(segments.get("output_onset_sent")),
                    _int(heard.heard_ms if heard else turn.heard_ms),
                    _int(turn.received_ms),
                    _int(heard.longest_gap_ms if heard else turn.longest_gap_ms),
                ),
            )
        )
    for _, row in sorted(rows, key=lambda pair: pair[0]):
        table.add_row(*row)
    return table


def _shorter(turn: TurnRecord) -> str:
    return (turn.heard_text if turn.interrupted else turn.reply_text) or f"({turn.kind})"


def _barge_in_table(record: CallRecord, line: LineReport) -> Table:
    table = _table(
        "Barge-ins (ms from the caller's first audible sample)",
        *("at", "decided", "sent", "received", "silent", "measured", "heard", "after", "verdict"),
        left=("verdict",),
    )
    for barge in record.barge_ins:
        true = min(
            (b for b in line.barge_ins if b.clear_ms is not None and abs(b.clear_ms - barge.decided_ms) < _SAME_MS),
            key=lambda b: abs((b.clear_ms or 0.0) - barge.decided_ms),
            default=None,
        )
        zero = true.onset_ms if true else barge.onset_ms
        onset = true is not None or "bargein_detect" in barge.segments
        table.add_row(
            _s(zero),
            _one(barge.decided_ms - zero if onset else None),
            _one(barge.clear_sent_ms - zero if onset and barge.clear_sent_ms is not None else None),
            _one(true.onset_to_clear_ms if true else None),
            _one(true.onset_to_silence_ms if true else None),
            _one(barge.segments.get("bargein_silence")),
            _int(barge.heard_ms),
            str(true.old_samples_after_clear if true else record.samples_after_clear),
            barge.verdict.replace("_", " "),
        )
    return table


def show_totals(report: Report, console: Console) -> None:
    """The percentiles of all segments over all calls."""
    if not report.totals.segments:
        return
    wide = console.width >= 140
    columns = ["segment", "n", "P50", "P95", "P99", "max", *(["from -> to"] if wide else [])]
    title = f"Segments over {report.totals.calls} call{'s' if report.totals.calls != 1 else ''} (ms)"
    table = _table(title, *columns, left=("segment", "from -> to"))
    for name, found in report.totals.segments.items():
        segment = BY_NAME.get(name)
        span = f"{segment.start} -> {segment.end}" if segment else LINE_SEGMENTS.get(name, "")
        figures = (found.p50_ms, found.p95_ms, found.p99_ms, found.max_ms)
        table.add_row(
            Text(name, "bold" if segment is not None and segment.headline else ""),
            str(found.count),
            *(_one(ms) for ms in figures),
            *([Text(span, "dim")] if wide else []),
        )
    console.print()
    console.print(table)
    console.print()


def _int(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


def _one(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.1f}"


def _s(ms: float) -> str:
    return f"{ms / 1000:.2f} s"

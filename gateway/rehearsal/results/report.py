"""Reports of rehearsed calls, as they stand in JSON: `measured` makes them, `tables` shows them.

All `_ms` times of a call count from its first stream's `start`, the axis of the gateway's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from offhook.gateway import __version__
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.results.runs import ScenarioRuns
from offhook.gateway.rehearsal.results.sides import ModelSession
from offhook.gateway.rehearsal.results.thinking import ThinkingReport
from offhook.gateway.store.record import CallRecord
from offhook.metrics import canary
from offhook.metrics.quantiles import exact
from offhook.metrics.segments import BY_NAME, OUTSIDE

__all__ = [
    "LINE_SEGMENTS",
    "SAME_MS",
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
    "report_of",
    "samples_of",
    "write_report",
]

SAME_MS = 300.0  # the gateway's decision and its clear at the carrier are closer than this

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


def write_report(report: Report, path: Path) -> None:
    """`report` as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")

"""What the page is told, made from records."""

from __future__ import annotations

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TurnRecord
from offhook.gateway.web.console.views import (
    WINDOWS,
    LiveCall,
    active_call,
    bars_of,
    ended_call,
    last_turns,
    mask,
    points_of,
    segment_view,
)
from offhook.metrics.catalogue import Metrics
from offhook.metrics.segments import BARGEIN_STOP, TURN_GAP

TURN = TurnRecord(
    number=2,
    generation=3,
    caller_ended_ms=10_000.0,
    reply_started_ms=10_910.0,
    segments={
        "model_first_event": 400.0,
        "model_first_audio": 880.0,
        "output_onset_sent": 20.0,
        "output_onset_played": 930.0,
        "turn_gap": 930.0,
    },
)


def test_bars_join_from_caller_speech_to_agent_audio() -> None:
    tool = ToolRecord(call_id="1", name="find", requested_ms=10_410.0, finished_ms=10_700.0, outcome="done")
    late = ToolRecord(call_id="2", name="late", requested_ms=12_000.0)
    early = ToolRecord(call_id="3", name="early", requested_ms=9_000.0)
    bars = bars_of(TURN, [tool, late, early])
    chain = [bar for bar in bars if bar.kind != "tool"]
    assert [bar.kind for bar in chain] == ["model", "voice", "gateway", "carrier"]
    assert chain[0].from_ms == 0
    assert all(a.to_ms == b.from_ms for a, b in pairwise(chain))
    assert chain[-1].to_ms == TURN.segments["turn_gap"]
    assert [(bar.from_ms, bar.to_ms) for bar in bars if bar.kind == "tool"] == [(410.0, 700.0)]


def test_a_reply_to_nobody_has_no_bars() -> None:
    assert bars_of(TurnRecord(number=1, generation=1, segments={"output_onset_sent": 5.0})) == []


def test_last_turns_are_the_newest_answered_ones() -> None:
    def record(sid: str, started_at: str, turns: int) -> CallRecord:
        made = [TurnRecord(number=1, generation=1)]
        for i in range(turns):
            made.append(TurnRecord(number=i + 2, generation=i + 2, caller_ended_ms=1e4 * i, segments=TURN.segments))
        return CallRecord(call_sid=sid, started_at=started_at, turns=made)

    early = record("early", "2026-03-01T10:00:00+00:00", 9)
    late = record("late", "2026-03-01T10:00:45+00:00", 2)
    found = last_turns([early, late, CallRecord(call_sid="empty")], 5)
    assert [(t.call_sid, t.number) for t in found] == [
        ("early", 10),
        ("early", 9),
        ("early", 8),
        ("late", 3),
        ("early", 7),
    ]


def test_a_call_in_a_line() -> None:
    running = ToolRecord(call_id="1", name="find", requested_ms=1.0)
    record = CallRecord(call_sid="CA1", agent="desk", caller="+15551234567", turns=[TURN], tool_calls=[running])
    line = active_call(LiveCall("thinking", 12_345.6, record))
    assert (line.caller, line.phase, line.turns, line.last_gap_ms, line.tool) == (
        "+15•••67",
        "thinking",
        1,
        930.0,
        "find",
    )


@pytest.mark.parametrize(("side", "fault"), [("caller", False), ("agent", False), ("gateway", True), ("model", True)])
def test_whose_fault_an_end_was(side: str, fault: bool) -> None:
    barge_ins = [
        BargeInRecord(generation=1, onset_ms=1, decided_ms=2, verdict=verdict)
        for verdict in ("dismissed", "confirmed_by_model", "confirmed_locally", "suspected")
    ]
    line = ended_call(CallRecord(call_sid="CA1", end_side=side, end_reason="x", barge_ins=barge_ins))
    assert line.fault is fault
    assert line.barge_ins == 2


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+15551234567", "+15•••67"),
        ("+4930123", "+49•••23"),
        ("anonymous", "ano•••us"),
        ("12345", "•••45"),
        ("911", "911"),
        ("", ""),
        ("sip:jane.doe@example.com", "sip:•••@example.com"),
        ("client:jane", "client:•••"),
    ],
)
def test_mask(number: str, shown: str) -> None:
    assert mask(number) == shown


def test_percentile_is_withheld_below_its_sample_count() -> None:
    metrics = Metrics(CollectorRegistry(), LABELS)
    for count, p95, p99 in [(19, False, False), (20, True, False), (299, True, False), (300, True, True)]:
        while (view := segment_view(metrics.counts(BARGEIN_STOP, 3600), BARGEIN_STOP)).count < count:
            metrics.observe("bargein_stop", 0.1 if view.count % 10 else 0.5)
        assert view.p50_ms is not None
        assert (view.p95_ms is not None) is p95, count
        assert (view.p99_ms is not None) is p99, count
    assert view.within == pytest.approx(0.9, abs=0.01)
    medians, slowest = points_of(metrics.history(BARGEIN_STOP, *WINDOWS["1h"]))
    assert len(medians) == len(slowest) == 60
    assert [m for m in medians if m is not None][-1] == pytest.approx(100, rel=0.01)
    assert max(s for s in slowest if s is not None) == 500
    assert segment_view(metrics.counts(TURN_GAP, 60), TURN_GAP).count == 0

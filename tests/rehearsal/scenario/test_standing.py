"""What is expected of every call: both sides agree, and nothing is left behind."""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.results.report import CallReport, LineBargeIn, LineReply, LineReport, ModelReport
from offhook.gateway.rehearsal.scenario.standing import released, standing
from offhook.gateway.store.record import BargeInRecord, CallRecord, TurnRecord


def a_call(*, model_ms: float = 1_000.0, level_db: float = 0.0, caller_ms: float = 4_000.0, **changed) -> CallReport:
    """A call of one reply that was heard for a second; the caller sent 200 frames."""
    reply = LineReply(
        generation=1, started_ms=300.0, ended_ms=1_300.0, sent_ms=1_000.0, heard_ms=1_000.0, unheard_tail_ms=0.0,
        longest_gap_ms=0.0, model_ms=model_ms, level_db=level_db,
    )  # fmt: skip
    line = LineReport(
        ended_by="caller", duration_ms=4_000.0, caller=[], replies=[reply], barge_ins=[], announced=[],
        failed_steps=[], violations=[], unplayed_ms=0.0, frames_sent=200, frames_dropped=0, latest_tick_ms=0.0,
    )  # fmt: skip
    record = CallRecord(call_sid="CA1", streams=["MZ1"], turns=[TurnRecord(number=1, generation=1)])
    if "verdict" in changed:
        segments = {"bargein_silence": changed.get("silence_ms", 100.0)}
        verdict = BargeInRecord(
            generation=1, onset_ms=500.0, decided_ms=580.0, stopped_ms=600.0, verdict=changed["verdict"],
            segments=segments,
        )  # fmt: skip
        record.barge_ins.append(verdict)
        seen = LineBargeIn(
            text="Wait", kind="say", generation=1, onset_ms=500.0, silent_ms=600.0, onset_to_silence_ms=100.0
        )
        line.barge_ins.append(seen)
    model = ModelReport(sessions=1, caller_audio_ms=caller_ms, caller_level_db=changed.get("caller_db", 0.1))
    counted = {'frames_dropped_total{reason="model_down"}': changed.get("dropped", 0.0)}
    return CallReport(
        call_sid="CA1", scenario="", end_reason="", record=record, line=line, model=model, counted=counted
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"model_ms": 1_080.0}, ""),
        ({"model_ms": 1_400.0}, "of reply 1 the caller heard 400 ms less than the model's 1400 ms"),
        ({"model_ms": 500.0}, "of reply 1 the caller heard 500 ms more than the model's 500 ms"),
        ({"model_ms": 1_400.0, "verdict": "confirmed_by_model"}, ""),
        ({"model_ms": 1_400.0, "verdict": "dismissed"}, "of reply 1 the caller heard 400 ms less"),
        ({"model_ms": 700.0, "verdict": "dismissed"}, ""),  # played again from the last mark
        ({"level_db": 12.0}, "reply 1 was heard +12.0 dB off the model's level"),
        ({"caller_ms": 3_300.0}, "700 of 4000 ms of the caller's audio did not reach the model"),
        ({"caller_ms": 3_300.0, "dropped": 35.0}, ""),
        ({"caller_db": -20.0}, "the model heard the caller -20.0 dB off the level that was sent"),
        ({"verdict": "confirmed_by_model", "silence_ms": 500.0}, "bargein_silence is 500 ms in the record, 100 ms on"),
    ],
)
def test_sides_that_disagree_fail_every_scenario(changed, words):
    failed = [verdict.words for verdict in standing(a_call(**changed)) if verdict.failed]
    assert len(failed) == bool(words)
    assert all(words in one for one in failed)


def test_what_is_left_behind_has_a_name():
    assert released({}, 0).ok
    assert released({"calls_active": 1.0}, 2).words == (
        "calls_active is 1 although no call is left; 2 sessions of the model are open although no call is left"
    )

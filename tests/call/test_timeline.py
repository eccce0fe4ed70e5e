"""Which event starts and which ends each segment of a barge-in."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.call import timeline as module
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.labels import LABELS
from offhook.gateway.store.record import BargeInRecord, CallRecord
from offhook.metrics.catalogue import Metrics

PLAYED_S = 101.0  # the reply's first audio is sent


class Spoken:
    """A call whose agent is speaking."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.timeline = Timeline(CallRecord(call_sid="CA1"), Metrics(self.registry, LABELS))
        self.timeline.observe(e.StreamStarted(100.0), [])
        self.timeline.observe(e.ReplyAudio(PLAYED_S, 1, 8_000, 0), [c.Play(1, 0, 8_000)])

    def stop(
        self, at_s: float, onset_s: float, verdict: c.Verdict = c.Verdict.SUSPECTED, epoch: int = 1
    ) -> BargeInRecord:
        """A barge-in is decided at `at_s`: the clear is sent."""
        self.timeline.observe(e.CallerSpeechStarted(at_s, onset_s), [c.Clear(epoch), c.BargeIn(1, onset_s, verdict)])
        return self.timeline.record.barge_ins[-1]

    def acknowledge(self, at_s: float, epoch: int = 1) -> None:
        self.timeline.observe(e.ClearAcknowledged(at_s, epoch), [])

    def incomplete(self, segment: str, reason: str) -> float | None:
        labels = {"segment": segment, "reason": reason}
        return self.registry.get_sample_value("offhook_segment_incomplete_total", labels)

    def count(self, segment: str) -> float | None:
        return self.registry.get_sample_value(f"offhook_{segment}_seconds_count")


def test_silence_is_detection_and_stop() -> None:
    call = Spoken()
    barge_in = call.stop(103.080, onset_s=103.0)
    call.acknowledge(103.140)
    assert barge_in.segments == pytest.approx({"bargein_detect": 80, "bargein_stop": 60, "bargein_silence": 140})
    assert (barge_in.onset_ms, barge_in.decided_ms, barge_in.stopped_ms) == (3_000, 3_080, 3_140)
    assert [call.count(name) for name in ("bargein_detect", "bargein_stop", "bargein_silence")] == [1, 1, 1]


@pytest.mark.parametrize("verdict", [c.Verdict.CONFIRMED_BY_MODEL, c.Verdict.CONFIRMED_LOCALLY])  # the model; a key
def test_no_onset_leaves_silence_absent(verdict: c.Verdict) -> None:
    call = Spoken()
    barge_in = call.stop(103.0, onset_s=103.0, verdict=verdict)
    call.acknowledge(103.05)
    assert barge_in.segments == pytest.approx({"bargein_stop": 50})
    assert call.count("bargein_silence") == 0
    assert call.incomplete("bargein_silence", "no_mark") == 0


def test_model_confirms_a_voice_that_was_detected() -> None:
    """Mode `model`: the detector dates the onset, the model decides."""
    call = Spoken()
    barge_in = call.stop(103.4, onset_s=103.0, verdict=c.Verdict.CONFIRMED_BY_MODEL)
    call.acknowledge(103.45)
    assert barge_in.segments == pytest.approx({"bargein_detect": 400, "bargein_stop": 50, "bargein_silence": 450})


def test_caller_before_the_reply_counts_from_its_audio() -> None:
    call = Spoken()
    barge_in = call.stop(101.6, onset_s=98.0)
    call.acknowledge(101.7)
    assert barge_in.segments["bargein_silence"] == pytest.approx((101.7 - PLAYED_S) * 1000)
    assert barge_in.onset_ms == -2_000


def test_verdict_later_keeps_the_first_decision() -> None:
    call = Spoken()
    call.stop(103.080, onset_s=103.0)
    call.acknowledge(103.140)
    confirmed = c.BargeIn(1, 103.0, c.Verdict.CONFIRMED_LOCALLY)
    call.timeline.observe(e.BargeInLasted(103.7), [confirmed])
    (barge_in,) = call.timeline.record.barge_ins
    assert barge_in.verdict == "confirmed_locally"
    assert barge_in.segments["bargein_silence"] == pytest.approx(140)
    assert call.count("bargein_silence") == 1


@pytest.mark.parametrize(
    ("event", "reason"), [(e.ClearTimeout(105.0), "no_mark"), (e.LineAway(103.1), "no_mark")], ids=["timeout", "away"]
)
def test_unacknowledged_clear_is_counted(event: e.Event, reason: str) -> None:
    call = Spoken()
    barge_in = call.stop(103.080, onset_s=103.0)
    call.timeline.observe(event, [])
    call.acknowledge(106.0)
    assert set(barge_in.segments) == {"bargein_detect"}
    assert barge_in.stopped_ms is None
    assert call.incomplete("bargein_silence", reason) == 1


def test_call_end_counts_the_open_silence() -> None:
    call = Spoken()
    call.stop(103.080, onset_s=103.0)
    call.timeline.ended(104.0)
    assert call.incomplete("bargein_silence", "call_ended") == 1


def test_late_acknowledgement_of_an_older_clear() -> None:
    """It says nothing of the newer one."""
    call = Spoken()
    call.stop(103.080, onset_s=103.0, verdict=c.Verdict.CONFIRMED_LOCALLY)
    newer = call.stop(104.080, onset_s=104.0, epoch=2)
    call.acknowledge(104.090, epoch=1)
    assert "bargein_silence" not in newer.segments
    call.acknowledge(104.180, epoch=2)
    assert newer.segments["bargein_silence"] == pytest.approx(180)
    assert call.incomplete("bargein_silence", "superseded") == 1


def test_cancelled_reply_is_no_barge_in() -> None:
    call = Spoken()
    call.timeline.observe(e.CancelReply(103.0, 1), [c.Clear(1)])
    call.acknowledge(103.1)
    assert call.timeline.record.barge_ins == []
    assert call.count("bargein_silence") == 0


def test_live_record_has_the_audio_received_so_far() -> None:
    call = Spoken()
    live = call.timeline.so_far(102.0, audio_in_ms=2_000.0)
    assert live.audio_in_ms == 2_000
    assert live.turns[0].received_ms == 1_000


def test_a_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 5)
    monkeypatch.setattr(module, "MESSAGES_MAX", 5)
    monkeypatch.setattr(module, "WORDS_MAX", 100)
    call = Spoken()
    for n in range(2, 40):
        call.timeline.caller_text("And then? ", False, 100.0 + n)
        call.timeline.observe(e.ReplyAudio(100.0 + n, n, 8_000, 0), [c.Play(n, 0, 8_000)])
        call.timeline.reply_text(n, "This. \x1b")
        call.timeline.observe(
            e.CallerSpeechStarted(100.0 + n, 100.0 + n), [c.BargeIn(n, 100.0 + n, c.Verdict.SUSPECTED)]
        )
        call.timeline.tool_started(f"t{n}", "find", {}, 100.0 + n)
        call.timeline.observe(e.ReplyAudio(100.0 + n, n, 0, None), [c.AnswerTool(f"t{n}", e.Outcome.DONE, None)])
        call.timeline.message("desk", "Call back.", 100.0 + n)
    call.timeline.ended(200.0)
    record = call.timeline.record
    assert [len(x) for x in (record.turns, record.barge_ins, record.tool_calls, record.messages)] == [5] * 4
    assert record.turns[-1].generation == 39  # the newest stay
    said = "".join(line.text for line in record.transcript)
    assert len(said) <= 200
    assert "\x1b" not in str(record)
    assert len([error for error in record.errors if "not in the record" in error]) == 5  # each said once
    assert call.registry.get_sample_value("offhook_tool_calls_total", {"outcome": "done"}) == 38  # metrics have all

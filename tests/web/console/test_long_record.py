"""A call of an hour, watched: what is told each second stays small, the record in the end is whole."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from offhook.gateway.call.timeline import SO_FAR_TURNS, Timeline
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.labels import LABELS
from offhook.gateway.store.record import CallRecord
from offhook.metrics.catalogue import Metrics


def test_live_view_is_bounded_and_the_record_whole() -> None:
    timeline = Timeline(CallRecord(call_sid="CA1"), Metrics(CollectorRegistry(), LABELS))
    now_s, turns = 1_000.0, 100
    timeline.event(e.StreamStarted(now_s))
    for generation in range(1, turns + 1):
        timeline.event(e.CallerSpeechStarted(now_s + 1, now_s + 1))
        timeline.caller_text(f"Question {generation}.", True, now_s + 1.5)
        timeline.event(e.CallerSpeechEnded(now_s + 2, now_s + 2))
        timeline.event(e.ReplyAudio(now_s + 3, generation, 8_000, 0, False))
        timeline.reply_text(generation, f"One two three four {generation}.")
        timeline.command(c.Play(generation, 0, 8_000), now_s + 3)
        if generation < turns:
            timeline.command(c.ReplyEnded(generation, received=8_000, heard=4_000, interrupted=True), now_s + 4)
        now_s += 10

    live = timeline.so_far(now_s)
    assert len(live.turns) == SO_FAR_TURNS
    assert len(live.transcript) == 2 * SO_FAR_TURNS
    assert live.transcript[-2].text == "Question 100."
    assert live.transcript[-1].heard_text is None  # still being heard
    assert live.transcript[-3].heard_text == "One two"
    assert live.duration_ms == 1000.0 * 10 * turns
    assert timeline.record.transcript == []  # what is shown is a copy

    timeline.ended(now_s)
    assert len(timeline.record.turns) == turns
    assert len(timeline.record.transcript) == 2 * turns

"""A call of sixty-five minutes, the service's times 150 times as short: through every limit there is.

Connections that end after ten minutes, the fifteen minutes of audio without compression, the close at fifty-eight:
what the caller hears is one conversation. Speech is not compressed, so the service's notice is stretched: five
minutes in place of one, which leaves a few seconds to find a quiet moment in.
"""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import pytest

from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, Step, WaitForAgent
from tests.rig.calls import Outcome, Plan, place_calls

SCALE = 150
LASTS_S = 65 * 60 / SCALE
EXCHANGES = 10
CALLS = 4
ANSWERS = [f"Answer number {n}." for n in range(1, EXCHANGES + 1)]


def talk() -> tuple[Step, ...]:
    steps: list[Step] = [WaitForAgent("end")]
    for _ in ANSWERS:
        steps += [Pause(300), Say("And then?"), WaitForAgent("end")]
    return (*steps, HangUp())


SCRIPT = Script(
    (
        Reply("text", (Speak("Good morning.", length_ms=700),)),
        *(Reply("caller", (Speak(text, length_ms=600, delay_ms=200),)) for text in ANSWERS),
    ),
    lifetime_s=600 / SCALE,
    go_away_s=400 / SCALE,
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    with mock.patch("offhook.gateway.conversation.handlers.link.GO_AWAY_MARGIN_S", 0.2):
        return list(place_calls({f"call {n}": Plan(talk(), SCRIPT) for n in range(CALLS)}).values())


def test_call_has_its_length_and_crosses_every_limit(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert not [step.failed for step in outcome.truth.steps if step.failed]
        assert outcome.record.end_reason == "caller_hung_up"
        assert outcome.record.duration_ms / 1000 * SCALE / 60 >= 60
        assert len(outcome.sessions) >= 6
        assert [s.closed_by for s in outcome.sessions] == ["client"] * len(outcome.sessions), "never the service"


def test_no_agent_speech_is_lost_and_it_greets_once(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        turns = outcome.record.turns
        assert [t.reply_text for t in turns] == ["Good morning.", *ANSWERS]
        assert all(t.heard_ms == t.received_ms >= 600 for t in turns)
        assert outcome.record.errors == []
        assert sum(len(s.texts) for s in outcome.sessions) == 1, "asked for the greeting, and for nothing else"


def test_session_changes_are_short_and_lose_no_audio(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        gaps_ms = [(new.ready_at_s - old.closed_at_s) * 1000 for old, new in pairwise(outcome.sessions)]
        print(
            f"{outcome.record.duration_ms * SCALE / 60_000:.0f} minutes over {len(outcome.sessions)} connections; "
            f"gaps {', '.join(f'{gap:.0f}' for gap in gaps_ms)} ms"
        )
        assert max(gaps_ms) <= 300
        assert outcome.record.segments["model_reconnect_gap"] <= 300
        kept_ms = sum(s.audio_bytes for s in outcome.sessions) / 32
        assert outcome.record.audio_in_ms - kept_ms < 200
        assert [new.resumed_from for new in outcome.sessions[1:]] == [old.index for old in outcome.sessions[:-1]]

"""The main job: a caller talks with an agent over real sockets. What was heard, measured."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, WaitForAgent, WaitForEnd
from offhook.media import mulaw
from offhook.media.resample import resample
from offhook.media.wav import read_wav
from tests.calls.lines import GOODBYE, GREETING, HELLO, LONG, SATURDAY, WAIT, YES
from tests.media.measure import delay_samples, largest_step
from tests.needs import require
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "a call": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), Say(YES), WaitForEnd(30_000)),
        Script((GREETING, Reply("caller", (SATURDAY,)), Reply("caller", (GOODBYE, CallTool("end_call"))))),
        agent="greeting: {text: Greet.}\ntools: [{builtin: end_call}]",
    ),
    "interrupted": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 2_000), WaitForAgent("end"), Pause(200), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (LONG,), heard=("Hello,", " I would like a table.")),
                Reply("caller", (SATURDAY,)),
            )
        ),
    ),
    "interrupted while the tool works": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_500), WaitForAgent("end"), HangUp()),
        Script((GREETING, Reply("caller", (LONG, CallTool("slow", {}))), Reply("caller", (SATURDAY,)))),
        agent="greeting: {text: Greet.}\ntools: [{function: 'tests.calls.slow_tools:slow', name: slow}]",
    ),
    "greeting from a file": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), HangUp()),
        Script((Reply("caller", (SATURDAY,)),), setup_delay_ms=2_500),
        agent=f"greeting: {{sound: {sound('agent_thank').name}}}",
    ),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS)


LINES = ("agent_thank_you", "saturday", "it_is_booked")


def heard_line(outcome: Outcome, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The line as recorded, at 8 kHz, and the same stretch of what the caller heard."""
    samples, rate_hz = read_wav(sound(name))
    line = resample(samples, rate_hz, 8000)
    truth = outcome.truth
    begins = max(0, int((truth.agent[LINES.index(name)].start_s - truth.began_s) * 8000) - 4000)
    heard = mulaw.decode(truth.right)[begins : begins + len(line) + 8000]
    lag, sure = delay_samples(line, heard)
    assert sure > 0.95
    return line, heard[lag : lag + len(line)]


@pytest.mark.parametrize("name", LINES)
def test_the_agent_sounds_as_recorded(outcomes: dict[str, Outcome], name: str) -> None:
    require("pesq")
    from pesq import pesq

    line, heard = heard_line(outcomes["a call"], name)
    score = pesq(8000, line, heard, "nb")
    print(f"PESQ narrow-band, {name}: {score:.2f}")
    assert score >= 3.8


@pytest.mark.parametrize("name", LINES)
def test_nothing_clicks(outcomes: dict[str, Outcome], name: str) -> None:
    line, heard = heard_line(outcomes["a call"], name)
    coded = mulaw.decode(mulaw.encode(line))  # mu-law itself makes steps
    assert largest_step(heard) <= 1.1 * largest_step(coded)


def test_every_turn_is_answered_and_no_reply_has_a_gap(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        for turn in outcome.record.turns:
            # The model shares the carrier's process: what that was late by is nobody's gap.
            assert turn.longest_gap_ms == 0
    turns = outcomes["a call"].record.turns
    assert [t.reply_text[:5] for t in turns] == ["Thank", "Satur", "It is"]
    assert all(t.heard_ms == t.received_ms > 0 for t in turns)
    for turn in turns[1:]:
        assert turn.segments.keys() >= {"turn_gap", "model_first_audio", "output_onset_sent", "output_onset_played"}


@pytest.mark.parametrize("name", ["interrupted", "interrupted while the tool works"])
def test_an_interruption_stops_the_agent_at_once(outcomes: dict[str, Outcome], name: str) -> None:
    record, truth = outcomes[name].record, outcomes[name].truth
    (spoken,) = [s for s in truth.spoken if s.over_agent]
    clear = truth.clears[0]
    onset_to_clear_ms = (clear.at_s - spoken.onset_s) * 1000
    print(f"caller's onset -> clear: {onset_to_clear_ms:.0f} ms")
    assert 0 < onset_to_clear_ms <= 200
    assert clear.discarded > 8000
    assert record.samples_after_clear == 0
    cut = record.turns[1]
    assert cut.interrupted
    # The ledger's word against the carrier's: what was truly played of the second reply.
    played_ms = sum(p.samples for p in truth.played if p.position < clear.position) / 8 - record.turns[0].heard_ms
    assert abs(cut.heard_ms - played_ms) <= 25
    (barge_in,) = record.barge_ins
    assert barge_in.verdict in ("confirmed_by_model", "confirmed_locally")
    assert barge_in.stopped_ms is not None
    assert record.turns[2].heard_ms == record.turns[2].received_ms


def test_the_model_learns_what_was_heard(outcomes: dict[str, Outcome]) -> None:
    (session,) = outcomes["interrupted"].sessions
    notes = [t.text for t in session.texts if t.how == "content"]
    assert len(notes) == 1
    assert notes[0].startswith('The caller interrupted you and heard only: "Of course. Let me')
    assert "nearly full" not in notes[0]


def test_an_interrupted_tool_is_cancelled_for_real(outcomes: dict[str, Outcome]) -> None:
    from tests.calls import slow_tools

    record = outcomes["interrupted while the tool works"].record
    assert [(t.name, t.outcome) for t in record.tool_calls] == [("slow", "cancelled")]
    assert set(slow_tools.OUTCOMES) == {"cancelled"}
    # The model is not left waiting (it would get no newer resumption handle), and does not speak of it.
    (session,) = outcomes["interrupted while the tool works"].sessions
    answers = [(a.response["status"], a.scheduling, a.call) for a in session.tool_answers]
    assert answers == [("cancelled", "SILENT", "open")]
    assert session.tool_answers[0].at_s < session.closed_at_s - 0.1
    assert session.replies[-1].trigger == "caller"


def test_greeting_from_a_file_precedes_the_model_setup(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["greeting from a file"].record
    assert record.segments["model_setup"] > 2_000
    assert record.segments["answer_to_greeting"] < record.segments["model_setup"] - 1_000
    assert record.turns[0].kind == "sound"
    assert record.turns[1].heard_ms > 0


def test_neither_side_broke_the_protocol(outcomes: dict[str, Outcome]) -> None:
    assert {n: o.truth.violations for n, o in outcomes.items() if o.truth.violations} == {}
    assert {n: o.violations for n, o in outcomes.items() if o.violations} == {}


def test_transcript_is_in_the_order_of_the_call(outcomes: dict[str, Outcome]) -> None:
    lines = outcomes["interrupted"].record.transcript
    assert [line.who for line in lines] == ["agent", "caller", "agent", "agent"]
    assert [line.at_ms for line in lines] == sorted(line.at_ms for line in lines)
    assert lines[1].text == "Hello, I would like a table."
    cut = lines[2]
    assert cut.heard_text is not None
    assert cut.text.startswith(cut.heard_text)
    assert 0 < len(cut.heard_text) < len(cut.text)
    assert lines[3].heard_text == lines[3].text

"""Interruptions over real sockets: at every place where one can come, and what must not be taken for one."""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script, SendInterrupted, Wait
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Cough, Digit, HangUp, Pause, Say, SayOver, WaitForAgent, WaitForEnd
from tests.calls.lines import GREETING, HELLO, LONG, SATURDAY, WAIT, YES
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

UH_HUH = str(sound("uh_huh"))
LONG_LINE, SATURDAY_LINE = sound("of_course"), sound("saturday")
AGAIN = (WaitForAgent("end"), HangUp())


def deaf(*replies: Reply) -> Script:
    """A model that takes nothing of the caller for speech: the gateway is alone with its verdict."""
    return Script(replies, hears_above_dbfs=0.0)


# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "at the first word": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 100), *AGAIN),
        Script((GREETING, Reply("caller", (LONG,)), Reply("caller", (SATURDAY,)))),
    ),
    "in the last 100 ms": Plan((SayOver(WAIT, 3_150), *AGAIN), Script((GREETING, Reply("caller", (SATURDAY,))))),
    "after the model finished sending": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 3_000), *AGAIN),
        Script((GREETING, Reply("caller", (Speak("Of course.", LONG_LINE, speed=200),)), Reply("caller", (SATURDAY,)))),
    ),
    "twice within a second": Plan(
        (SayOver(UH_HUH, 800), Pause(700), Say(UH_HUH), WaitForAgent("end"), HangUp()),
        deaf(Reply("text", (Speak("Of course.", LONG_LINE),))),
    ),
    "a cough": Plan((Cough(1_000), WaitForAgent("end"), HangUp()), deaf(Reply("text", (LONG,)))),
    "an uh-huh": Plan((SayOver(UH_HUH, 1_500), WaitForAgent("end"), HangUp()), deaf(Reply("text", (LONG,)))),
    "a key": Plan(
        (WaitForAgent("start"), Pause(1_000), Digit("5"), Pause(1_500), HangUp()),
        deaf(Reply("text", (LONG,))),
        agent="greeting: {text: Greet.}\nbarge_in: {dtmf: true}",
    ),
    "a key without dtmf": Plan(
        (WaitForAgent("start"), Pause(500), Digit("5"), WaitForAgent("end"), HangUp()), deaf(Reply("text", (SATURDAY,)))
    ),
    "its own echo": Plan(
        (WaitForAgent("end"), HangUp()),
        deaf(Reply("text", (LONG,))),
        carrier=Carrier(echo_delay_ms=180, echo_gain_db=-15),
    ),
    "its own echo, 200 ms at once": Plan(
        (WaitForAgent("end"), HangUp()),
        deaf(Reply("text", (LONG,))),
        carrier=Carrier(echo_delay_ms=180, echo_gain_db=-18, bunch_frames=10),
    ),
    "its own echo, up to 300 ms late": Plan(
        (WaitForAgent("end"), HangUp()),
        deaf(Reply("text", (LONG,))),
        carrier=Carrier(echo_delay_ms=180, echo_gain_db=-18, jitter_ms=300),
    ),
    "after the tool was done": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_500), *AGAIN),
        Script((GREETING, Reply("caller", (LONG, CallTool("quick"))), Reply("caller", (SATURDAY,)))),
        agent="greeting: {text: Greet.}\n"
        "tools: [{function: 'tests.calls.slow_tools:quick', name: quick, announce: silent}]",
    ),
    "both start together": Plan((Pause(350), Say(HELLO), *AGAIN), Script((GREETING, Reply("caller", (SATURDAY,))))),
    "the model alone hears something": Plan(
        (WaitForAgent("start"), Pause(2_500), Say(HELLO), *AGAIN),
        deaf(Reply("text", (Speak("Of course.", LONG_LINE), Wait(800), SendInterrupted()))),
    ),
    "the detector alone hears somebody": Plan(
        (SayOver(WAIT, 1_500), Pause(800), HangUp()), deaf(Reply("text", (LONG,)))
    ),
    "late audio": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_500), *AGAIN),
        Script(
            (
                GREETING,
                Reply("caller", (Speak("Of course.", LONG_LINE, speed=1.5, late_chunks=4),)),
                Reply("caller", (SATURDAY,)),
            )
        ),
    ),
    "a caller who never speaks": Plan(
        (WaitForEnd(30_000),),
        Script(
            (
                Reply("text:Greet", (Speak("Saturday.", SATURDAY_LINE),)),
                Reply("text:silent. Ask", (Speak("Hello?", sound("agent_thank_you")),)),
                Reply("text:goodbye", (Speak("Goodbye.", sound("it_is_booked")),)),
            )
        ),
        agent="greeting: {text: Greet.}\nidle: {prompt_after_s: 1, goodbye_after_s: 1.5}",
    ),
    "a caller who never stops": Plan(
        (WaitForAgent("end"), Say(HELLO), Say(WAIT), Say(YES), Say(HELLO), HangUp()),
        Script((GREETING,), default=Reply("caller", (LONG,))),
    ),
    "mode off": Plan(
        (SayOver(WAIT, 1_000), WaitForAgent("end"), HangUp()),
        Script((Reply("text", (LONG,)),)),
        agent="greeting: {text: Greet.}\nbarge_in: {mode: off}",
    ),
    "mode stop": Plan(
        (SayOver(UH_HUH, 1_000), Pause(800), HangUp()),
        deaf(Reply("text", (LONG,))),
        agent="greeting: {text: Greet.}\nbarge_in: {mode: stop}",
    ),
    "mode model": Plan(
        (SayOver(WAIT, 1_000), *AGAIN),
        Script((Reply("text", (LONG,)), Reply("caller", (SATURDAY,)))),
        agent="greeting: {text: Greet.}\nbarge_in: {mode: model}",
    ),
    "local turns": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_500), *AGAIN),
        Script((GREETING, Reply("caller", (LONG,)), Reply("caller", (SATURDAY,)))),
        agent="greeting: {text: Greet.}\nturn_detection: {mode: local, end_silence_ms: 600}",
    ),
    "a protected greeting": Plan(
        (SayOver(WAIT, 800), WaitForAgent("end"), HangUp()),
        Script((GREETING,)),
        agent="greeting: {text: Greet., protected: true}",
    ),
}

STOPPED = ["at the first word", "after the model finished sending", "late audio", "local turns"]
PLAYED_ON = ["twice within a second", "a cough", "an uh-huh"]
UNTOUCHED = [
    "a key without dtmf",
    "its own echo",
    "its own echo, 200 ms at once",
    "its own echo, up to 300 ms late",
    "mode off",
    "a protected greeting",
]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS)


def whole(outcome: Outcome, turn: int) -> bool:
    record = outcome.record.turns[turn]
    return record.heard_ms == record.received_ms > 0 and not record.interrupted


@pytest.mark.parametrize("name", STOPPED)
def test_the_old_reply_stops_and_the_new_one_is_heard(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    cut, last = outcome.record.turns[1], outcome.record.turns[-1]
    assert cut.interrupted
    assert cut.heard_ms < 4_000
    assert last.heard_ms == last.received_ms == 6140
    (barge_in,) = outcome.record.barge_ins
    assert barge_in.verdict.startswith("confirmed")
    onset_s = next(s.onset_s for s in outcome.truth.spoken if s.over_agent)
    assert (outcome.truth.clears[0].at_s - onset_s) * 1000 <= 200


@pytest.mark.parametrize("name", list(PLANS))
def test_nothing_old_follows_a_clear(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].record.samples_after_clear == 0


@pytest.mark.parametrize("name", PLAYED_ON)
def test_what_is_no_interruption_only_pauses_the_agent(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert all(b.verdict == "dismissed" for b in outcome.record.barge_ins)
    assert whole(outcome, 0)
    # Every sample was played once, by the carrier's truth: its own count is what was received, and no more.
    played_ms = sum(p.samples for p in outcome.truth.played) / 8
    frames_ms = 20 * max(1, len(outcome.record.barge_ins))
    assert abs(played_ms - outcome.record.turns[0].received_ms) <= frames_ms


@pytest.mark.parametrize("name", [*STOPPED, "an uh-huh", "mode stop", "mode model"])
def test_silence_is_measured_from_the_callers_onset(outcomes: dict[str, Outcome], name: str) -> None:
    """Within a frame of what the carrier has: the caller's first audible sample to the end of playback."""
    truth, (barge_in, *_) = outcomes[name].truth, outcomes[name].record.barge_ins
    onset_s = next(s.onset_s for s in truth.spoken if s.over_agent)
    silence_ms = (truth.clears[0].stopped_s - onset_s) * 1000
    print(f"{name}: onset to silence {silence_ms:.1f} ms, measured {barge_in.segments['bargein_silence']:.1f} ms")
    assert barge_in.segments["bargein_silence"] == pytest.approx(silence_ms, abs=20.5)
    parts_ms = barge_in.segments["bargein_detect"] + barge_in.segments["bargein_stop"]
    assert parts_ms == pytest.approx(barge_in.segments["bargein_silence"], abs=0.01)


@pytest.mark.parametrize("name", ["a key", "the model alone hears something"])
def test_without_an_onset_its_segments_are_absent(outcomes: dict[str, Outcome], name: str) -> None:
    segments = outcomes[name].record.barge_ins[0].segments
    assert not {"bargein_silence", "bargein_detect"} & segments.keys()
    assert segments["bargein_stop"] >= 0


def test_an_uh_huh_was_suspected(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes["an uh-huh"].record.barge_ins) == 1


@pytest.mark.parametrize("name", PLAYED_ON)
def test_after_the_verdict_it_plays_on_at_once(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    started_s = outcome.truth.streams[0].started_s
    assert started_s is not None
    for barge_in, clear in zip(outcome.record.barge_ins, outcome.truth.clears, strict=True):
        assert barge_in.verdict_ms is not None
        again_s = next(m.at_s for m in outcome.truth.media if m.at_s > clear.at_s)
        late_ms = (again_s - started_s) * 1000 - barge_in.verdict_ms
        print(f"{name}: played on {late_ms:.1f} ms after the verdict")
        assert late_ms <= 40


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_must_not_stop_the_agent_does_not(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.record.barge_ins == []
    assert outcome.truth.clears == []
    assert whole(outcome, 0)


def test_an_interruption_at_the_very_end(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["in the last 100 ms"]
    assert outcome.record.turns[0].heard_ms > 3_000
    assert whole(outcome, -1)


@pytest.mark.parametrize("name", ["a key", "mode stop"])
def test_one_word_is_enough_where_it_is_said_to_be(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    (barge_in,) = outcome.record.barge_ins
    assert barge_in.verdict == "confirmed_locally"
    assert outcome.record.turns[0].interrupted


def test_the_models_word_alone_stops_the_agent(outcomes: dict[str, Outcome]) -> None:
    for name in ("mode model", "the model alone hears something"):
        barge_in = outcomes[name].record.barge_ins[0]
        assert barge_in.verdict == "confirmed_by_model", name
        assert outcomes[name].record.turns[0].interrupted, name


def test_lasting_speech_alone_confirms_the_barge_in(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["the detector alone hears somebody"]
    (barge_in,) = outcome.record.barge_ins
    assert barge_in.verdict == "confirmed_locally"
    assert barge_in.verdict_ms is not None
    # min_barge_in_ms of speech, and the detector's hangover, before which its end is not known
    assert 400 <= barge_in.verdict_ms - barge_in.decided_ms <= 1_000
    assert outcome.record.turns[0].interrupted


def test_local_turns_are_told_to_the_model(outcomes: dict[str, Outcome]) -> None:
    (session,) = outcomes["local turns"].sessions
    assert [what for _, what in session.activity] == ["activityStart", "activityEnd"] * 2


def test_a_tool_that_was_done_stays_done(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["after the tool was done"].record
    assert [(t.name, t.outcome) for t in record.tool_calls] == [("quick", "done")]
    assert record.turns[1].interrupted


def test_a_caller_who_never_speaks_is_asked_and_let_go(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["a caller who never speaks"]
    assert outcome.record.end_reason == "caller_idle"
    assert len(outcome.record.turns) == 3
    assert all(whole(outcome, turn) for turn in range(3))
    first, prompt, _ = outcome.record.turns
    assert first.reply_ended_ms is not None
    assert prompt.reply_started_ms is not None
    assert 1_000 <= prompt.reply_started_ms - first.reply_ended_ms <= 2_000  # counted from the end of playback


def test_endless_caller_speech_does_not_break_the_call(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["a caller who never stops"].record.end_reason == "caller_hung_up"
    assert outcomes["a caller who never stops"].record.errors == []


def test_caller_and_agent_together(outcomes: dict[str, Outcome]) -> None:
    assert whole(outcomes["both start together"], -1)


def test_no_call_reported_trouble(outcomes: dict[str, Outcome]) -> None:
    assert {n: o.record.errors for n, o in outcomes.items() if o.record.errors} == {}
    assert {n: o.truth.violations for n, o in outcomes.items() if o.truth.violations} == {}
    assert {n: o.violations for n, o in outcomes.items() if o.violations} == {}

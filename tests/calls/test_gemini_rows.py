"""What goes wrong with Gemini Live in other people's products, each as a call through the whole gateway.

`TROUBLES` names what users of the API have reported; `test_NN_...` places the call that would suffer from number NN
and says what the caller gets instead.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from itertools import pairwise
from unittest import mock

import pytest
from google import genai
from google.genai import errors, types
from websockets.asyncio.client import connect

from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import (
    Abort,
    CallTool,
    Close,
    EmptyTurn,
    Fault,
    Mute,
    Reply,
    Script,
    SendGoAway,
    SendInterrupted,
    Stall,
    Wait,
)
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, Step, WaitForAgent, WaitForEnd
from offhook.gateway.store.record import TurnRecord
from tests.rig.calls import Outcome, Plan, place_calls

TROUBLES = {
    1: "the client's own pings close the connection: pongs of 8 to 30 s",
    2: "1011 internal error, service unavailable, at random and during tools",
    3: "the connection ends after ten minutes, and with it the conversation",
    4: "goAway, and then not a message more",
    5: "goAway ignored, or obeyed at once: cut in mid-sentence",
    6: "goAway during a tool call",
    7: "resuming is refused with 1011 while the old socket is open",
    8: "1007 again and again after a reconnect",
    9: "resumed, and silent; or a send during the change taken for the end",
    10: "1008 because of the empty resumption field",
    11: "barge-in half a second and more late",
    12: "audio plays on after the interruption",
    13: "the next reply is taken for the interrupted one, or the other way round",
    14: "a phantom interruption behind the greeting, then a mute session",
    15: "no reply after a barge-in, as the client sends no audio any more",
    16: "turns that are empty, or end in mid-sentence",
    17: "a stall of 50 s",
    18: "the caller's words twice, or not at all",
    19: "the last words lost when a tool call ends the turn",
    20: "silence after a tool's result",
    21: "the agent's echo interrupts it",
    22: "a reply cannot be cancelled under automatic detection",
    23: "costs: the whole context is billed at every turn",
    24: "1011 after 58 minutes, and then the handle is refused",
}

INTERNAL = Close(1011, "Internal error encountered.")
INVALID = Close(1007, "Request contains an invalid argument.")
GREETING = Reply("text", (Speak("Good morning, this is the Blue Door.", length_ms=1_000),))
SATURDAY = Speak("Saturday for two is no problem.", length_ms=1_500)
LONG_TEXT = "Let me see. There is a table at eight, and there is one at half past nine, next to the window. Which one?"
LONG = Speak(LONG_TEXT, length_ms=6_000, chunk_ms=(100,), speed=1.5)
ANSWERED = Reply("caller", (SATURDAY,))
NUDGED = Reply("text:waiting", (SATURDAY,))
ASK, MORE = "A table for two, on Saturday, please.", "Wait, I meant Sunday, not Saturday."
TALK: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), WaitForAgent("end"), HangUp())
# Through the filler, which is heard before the answer.
PATIENT: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), Pause(11_000), HangUp())
TOOLS = """tools: [
  {function: 'tests.calls.slow_tools:slow', name: slow},
  {function: 'tests.calls.slow_tools:quick', name: quick},
]
"""
GREETS = "greeting: {text: Greet the caller.}\n"
IMPATIENT = GREETS + "model: {silent_after_ms: 1500}\n"
TWO = (WaitForAgent("end"), Say(ASK), WaitForAgent("end"), Say(MORE), WaitForAgent("end"), HangUp())
OVER: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), SayOver(MORE, 1_000), WaitForAgent("end"), HangUp())

# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "late pongs": Plan(TALK, Script((GREETING, ANSWERED), pong_delay_s=30.0)),
    "error in a tool": Plan(
        PATIENT,
        Script(
            (GREETING, Reply("caller", (CallTool("slow"), Wait(300), INTERNAL))),
            refuse_resumes=(Close(1011, "The service is currently unavailable."), INTERNAL),
        ),
        agent=IMPATIENT + TOOLS,
        later=Script((NUDGED,)),
    ),
    "ten minutes": Plan(TWO, Script((GREETING, ANSWERED, ANSWERED, NUDGED), lifetime_s=3.5, go_away_s=0.0)),
    "cancelled after ten minutes": Plan(
        TWO,
        Script(
            (GREETING, ANSWERED, ANSWERED, NUDGED),
            lifetime_s=3.5,
            go_away_s=0.0,
            end_of_life=Close(1000, "The operation was cancelled."),
        ),
    ),
    "go away and silence": Plan(
        (WaitForAgent("end"), HangUp()),
        Script((Reply("text", (Speak(LONG_TEXT, length_ms=8_000, speed=20),)),), lifetime_s=7.5, go_away_s=5.5),
    ),
    "go away in a sentence": Plan(
        TALK,
        Script(
            (Reply("text", (Speak(LONG_TEXT, length_ms=4_000, speed=1.0),)), ANSWERED),
            faults=(Fault(1.5, (SendGoAway(50.0),)),),
        ),
    ),
    "go away in a tool call": Plan(
        TALK,
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("while"), SendGoAway(50.0))),
                Reply("tool:while", (SATURDAY,)),
            )
        ),
        agent=GREETS + "tools: [{function: 'tests.calls.slow_tools:a_while', name: while}]\n",
    ),
    "handle refused as invalid": Plan(
        TALK,
        Script((GREETING,), faults=(Fault(2.2, (Abort(),)),), refuse_resumes=(INVALID,)),
        later=Script((ANSWERED,)),
    ),
    "nothing but 1007": Plan(
        (WaitForAgent("end"), WaitForEnd(20_000)),
        Script((GREETING,), faults=(Fault(2.2, (INVALID,)),)),
        agent=GREETS + "fallback: {say: 'We will call you back.'}",
        later=Script(refuse=INVALID),
    ),
    "lost while the caller speaks": Plan(
        (WaitForAgent("end"), Say(f"{ASK} {MORE}"), WaitForAgent("end"), HangUp()),
        Script((GREETING, ANSWERED), faults=(Fault(3.0, (Abort(),)),)),
    ),
    "empty resumption refused": Plan(
        TALK, Script(refuse=Close(1008, "Operation is not supported.")), later=Script((GREETING, ANSWERED))
    ),
    "the model alone hears": Plan(
        OVER,
        Script(
            (GREETING, Reply("caller", (LONG,)), Reply("caller", (SATURDAY,), heard=(" Wait,", " I meant Sunday.")))
        ),
        agent=GREETS + "barge_in: {mode: model}",
    ),
    "late audio": Plan(
        OVER,
        Script((GREETING, Reply("caller", (Speak(LONG_TEXT, length_ms=6_000, speed=1.5, late_chunks=4),)), ANSWERED)),
    ),
    "phantom and mute": Plan(
        PATIENT, Script((GREETING, NUDGED, NUDGED), faults=(Fault(2.2, (SendInterrupted(), Mute())),)), agent=IMPATIENT
    ),
    "empty turn": Plan(TALK, Script((GREETING, Reply("caller", (EmptyTurn(),)), NUDGED)), agent=IMPATIENT),
    "cut in mid-sentence": Plan(
        (WaitForAgent("end"), Say(ASK), WaitForAgent("end"), WaitForAgent("end", nth=3), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (Speak(LONG_TEXT, length_ms=6_000, cut_ms=1_200),)),
                Reply("text:broke off", (Speak("one at half past nine.", length_ms=1_500, delay_ms=1_200),)),
            )
        ),
    ),
    "stall": Plan(
        PATIENT,
        Script((GREETING, Reply("caller", (Stall(9_000),)))),
        agent=IMPATIENT,
        later=Script((NUDGED,)),
    ),
    "words twice, words never": Plan(
        TWO,
        Script((GREETING, Reply("caller", (SATURDAY,), heard=("A table for two.", "A table for two.")), ANSWERED)),
        agent=GREETS + "model: {name: gemini-3.1-flash-live-preview}",
    ),
    "a goodbye and a tool": Plan(
        (WaitForAgent("end"), Say(ASK), WaitForEnd(20_000)),
        Script(
            (
                GREETING,
                Reply("caller", (Speak("It is booked. Goodbye!", length_ms=4_000, speed=50), CallTool("end_call"))),
            )
        ),
        agent=GREETS + "tools: [{builtin: end_call}]",
    ),
    "silent after the tool": Plan(
        TALK, Script((GREETING, Reply("caller", (CallTool("quick"),)), NUDGED)), agent=IMPATIENT + TOOLS
    ),
    "echo": Plan(
        (WaitForAgent("end"), HangUp()),
        Script((Reply("text", (LONG,)),)),
        carrier=Carrier(echo_delay_ms=200, echo_gain_db=-14),
    ),
    "echo, protected": Plan(
        TALK,
        Script((Reply("text", (LONG,)), ANSWERED)),
        agent="greeting: {text: Greet the caller., protected: true}",
        carrier=Carrier(echo_delay_ms=200, echo_gain_db=-14),
    ),
    "echo, less sensitive": Plan(
        TALK,
        Script((Reply("text", (LONG,)), ANSWERED)),
        agent=GREETS + "turn_detection: {start_sensitivity: low}",
        carrier=Carrier(echo_delay_ms=200, echo_gain_db=-14),
    ),
    "a model that cannot be stopped": Plan(
        (SayOver(MORE, 1_000), Pause(8_000), HangUp()),
        Script((Reply("text", (LONG,)), NUDGED), hears_above_dbfs=0.0),
        agent=IMPATIENT,
    ),
    "own detection": Plan(
        OVER,
        Script((GREETING, Reply("caller", (LONG,)), ANSWERED)),
        agent=GREETS + "turn_detection: {mode: local}",
    ),
    "long and cheap": Plan(
        TWO,
        Script((GREETING, ANSWERED, ANSWERED)),
        agent=GREETS + "model: {compress_at_tokens: 4000, compress_to_tokens: 2000}",
    ),
    "an endless call": Plan(
        (WaitForEnd(30_000),),
        Script((GREETING, Reply("text:has to end", (Speak("We have to stop.", length_ms=800),)))),
        agent=GREETS + "limits: {call_s: 7, warning_s: 4}",
    ),
    "a dear call": Plan(
        (WaitForEnd(30_000),),
        Script((GREETING, Reply("text", (Speak("We have to stop.", length_ms=800),)))),
        agent=GREETS + "limits: {cost: 0.000001}",
    ),
    "58 minutes": Plan(
        TALK,
        Script((GREETING,), lifetime_s=2.5, go_away_s=0.0, refuse_resumes=(INVALID,)),
        later=Script((ANSWERED,)),
    ),
}


EXPOSITION: list[str] = []


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    # The library's own pings, a hundred times as often as usual: whoever leaves them on loses the call with the late
    # pongs.
    with mock.patch.dict(connect.__init__.__kwdefaults__, {"ping_interval": 0.2, "ping_timeout": 0.2}):
        return place_calls(PLANS, metrics=EXPOSITION)


def counted(name: str) -> float:
    lines = "\n".join(EXPOSITION).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def replies(outcome: Outcome) -> list[TurnRecord]:
    """What the model said: the fillers of its silences apart."""
    return [turn for turn in outcome.record.turns if turn.kind != "filler"]


def went_on(outcome: Outcome, count: int) -> list[SessionRecord]:
    """The caller got everything asked for, each reply to its end unless interrupted, and hung up content."""
    record = outcome.record
    assert record.end_reason == "caller_hung_up"
    assert not [step.failed for step in outcome.truth.steps if step.failed]
    assert len(replies(outcome)) == count
    assert all(t.heard_ms == t.received_ms > 700 for t in record.turns if not t.interrupted)
    assert not record.turns[-1].interrupted
    assert record.samples_after_clear == 0
    return outcome.sessions


def asked(sessions: list[SessionRecord], part: str) -> int:
    return sum(part in text.text for session in sessions for text in session.texts if text.how == "realtime")


def instruction(session: SessionRecord) -> str:
    return session.setup["systemInstruction"]["parts"][0]["text"]


# --- all of them


def test_every_trouble_has_its_call() -> None:
    tests = {int(number) for name in globals() for number in re.findall(r"^test_(\d\d)_", name)}
    assert tests == set(TROUBLES)


def test_the_caller_is_greeted_once_whatever_happens(outcomes: dict[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        assert asked(outcome.sessions, "Greet the caller.") == 1, name
        assert sum("Good morning" in turn.reply_text for turn in outcome.record.turns) <= 1, name


def test_no_reconnect_storm_and_no_protocol_violation(outcomes: dict[str, Outcome]) -> None:
    assert {n: o.truth.violations for n, o in outcomes.items() if o.truth.violations} == {}
    assert {n: o.violations for n, o in outcomes.items() if o.violations} == {}
    assert {n: len(o.sessions) for n, o in outcomes.items() if len(o.sessions) > 8} == {}


# --- one by one


def test_01_late_pongs_are_nobodys_business(outcomes: dict[str, Outcome]) -> None:
    (session,) = went_on(outcomes["late pongs"], 2)
    assert session.pings == 0


async def test_01_and_they_do_end_a_client_with_pings() -> None:
    """The control: the SDK as it comes, against the same model."""
    with mock.patch.dict(connect.__init__.__kwdefaults__, {"ping_interval": 0.2, "ping_timeout": 0.2}):
        async with ModelServer(Script(pong_delay_s=30.0)) as server:
            http = types.HttpOptions(base_url=server.url, async_client_args={"ssl": trusting(server)})
            client = genai.Client(api_key="x", http_options=http)
            async with client.aio.live.connect(model="gemini-3.8-live", config={}) as session:
                with pytest.raises(errors.APIError) as lost:
                    await asyncio.wait_for(anext(session.receive()), 10)
            await client.aio.aclose()
    assert lost.value.code in (1006, 1011)
    assert server.sessions[0].pings > 0


def test_02_error_during_a_tool_keeps_the_history(outcomes: dict[str, Outcome]) -> None:
    first, *refused, last = went_on(outcomes["error in a tool"], 2)
    assert [s.close_code for s in (first, *refused)] == [1011, 1011, 1011]
    assert last.resumed_from is None
    assert 'You: "Good morning, this is the Blue Door."' in instruction(last)
    assert "Do not greet again" in instruction(last)
    assert not [a for s in outcomes["error in a tool"].sessions for a in s.tool_answers], "the new one never asked"
    assert [t.outcome for t in outcomes["error in a tool"].record.tool_calls] == ["cancelled"]


@pytest.mark.parametrize("name", ["ten minutes", "cancelled after ten minutes"])
def test_03_ten_minutes_end_only_the_connection(outcomes: dict[str, Outcome], name: str) -> None:
    sessions = went_on(outcomes[name], len(outcomes[name].record.turns))
    assert len(outcomes[name].record.turns) >= 3
    assert len(sessions) >= 3
    assert [after.resumed_from for after in sessions[1:]] == [before.index for before in sessions[:-1]]
    for session in sessions:
        assert session.setup["contextWindowCompression"]["triggerTokens"] == 16_000
        assert "sessionResumption" in session.setup


def test_04_the_goaway_deadline_runs_by_the_clock(outcomes: dict[str, Outcome]) -> None:
    first, second, *_ = went_on(outcomes["go away and silence"], 1)
    assert first.closed_by == "client"
    left_s = first.closed_at_s - first.go_aways[0]
    assert 0.5 < left_s < 5.5, "after a while, before the end; the model said nothing in between"
    assert first.replies[0].last_audio_at_s < first.go_aways[0]
    assert second.resumed_from == first.index


def test_05_goaway_waits_for_the_end_of_the_sentence(outcomes: dict[str, Outcome]) -> None:
    first, second = went_on(outcomes["go away in a sentence"], 2)
    (reply,) = first.replies
    assert reply.ended == "complete"
    assert first.go_aways[0] < reply.ended_at_s <= first.closed_at_s < first.go_aways[0] + 20
    assert second.resumed_from == first.index
    assert outcomes["go away in a sentence"].record.segments["model_reconnect_gap"] < 1_000


def test_06_goaway_waits_for_the_tool(outcomes: dict[str, Outcome]) -> None:
    first, *others = went_on(outcomes["go away in a tool call"], 2)
    (answer,) = first.tool_answers
    assert answer.call == "open"
    assert first.go_aways[0] < answer.at_s < first.closed_at_s
    assert not [a for s in others for a in s.tool_answers]


def test_07_old_socket_closes_before_the_new_one_opens(outcomes: dict[str, Outcome]) -> None:
    changes = 0
    for name, outcome in outcomes.items():
        if name == "stall":
            continue  # a frozen server does not see our close
        for old, new in pairwise(outcome.sessions):
            assert old.closed_at_s <= new.opened_at_s, name
            assert "in use" not in new.close_reason, name
            changes += 1
    assert changes > 15


def test_08_refused_handle_is_not_sent_again(outcomes: dict[str, Outcome]) -> None:
    _, refused, last = went_on(outcomes["handle refused as invalid"], 2)
    assert refused.setup["sessionResumption"]["handle"]
    assert refused.close_code == 1007
    assert "handle" not in last.setup["sessionResumption"]


def test_08_only_1007_plays_the_fallback_at_once(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["nothing but 1007"]
    assert outcome.record.end_reason == "model_lost"
    assert len(outcome.sessions) == 2
    assert [a.text for a in outcome.truth.announced if a.verb == "say"] == ["We will call you back."]


def test_08_resumed_session_gets_live_audio_only(outcomes: dict[str, Outcome]) -> None:
    resumed = [s for o in outcomes.values() for s in o.sessions if s.resumed_from is not None and s.ready_at_s]
    assert len(resumed) > 8
    for session in resumed:
        assert not [text for text in session.texts if text.how == "content"]
        # What waited over the gap: a second at most, and the rest as it comes.
        early = [end for at_s, end in session.audio_arrivals if at_s < session.ready_at_s + 0.2]
        assert max(early, default=0) <= 1.5 * 32_000


def test_09_speech_during_the_change_is_answered(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["lost while the caller speaks"]
    first, second = went_on(outcome, 2)
    assert second.resumed_from == first.index
    assert second.speech, "the new session heard the rest"
    kept_ms = (first.audio_bytes + second.audio_bytes) / 32
    assert outcome.record.audio_in_ms - kept_ms < 1_000, "hardly a word is missing"


def test_10_first_connection_omits_the_refused_field(outcomes: dict[str, Outcome]) -> None:
    first, second = went_on(outcomes["empty resumption refused"], 2)
    assert (first.close_code, second.close_code) == (1008, 1000)
    assert ["sessionResumption" in s.setup for s in (first, second)] == [True, False]


def test_11_barge_in_needs_no_transcript(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["the model alone hears"]
    (session,) = went_on(outcome, 3)
    (interrupted_s,), (clear,) = session.interruptions, outcome.truth.clears
    assert -0.01 <= clear.at_s - interrupted_s < 0.4
    assert clear.discarded > 800
    assert outcome.record.barge_ins[0].verdict == "confirmed_by_model"
    # The model decided upon a tenth of a second of speech; the words came with the reply, seconds later.
    assert session.replies[-1].decided_at_s - interrupted_s > 1


def test_12_no_old_audio_after_the_interruption(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["late audio"]
    went_on(outcome, 3)
    cut = outcome.record.turns[1]
    assert cut.interrupted
    assert cut.heard_ms < cut.received_ms
    (clear,) = outcome.truth.clears
    between = [m for m in outcome.truth.media if clear.at_s < m.at_s < clear.at_s + 1.0]
    assert not between, "nor of what came late"
    assert counted('offhook_frames_dropped_total{reason="stale_generation"}') > 0


def test_13_the_reply_behind_an_interruption_is_whole(outcomes: dict[str, Outcome]) -> None:
    for name in ("late audio", "the model alone hears", "own detection", "a model that cannot be stopped"):
        said = replies(outcomes[name])
        assert [t.interrupted for t in said][-2:] == [True, False], name
        assert said[-1].received_ms == pytest.approx(1_500, abs=40), name


def test_14_a_mute_session_is_nudged_then_replaced(outcomes: dict[str, Outcome]) -> None:
    first, second = went_on(outcomes["phantom and mute"], 2)
    assert len(first.interruptions) == 1
    assert asked([first], "waiting for your answer") == 1
    assert second.resumed_from == first.index


def test_15_the_callers_audio_never_stops(outcomes: dict[str, Outcome]) -> None:
    for name in ("the model alone hears", "late audio", "a model that cannot be stopped"):
        (session,) = outcomes[name].sessions
        heard_ms = session.audio_bytes / 32
        assert outcomes[name].record.audio_in_ms - heard_ms < 500, name


def test_16_an_empty_turn_is_asked_about_once(outcomes: dict[str, Outcome]) -> None:
    (session,) = went_on(outcomes["empty turn"], 2)
    assert asked([session], "waiting for your answer") == 1
    ended = session.speech[0].ended_at_s
    (nudge,) = [t for t in session.texts if "waiting" in t.text]
    assert nudge.at_s - ended < 1.2, "at once, and not when the patience is over"


def test_16_a_sentence_cut_off_is_gone_on_with(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["cut in mid-sentence"]
    (session,) = went_on(outcome, 3)
    assert asked([session], "Your last words broke off") == 1
    assert [r.trigger for r in session.replies] == ["text", "caller", "text"]
    assert outcome.record.turns[2].reply_text == "one at half past nine."
    assert any("a turn broke off" in error for error in outcome.record.errors)


def test_17_a_stalled_session_is_replaced_in_seconds(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["stall"]
    last = went_on(outcome, 2)[-1]
    assert last.resumed_from is None
    assert "Good morning" in instruction(last)
    spoken = outcome.truth.spoken[0]
    assert outcome.truth.agent[-1].start_s - spoken.end_s < 8.5, "not when the stall was over"


def test_18_repeated_or_absent_transcript_is_handled(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["words twice, words never"]
    went_on(outcome, 3)
    assert [t.caller_text for t in outcome.record.turns] == ["", "A table for two.", ""]
    assert [line.text for line in outcome.record.transcript if line.who == "caller"] == ["A table for two."]


def test_19_goodbye_before_a_tool_call_is_played_whole(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["a goodbye and a tool"]
    (session,) = outcome.sessions
    assert outcome.record.end_reason == "agent_hung_up"
    goodbye = outcome.record.turns[-1]
    assert goodbye.heard_ms == goodbye.received_ms >= 4_000
    assert outcome.truth.streams[-1].unplayed == 0
    assert session.tool_calls[0].at_s < outcome.truth.agent[-1].end_s - 2, "it was asked for long before"


def test_20_silence_after_a_result_is_nudged(outcomes: dict[str, Outcome]) -> None:
    (session,) = went_on(outcomes["silent after the tool"], 2)
    assert [a.call for a in session.tool_answers] == ["open"]
    assert asked([session], "waiting for your answer") == 1


def test_21_echo_does_not_interrupt_where_guarded(outcomes: dict[str, Outcome]) -> None:
    (session,) = outcomes["echo"].sessions
    assert session.interruptions, "the control: loud enough"
    protected, less = outcomes["echo, protected"], outcomes["echo, less sensitive"]
    assert protected.record.turns[0].heard_ms == protected.record.turns[0].received_ms >= 6_000
    (session,) = went_on(less, 2)
    assert not session.interruptions
    detection = session.setup["realtimeInputConfig"]["automaticActivityDetection"]
    assert detection["startOfSpeechSensitivity"] == "START_SENSITIVITY_LOW"


def test_22_reply_still_generated_is_over_for_caller(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["a model that cannot be stopped"]
    (session,) = went_on(outcome, 2)
    assert not session.interruptions
    assert session.replies[0].ended == "complete", "it was generated to its end"
    (clear,) = outcome.truth.clears
    assert session.replies[0].last_audio_at_s > clear.at_s + 1
    filler_s = outcome.truth.spoken[-1].end_s + 1.4  # no reply comes in the agent's `silent_after_ms`
    assert not [m for m in outcome.truth.media if clear.at_s < m.at_s < filler_s]
    assert outcome.record.turns[0].interrupted


def test_22_local_detection_cancels_the_generation(outcomes: dict[str, Outcome]) -> None:
    (session,) = went_on(outcomes["own detection"], 3)
    assert [r.ended for r in session.replies] == ["complete", "interrupted", "complete"]
    assert [kind for _, kind in session.activity] == ["activityStart", "activityEnd"] * 2


def test_23_turns_are_metered_and_context_is_bounded(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["long and cheap"]
    (session,) = went_on(outcome, 3)
    assert len(session.usage) == 3
    for name in ("promptTokenCount", "responseTokenCount", "totalTokenCount"):
        assert outcome.record.usage[name] == sum(turn[name] for turn in session.usage)
    assert session.setup["contextWindowCompression"] == {
        "triggerTokens": 4_000,
        "slidingWindow": {"targetTokens": 2_000},
    }


def test_23_a_call_has_an_end_by_time_and_by_cost(outcomes: dict[str, Outcome]) -> None:
    endless, dear = outcomes["an endless call"], outcomes["a dear call"]
    assert endless.record.end_reason == "time_limit"
    assert endless.record.turns[-1].reply_text == "We have to stop."
    assert endless.record.duration_ms < 12_000
    assert dear.record.end_reason == "cost_limit"
    assert dear.record.usage["cost_usd"] > 0.000001


def test_24_lost_session_and_handle_keep_the_history(outcomes: dict[str, Outcome]) -> None:
    first, refused, last = went_on(outcomes["58 minutes"], 2)
    assert (first.close_code, refused.close_code) == (1011, 1007)
    assert not first.go_aways or first.closed_at_s - first.go_aways[0] < 0.5
    assert 'You: "Good morning, this is the Blue Door."' in instruction(last)
    assert "Do not greet again" in instruction(last)


def trusting(server: ModelServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.ca_path)

"""Clean ends: every way a call can be over, with one reason and nothing left behind (the rig counts tasks)."""

from __future__ import annotations

import asyncio

import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.rehearsal.model.script import Abort, CallTool, Close, Fault, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent, WaitForEnd
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

GREETING = Reply("text", (Speak("Thank you for calling.", sound("agent_thank_you_for_calling")),))
GOODBYE = Speak("It is booked. Goodbye!", sound("it_is_booked"))


def stop_soon(gateway: Gateway, call: SimulatedCall) -> None:
    """The server stops while the agent is speaking."""

    async def stop() -> None:
        while not call.truth.agent:
            await asyncio.sleep(0.02)
        gateway.calls[call.call_sid].stop(Ending.SERVER_STOPPED)

    call.stopper = asyncio.create_task(stop())  # type: ignore[attr-defined]


# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "caller hangs up": Plan((WaitForAgent("start"), Pause(500), HangUp()), Script((GREETING,))),
    "agent hangs up": Plan(
        (WaitForAgent("end"), Say(str(sound("yes_please"))), WaitForEnd()),
        Script((GREETING, Reply("caller", (GOODBYE, CallTool("end_call"))))),
        agent="greeting: {text: Greet the caller.}\ntools: [{builtin: end_call}]",
    ),
    "ends before its goodbye": Plan(
        (WaitForAgent("end"), Say(str(sound("yes_please"))), WaitForEnd()),
        Script((GREETING, Reply("caller", (CallTool("end_call"),)), Reply("tool:end_call", (GOODBYE,)))),
        agent="greeting: {text: Greet the caller.}\ntools: [{builtin: end_call}]",
    ),
    "model unreachable": Plan(
        (WaitForEnd(40_000),),
        Script(refuse=Close(1008, "models/unknown is not found")),
        agent="fallback: {say: 'Please call again tomorrow.'}",
    ),
    "model lost": Plan(
        (WaitForAgent("end"), WaitForEnd(60_000)),
        Script((GREETING,), faults=(Fault(4.0, (Abort(),)),)),
        later=Script(refuse=Close(1008, "gone")),
        agent="greeting: {text: Greet the caller.}\nfallback: {say: 'We will call you back.'}",
    ),
    "server stops": Plan((WaitForEnd(),), Script((GREETING,)), during=stop_soon),
    # One lost stream is replaced (tests/telephone); a line on which they keep dying is given up.
    "stream lost": Plan((WaitForEnd(),), Script((GREETING,)), carrier=Carrier(drop_after_s=1.0, drops=9)),
    "stream silent": Plan((Pause(11_000), HangUp()), Script((GREETING,)), carrier=Carrier(silent_after_s=1.0)),
}


EXPOSITION: list[str] = []


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS, metrics=EXPOSITION)


def test_ends_and_sessions_are_counted(outcomes: dict[str, Outcome]) -> None:
    lines = dict(line.rsplit(" ", 1) for line in EXPOSITION[0].splitlines() if not line.startswith("#"))
    for reason in {o.record.end_reason for o in outcomes.values()}:
        ended = [float(v) for k, v in lines.items() if k.startswith(f'offhook_calls_total{{reason="{reason}"')]
        assert sum(ended) == sum(o.record.end_reason == reason for o in outcomes.values())
    ready = sum(s.ready_at_s is not None for o in outcomes.values() for s in o.sessions)
    assert float(lines['offhook_model_sessions_total{result="ready"}']) == ready
    refused = sum(s.ready_at_s is None for o in outcomes.values() for s in o.sessions)
    assert float(lines['offhook_model_sessions_total{result="refused"}']) == refused >= 1
    assert any("the model could not be reached" in o.record.errors for o in outcomes.values())
    assert float(lines['offhook_tokens_total{direction="output"}']) > 0
    assert float(lines["offhook_calls_active"]) == 0


def test_the_caller_hangs_up(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["caller hangs up"].record
    assert (record.end_reason, record.end_side) == ("caller_hung_up", "caller")
    assert 0 < record.turns[0].heard_ms < record.turns[0].received_ms


@pytest.mark.parametrize("name", ["agent hangs up", "ends before its goodbye"])
def test_agent_hangs_up_after_its_goodbye_was_heard(outcomes: dict[str, Outcome], name: str) -> None:
    record, truth = outcomes[name].record, outcomes[name].truth
    assert record.end_reason == "agent_hung_up"
    assert record.turns[-1].heard_ms == record.turns[-1].received_ms > 3000
    assert truth.ended_by == "twiml_hangup"
    assert truth.streams[-1].unplayed == 0
    assert [(t.name, t.outcome) for t in record.tool_calls] == [("end_call", "done")]


def test_an_unreachable_model_gives_the_fallback_line(outcomes: dict[str, Outcome]) -> None:
    record, truth = outcomes["model unreachable"].record, outcomes["model unreachable"].truth
    assert record.end_reason == "model_unreachable"
    assert [(a.verb, a.text) for a in truth.announced] == [("say", "Please call again tomorrow."), ("hangup", "")]


def test_model_lost_in_mid_call_plays_the_fallback(outcomes: dict[str, Outcome]) -> None:
    record, truth = outcomes["model lost"].record, outcomes["model lost"].truth
    assert record.end_reason == "model_lost"
    assert record.turns[0].heard_ms == record.turns[0].received_ms
    assert [a.text for a in truth.announced if a.verb == "say"] == ["We will call you back."]


def test_a_server_that_stops_lets_the_agent_finish(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["server stops"].record
    assert record.end_reason == "server_stopped"
    assert record.turns[-1].heard_ms == record.turns[-1].received_ms


def test_call_whose_streams_keep_dying_is_given_up(outcomes: dict[str, Outcome]) -> None:
    record, truth = outcomes["stream lost"].record, outcomes["stream lost"].truth
    assert record.end_reason == "stream_lost"
    assert len(record.streams) == 4
    assert [a.verb for a in truth.announced] == ["say", "hangup"]  # the agent's fallback


def test_a_dead_stream_is_found_and_replaced(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["stream silent"].record
    assert record.end_reason == "caller_hung_up"
    assert len(record.streams) == 2
    assert "no audio from the carrier for 8 s" in record.errors


def test_neither_side_broke_the_protocol(outcomes: dict[str, Outcome]) -> None:
    assert {n: o.truth.violations for n, o in outcomes.items() if o.truth.violations} == {}
    assert {n: o.violations for n, o in outcomes.items() if o.violations} == {}

"""Tools that are called off, or do not end: through real sockets."""

from __future__ import annotations

from unittest import mock

import pytest

from offhook.gateway.call import call
from offhook.gateway.conversation.handlers import floor
from offhook.gateway.rehearsal.model.script import Abort, CallTool, CancelTools, Close, Fault, Reply, Script, Wait
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

GREETING = Reply("text", (Speak("Thank you for calling.", length_ms=800),))
HELLO = Say(str(sound("hello_i_would")))
A_WHILE = """greeting: {{text: Greet.}}
tools: [{{function: 'tests.calls.slow_tools:a_while', name: a_while, on_barge_in: {}}}]"""
TAKEN_BACK = Script((GREETING, Reply("caller", (CallTool("a_while", {}), Wait(200), CancelTools()))))
STEPS = (WaitForAgent("end"), HELLO, Pause(3_500), HangUp())

# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "finish": Plan(STEPS, TAKEN_BACK, agent=A_WHILE.format("finish")),
    "cancel": Plan(STEPS, TAKEN_BACK, agent=A_WHILE.format("cancel")),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS)


def told(outcome: Outcome) -> list[str]:
    return [t.text for s in outcome.sessions for t in s.texts if t.how == "content" and "a_while" in t.text]


def test_withdrawn_tool_that_was_done_is_sent_to_model(outcomes: dict[str, Outcome]) -> None:
    (call,) = outcomes["finish"].record.tool_calls
    assert call.outcome == "done"
    (text,) = told(outcomes["finish"])
    assert "called off too late" in text
    assert '"done"' in text
    assert outcomes["finish"].sessions[0].tool_answers == []  # as context: an answer is not taken any more
    assert outcomes["finish"].violations == []


def test_of_what_was_not_done_it_is_told_nothing(outcomes: dict[str, Outcome]) -> None:
    (call,) = outcomes["cancel"].record.tool_calls
    assert call.outcome == "cancelled"
    assert told(outcomes["cancel"]) == []


def test_stuck_tool_or_link_is_abandoned_and_counted() -> None:
    """The tool's runner and the model's link end by themselves; here the call is made to lose patience first."""
    plans = {
        "a tool": Plan(
            STEPS, Script((GREETING, Reply("caller", (CallTool("a_while", {}),)))), agent=A_WHILE.format("cancel")
        ),
        "the link": Plan(
            (WaitForAgent("end"), Pause(4_000), HangUp()),
            Script((GREETING,), faults=(Fault(2.5, (Abort(),)),), refuse_resumes=(Close(1011, "later"),) * 9),
            later=Script(setup_delay_ms=3_000),
        ),
    }
    exposition: list[str] = []
    with mock.patch.object(call, "TOOL_GRACE_S", -19.5), mock.patch.object(floor, "LINK_LOST_S", 0.4):
        outcomes = place_calls(plans, metrics=exposition)
    tool, link = outcomes["a tool"].record, outcomes["the link"].record
    assert "a tool did not end in its time" in tool.errors
    assert tool.tool_calls[0].outcome == "cancelled"
    assert tool.end_reason == "caller_hung_up"  # and the call went on
    assert "the model's link neither came back nor gave up" in link.errors
    assert link.end_reason == "model_lost"
    assert "offhook_stuck_calls_total 2" in exposition[0]

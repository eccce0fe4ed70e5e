"""Tools that are called off, or do not end: through real sockets."""

from __future__ import annotations

import pytest
from rig import Outcome, Plan, place_calls, sound

from gateway.rehearsal.caller_steps import HangUp, Pause, Say, WaitForAgent
from gateway.rehearsal.model_script import CallTool, CancelTools, Reply, Script, Wait
from gateway.rehearsal.model_script import Say as Speak

GREETING = Reply("text", (Speak("Thank you for calling.", length_ms=800),))
HELLO = Say(str(sound("hello_i_would")))
A_WHILE = "greeting: {{text: Greet.}}\ntools: [{{function: 'slow_tools:a_while', name: a_while, on_barge_in: {}}}]"
TAKEN_BACK = Script((GREETING, Reply("caller", (CallTool("a_while", {}), Wait(200), CancelTools()))))
STEPS = (WaitForAgent("end"), HELLO, Pause(3_500), HangUp())

PLANS = {
    "finish": Plan(STEPS, TAKEN_BACK, agent=A_WHILE.format("finish")),
    "cancel": Plan(STEPS, TAKEN_BACK, agent=A_WHILE.format("cancel")),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS)


def told(outcome: Outcome) -> list[str]:
    return [t.text for s in outcome.sessions for t in s.texts if t.how == "content" and "a_while" in t.text]


def test_the_model_learns_of_what_was_done_although_it_took_it_back(outcomes: dict[str, Outcome]) -> None:
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

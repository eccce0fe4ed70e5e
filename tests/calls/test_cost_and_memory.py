"""What a call costs and remembers: the cost limit, facts and turns on a fresh session, through the whole gateway."""

from __future__ import annotations

import pytest

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.prompts import text_of
from offhook.gateway.conversation.commands import Prompt
from offhook.gateway.models.gemini.messages import usage_of
from offhook.gateway.models.gemini.prices import PRICES
from offhook.gateway.models.pricing import cost
from offhook.gateway.rehearsal.model.script import Abort, Close, Fault, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, WaitForAgent, WaitForEnd
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

GREETING = Reply("text", (Speak("Thank you for calling.", sound("agent_thank_you_for_calling")),))
SHORT = Reply("caller", (Speak("Of course.", length_ms=600),), heard=("And what else?",))
YES = Say(str(sound("uh_huh")))
TURN = (YES, WaitForAgent("end"))


def remember(gateway, call) -> None:
    """As the tool does, once the call is there."""
    import asyncio

    async def note() -> None:
        while call.call_sid not in gateway.calls:
            await asyncio.sleep(0.02)
        gateway.calls[call.call_sid].tools.remember("name", "Ada Example")

    call.noting = asyncio.create_task(note())


# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "dear": Plan(
        (WaitForAgent("end"), Say(str(sound("yes_please"))), WaitForEnd(30_000)),
        Script((GREETING, SHORT, Reply("text", (Speak("We have to stop here. Goodbye.", length_ms=1500),)))),
        agent="greeting: {text: Greet the caller.}\nlimits: {cost: 0.000001, warning: Say that it is over.}",
    ),
    "forgetful": Plan(
        (WaitForAgent("end"), Say(str(sound("yes_please"))), WaitForAgent("end"), HangUp()),
        # The connection goes, and the handle is refused.
        Script((GREETING,), faults=(Fault(4.0, (Abort(),)),), refuse_resumes=(Close(1007, "invalid handle"),)),
        later=Script((SHORT,)),
        during=remember,
    ),
    "long": Plan(
        (WaitForAgent("end"), *TURN, *TURN, *TURN, *TURN, HangUp()),
        Script((GREETING, SHORT, SHORT, SHORT, SHORT)),
        later=Script((SHORT, SHORT, SHORT, SHORT)),
        agent="greeting: {text: Greet the caller.}\nmodel: {keep_turns: 1}",
    ),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls(PLANS)


def test_cost_limit_warns_and_then_ends_the_call(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["dear"].record
    assert record.end_reason == "cost_limit"
    told = [heard.text for session in outcomes["dear"].sessions for heard in session.texts]
    assert text_of(Prompt.COST_WARNING, Agent(name="dear")) in told
    assert "Say that it is over." not in told  # that is for the time limit
    last = record.turns[-1]
    assert last.reply_text == "We have to stop here. Goodbye."
    assert last.heard_ms == pytest.approx(last.sent_ms, abs=20)


def test_the_cost_of_a_call_is_that_of_its_tokens(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        usage = dict(outcome.record.usage)
        spent = usage.pop("cost_usd")
        assert spent > 0
        assert spent == pytest.approx(cost(usage_of(usage), PRICES["gemini-3.8-live"]))


def test_fresh_session_receives_facts_and_turns(outcomes: dict[str, Outcome]) -> None:
    first, *_, last = outcomes["forgetful"].sessions
    assert "handle" not in last.setup.get("sessionResumption", {})
    told = last.setup["systemInstruction"]["parts"][0]["text"]
    assert "name: Ada Example" in told
    assert "Thank you for calling" in told
    assert "Ada" not in first.setup["systemInstruction"]["parts"][0]["text"]


def test_long_call_gets_fresh_session_with_last_turns(
    outcomes: dict[str, Outcome],
) -> None:
    _first, second, *_ = outcomes["long"].sessions
    assert len(outcomes["long"].sessions) >= 2
    assert not second.setup["sessionResumption"].get("handle")
    told = second.setup["systemInstruction"]["parts"][0]["text"]
    assert "Of course." in told
    assert "Thank you for calling" not in told  # that was before the last turn
    assert outcomes["long"].record.end_reason == "caller_hung_up"
    greetings = [turn for turn in outcomes["long"].record.turns if "calling" in turn.reply_text]
    assert len(greetings) == 1

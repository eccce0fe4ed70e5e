"""Whatever keeps the agent from speaking, the caller meets no more silence than its `silent_after_ms`: with each model,
each way in which a model fails as a call through the whole gateway. Measured in what the carrier played.

Recovery goes on behind the filler. It ends in the answer, or in the fallback.
"""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.model.script import Abort, CallTool, Close, Mute, Reply, Script, Wait
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, Step, WaitForAgent, WaitForEnd
from offhook.gateway.rehearsal.phone.truth import longest_wait_s
from tests.rig.calls import Outcome, Plan, place_calls

SILENT_AFTER_S = 2.5
TOLERANCE_S = 0.15  # 0.1 s in which the filler's last note fades, and frames of 20 ms at the carrier
AGENT = """greeting: {text: Greet the caller.}
model: {provider: PROVIDER, silent_after_ms: 2500, setup_timeout_s: 3}
fallback: {say: We will call you back.}
"""
TOOL = "tools: [{function: 'tests.calls.slow_tools:slow', name: slow, timeout_s: 7}]\n"
GREETING = Reply("text:Greet", (Speak("Good morning, this is the Blue Door.", length_ms=1_000),))
SATURDAY = Speak("Saturday for two is no problem.", length_ms=1_500)
ANSWERED = Script((Reply("text:waiting", (SATURDAY,)), Reply("text", (SATURDAY,))))
HALF = Speak("Let me see. There is a table at", length_ms=1_500)
ASK = "A table for two, on Saturday, please."
BUSY = Script(refuse=Close(1013, "try again later"))
UNANSWERED = Script(setup_delay_ms=90_000)
OPENING: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK))
WAITS = (*OPENING, Pause(14_000), HangUp())
LOST = (*OPENING, WaitForEnd(timeout_ms=60_000))


def failing(*acts: object, later: Script | tuple[Script, ...] | None = None, steps: tuple[Step, ...] = WAITS) -> Plan:
    """The caller's turn is met with this; `later`: what the sessions after it do, none of which resumes it."""
    unknown = (Close(1007, "Unknown session resumption handle."),) if later else ()
    script = Script(
        (GREETING, Reply("caller", acts), Reply("text:waiting", (SATURDAY,))),  # type: ignore[arg-type]
        refuse_resumes=unknown,
    )
    return Plan(steps, script, AGENT, later=later)


UNHEARD = Reply("text:waiting", (SATURDAY,))  # what a deaf model is prompted with
MUTE = Script((Reply("text:Greet", (*GREETING.do, Mute())), UNHEARD, *ANSWERED.replies))
DEAF = Script((Reply("text:Greet", (*GREETING.do, Mute())),))
# In the end the caller is answered.
RECOVERS = {
    "stalled": failing(Wait(60_000)),
    "broken off and stalled": failing(HALF, Wait(60_000)),
    "deaf": Plan(WAITS, MUTE, AGENT, later=ANSWERED),
    "deaf to hello": Plan(
        (*OPENING, Pause(3_200), Say("Hello?"), Pause(12_000), HangUp()), MUTE, AGENT, later=ANSWERED
    ),
    "reset": failing(Abort(), later=ANSWERED),
    "reset in the reply": failing(HALF, Wait(1_000), Abort(), later=ANSWERED),
    "away for a while": failing(Close(1011, "server"), later=(BUSY, BUSY, BUSY, ANSWERED)),
    "a setup unanswered": failing(Close(1011, "server"), later=(UNANSWERED, ANSWERED)),
    "a slow greeting": Plan(
        (WaitForAgent("end"), Pause(3_000), HangUp()),
        Script((Reply("text:Greet", (SATURDAY,)),), setup_delay_ms=2_900),
        AGENT,
    ),
    "a slow tool": Plan(
        (*OPENING, Pause(12_000), HangUp()),
        Script((GREETING, Reply("caller", (CallTool("slow"),)), Reply("tool:slow", (SATURDAY,)))),
        AGENT + TOOL,
    ),
}
# In the end the caller hears the fallback.
GIVEN_UP = {
    "deaf for ever": Plan(LOST, DEAF, AGENT, later=Script((Reply("caller", (Mute(),)),))),
    "away for ever": failing(Close(1011, "server"), later=BUSY, steps=LOST),
    "setups unanswered": failing(Abort(), later=UNANSWERED, steps=LOST),
    "never there": Plan((WaitForEnd(timeout_ms=60_000),), UNANSWERED, AGENT),
    "busy from the beginning": Plan((WaitForEnd(timeout_ms=60_000),), BUSY, AGENT),
    "key refused in the call": failing(
        Close(1008, "API key expired"), later=Script(refuse=Close(3000, "invalid_api_key")), steps=LOST
    ),
}


@pytest.fixture(scope="module", params=["gemini", "openai"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    plans = {
        name: Plan(p.steps, p.script, p.agent.replace("PROVIDER", request.param), later=p.later)
        for name, p in {**RECOVERS, **GIVEN_UP}.items()
    }
    return place_calls(plans)


@pytest.mark.parametrize("name", RECOVERS)
def test_caller_never_waits_in_silence(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.record.end_reason == "caller_hung_up", outcome.record.errors
    assert "Saturday" in " ".join(turn.heard_text for turn in outcome.record.turns[1:] or outcome.record.turns)
    assert longest_wait_s(outcome.truth) <= SILENT_AFTER_S + TOLERANCE_S


@pytest.mark.parametrize("name", GIVEN_UP)
def test_nor_until_the_fallback(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.record.end_reason in ("model_lost", "model_unreachable")
    assert [a.text for a in outcome.truth.announced if a.verb == "say"] == ["We will call you back."]
    assert longest_wait_s(outcome.truth) <= SILENT_AFTER_S + TOLERANCE_S


def test_a_filler_is_used_where_one_is_due(outcomes: dict[str, Outcome]) -> None:
    """The control: the silence without it would be longer."""
    for name in {**RECOVERS, **GIVEN_UP}.keys() - {"reset", "reset in the reply", "key refused in the call"}:
        kinds = [turn.kind for turn in outcomes[name].record.turns]
        assert "filler" in kinds, name

"""A caller who thinks, through a real gateway: both of its models are rehearsal models behind our own links."""

from __future__ import annotations

from itertools import pairwise

import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal import run
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import rehearse_outside, target_of
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.gateway.rehearsal.thinking import caller as thinking_caller
from offhook.gateway.rehearsal.thinking.party import party_for
from tests.rehearsal.thinking.talks import hum, played, talk
from tests.rig.gateway import serving

BYE = {"do": [hum("Bye."), {"tool": "hang_up", "args": {"reason": "Done."}}]}
ASKS = [{"on": "agent", **hum("A table?")}, {"on": "agent", **BYE}]
OFFERS = [
    {"on": "text", **hum("Hello.")},
    {"on": "caller", "heard": "A table?", **hum("A table at eight.")},
    {"on": "caller", **hum("Goodbye.")},
]
# Planted: the agent never offers anything.
STALLS = [*OFFERS[:1], {"on": "caller", **hum("We are nice people here.")}, *OFFERS[2:]]
MET = (
    '{"statements": [{"number": 1, "met": true, "reason": "at eight"}, {"number": 2, "met": true, "reason": "eight"}]}'
)
NOT_MET = MET.replace("true", "false").replace("at eight", "It only talked.")
JUDGES = [{"on": "text:AGENT: A table at eight.", "say": MET}, {"on": "text", "say": NOT_MET}]


@pytest.mark.parametrize("provider", ["gemini", "openai"])
async def test_both_sides_talk_and_the_judge_decides(provider):
    report = await played(talk(ASKS, OFFERS, JUDGES, caller={"model": provider}))
    thinking = report.thinking
    assert report.ok, report.verdicts
    assert [(line.who, line.text) for line in thinking.transcript] == [
        ("agent", "Hello."),
        ("caller", "A table?"),
        ("agent", "A table at eight."),
        ("caller", "Bye."),
        ("agent", "Goodbye."),
    ]
    assert (thinking.ended, thinking.why, thinking.turns, thinking.rehearsed) == ("hung_up", "Done.", 2, True)
    assert 0 < thinking.cost_usd < 0.01
    assert 0 < thinking.judgement.cost_usd < 0.01
    assert [turn.answered_ms is not None for turn in report.line.caller] == [True, True]
    assert [one.reason for one in thinking.judgement.statements] == ["at eight", "eight"]


async def test_a_planted_bad_agent_fails_with_reasons():
    report = await played(talk(ASKS, STALLS, JUDGES))
    assert not report.ok
    assert [verdict.words for verdict in report.verdicts if verdict.failed] == [
        "The agent offered a table: not so: It only talked.",
        "The agent named the time: not so: eight",
    ]


async def test_a_judge_without_a_verdict_is_no_pass():
    report = await played(talk(ASKS, OFFERS, [{"on": "text", "say": "It went very well!"}]))
    [failed] = [verdict.words for verdict in report.verdicts if verdict.failed]
    assert failed.startswith("not judged: its answer is no verdict")
    assert not report.thinking.judgement.passed


@pytest.mark.parametrize(
    ("limits", "ended", "turns"),
    [({"turns": 1}, "turns", 1), ({"seconds": 3}, "seconds", 1), ({"cost_usd": 0.0001}, "cost", 1)],
)
async def test_a_bound_ends_the_call_and_fails_it(limits, ended, turns):
    asks = [{"on": "agent", **hum("A table?")}, {"on": "agent", **hum("Please?")}, {"on": "agent", **hum("Please!")}]
    report = await played(talk(asks, OFFERS, JUDGES, caller={"limits": limits}))
    assert (report.thinking.ended, report.thinking.turns) == (ended, turns)
    assert report.line.ended_by == "caller"
    [words] = [verdict.words for verdict in report.verdicts if verdict.expectation == "caller"]
    assert words.startswith("the caller did not come to an end: the caller")
    assert not report.ok


async def test_an_agent_that_hangs_up_ends_the_call():
    agent = [OFFERS[0], {"on": "caller", "do": [hum("A table at eight. Bye."), {"tool": "end_call"}]}]
    ends = {"agent_fields": {"tools": [{"builtin": "end_call"}]}}
    report = await played(talk(ASKS[:1], agent, [{"on": "text", "say": MET}], **ends))
    assert report.ok, report.verdicts
    assert report.thinking.ended == "call_over"
    assert ("tool", "end_call({})") in [(line.who, line.text.partition(":")[0]) for line in report.thinking.transcript]


async def test_a_lost_caller_fails_with_the_reason():
    scenario = talk(ASKS, OFFERS, JUDGES, caller={"script": {"refuse": {"code": 1007, "reason": "no such voice"}}})
    report = await played(scenario)
    [failed] = [verdict.words for verdict in report.verdicts if verdict.expectation == "caller"]
    assert "the caller was lost: gave up: " in failed
    assert not report.ok


async def test_a_silent_line_prompts_the_caller(monkeypatch):
    """The agent waits for the caller, who waits for the agent."""
    monkeypatch.setattr(thinking_caller, "SILENT_S", 3.0)
    caller = [{"on": "text:silent", **hum("Hello?")}, {"on": "agent", **BYE}]
    agent = [{"on": "caller", **hum("A table at eight.")}, {"on": "caller", **hum("Goodbye.")}]
    report = await played(talk(caller, agent, JUDGES, agent_fields={"greeting": {}}))
    assert report.ok, report.verdicts
    assert 2_500 < report.line.caller[0].onset_ms < 6_000


@pytest.mark.parametrize("provider", ["gemini", "openai"])
async def test_the_caller_yields_when_the_agent_cuts_in(provider):
    """The agent's second sentence comes while the caller speaks; the rest of the caller's line is not said."""
    caller = [{"on": "agent", **hum("I want to say very much, and at great length.", 3_500)}, {"on": "agent", **BYE}]
    cuts_in = {"on": "text", "do": [hum("Hello."), {"wait_ms": 1_000}, hum("A table at eight.", 1_500)]}
    report = await played(
        talk(
            caller,
            [cuts_in, *OFFERS[2:]],
            JUDGES,
            caller={"model": provider},
            agent_fields={"barge_in": {"mode": "off"}},
        )
    )
    first = report.line.caller[0]
    assert first.end_ms - first.onset_ms < 2_500
    assert report.thinking.ended == "hung_up"


async def test_the_caller_presses_keys():
    press = {"tool": "press_keys", "args": {"keys": "1 #"}}
    caller = [{"on": "agent", "do": [press, hum("A table?")]}, {"on": "agent", **BYE}]
    told = {"told_model": ["pressed the key 1", "pressed the key #"]}
    report = await played(talk(caller, OFFERS, JUDGES, expect=told))
    assert report.ok, report.verdicts


async def test_an_unscripted_caller_needs_a_real_model():
    scenario = load_scenario("thinking-caller")
    bare = talk(ASKS, OFFERS, JUDGES)
    for one, environ, real, says in (
        (scenario, {}, True, "set GEMINI_API_KEY"),
        (bare, {"OPENAI_API_KEY": "k"}, True, "set GEMINI_API_KEY"),
    ):
        with pytest.raises(OperatorError, match=says):
            async with party_for(one, real=real, clock=running_clock(), environ=environ):
                pass


async def test_a_server_of_ones_own_gets_no_other_key():
    """Caller and judge are behind a URL of the scenario's; a server that got another key would refuse it."""
    alike, clock = talk(ASKS, OFFERS, JUDGES), running_clock()
    async with ModelServer(
        alike.thinker.script, text=alike.judge.script, tls=False, api_keys=frozenset({"mine"}), clock=clock
    ) as own:
        choice = {"name": "gpt-realtime-2.1", "url": f"{own.url}/v1"}
        judge = {"model": choice, "script": {"replies": JUDGES}}
        scenario = talk(ASKS, OFFERS, JUDGES, caller={"model": choice}, judge=judge)
        report = await played(scenario, {"OPENAI_API_KEY": "sesame", "REHEARSAL_CALLER_KEY": "mine"})
    assert report.ok, report.verdicts
    thinking = report.thinking
    assert (thinking.model, thinking.rehearsed, thinking.cost_usd) == ("gpt-realtime-2.1", False, None)
    assert (len(own.sessions), len(own.text.asked)) == (1, 1)


async def test_another_gateway_is_judged_by_what_was_heard(tmp_path, monkeypatch):
    """Without a record the agent's words are those that the caller's model transcribed."""
    monkeypatch.setattr(run, "write_call", lambda *_: {})  # pictures take a second
    hears = [{**ASKS[0], "heard": "Hello."}, {**ASKS[1], "heard": "A table at eight."}]
    scenario, clock = talk(hears, OFFERS, JUDGES), running_clock()
    async with (
        ModelServer(scenario.script(), clock=clock) as model,
        serving([scenario.agent], {"OFFHOOK_INSECURE": "1"}, model=model) as (_, url),
    ):
        gateway = target_of(f"{url}/twilio/voice", "", "", [])
        report = await rehearse_outside(scenario, gateway, None, tmp_path, seed=1, clock=clock)
    [call] = report.calls
    assert report.ok, call.verdicts
    assert [line.who for line in call.thinking.transcript] == ["agent", "caller", "agent", "caller"]
    assert all(a.at_ms <= b.at_ms for a, b in pairwise(call.thinking.transcript))

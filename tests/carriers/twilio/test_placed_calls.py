"""Calls we place, and what they are used for: the machine that answers, the status to its end, warm transfers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent, WaitForEnd
from offhook.gateway.rehearsal.phone.twilio_account import Callee
from offhook.gateway.rehearsal.quick_clock import run_quickly
from offhook.gateway.telephony.outbound import LOOK_S
from tests.carriers.twilio.telephone_rig import Exchange, exchange
from tests.rig.sounds import sound

YES = str(sound("uh_huh"))
GREETING = Reply("text", (Speak("Thank you for calling.", length_ms=1_200),))
MESSAGE = Reply("text", (Speak("Saturday for two is no problem.", length_ms=1_800),))
GREETS = "greeting: {text: Greet.}\nfallback: {say: Nobody is there.}"
LEAVES = "outbound: {on_machine: leave_message, message: Please call the Blue Heron back.}"
CONNECTS = Reply("caller", (Speak("I am connecting you.", length_ms=800), CallTool("connect")))
DECLINES = Reply("caller", (CallTool("decline"),))

AGENTS = {
    "desk": (GREETS, Script((GREETING,))),
    "talks": (f"{GREETS}\noutbound: {{on_machine: talk}}", Script((GREETING,))),
    "leaves": (f"{GREETS}\n{LEAVES}", Script((GREETING, MESSAGE))),
    "blind": (f"{GREETS}\noutbound: {{detect_machine: false}}", Script((GREETING,))),
    # Briefings take the script that what is said of the caller names.
    "agrees": ("", Script((GREETING, CONNECTS))),
    "declines": ("", Script((GREETING, DECLINES))),
}
CONSOLE_TOKEN = "console-token-canary"
# The rate itself: tests/telephony/test_outbound.py
ENVIRON = {"OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN, "OFFHOOK_CALLS_PER_S": "4"}
STAYS = (WaitForAgent("end"), Pause(400), HangUp())
MACHINE = (WaitForEnd(20_000),)
CALLEES = {
    "+15550300001": Callee(STAYS),
    "+15550300002": Callee(MACHINE, answered_by="machine_start", verdict_s=0.9),
    "+15550300003": Callee(MACHINE, answered_by="machine_end_beep", verdict_s=0.9),
    "+15550300004": Callee(MACHINE, answered_by="fax", verdict_s=0.6),
    "+15550300005": Callee(STAYS, answered_by="machine_start", verdict_s=0.5),
    "+15550300006": Callee(answers="busy"),
    "+15550300007": Callee(answers="no-answer"),
    "+15550300008": Callee(answers="failed"),
    "+15550300012": Callee(MACHINE, answered_by="machine_end_silence", verdict_s=0.9),
    "+15550300013": Callee(MACHINE, answered_by="machine_end_other", verdict_s=0.9),
    "+15550300014": Callee(MACHINE, answered_by="machine_start", verdict_s=0.0),
    "+15550300015": Callee(MACHINE, answered_by="machine_end_beep", verdict_s=0.0),
    "+15550300016": Callee(MACHINE, answered_by="fax", verdict_s=0.6),
    "+15550300010": Callee(STAYS, answered_by="unknown", verdict_s=0.5),
    "+15550300011": Callee(ring_s=30.0),
    "+15550400001": Callee((WaitForAgent("end"), Say(YES), WaitForAgent("end"), Pause(600), HangUp())),
    "+15550400002": Callee((WaitForAgent("end"), Say(YES), WaitForEnd())),
    "+15550400003": Callee(answers="busy"),
    "+15550400004": Callee((WaitForAgent("end"), WaitForEnd())),
}
# By function name: scenarios of one or more calls, run at the same time in one gateway. Each returns what it recorded.
STORIES: dict[str, Callable[[Exchange], Awaitable[Any]]] = {}


def story(function: Callable[[Exchange], Awaitable[Any]]) -> Callable[[Exchange], Awaitable[Any]]:
    """Register a scenario: its outcome is `told[NAME]`."""
    STORIES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """By scenario name: what it recorded (call records, webhook answers, counters)."""

    async def all_of_them() -> dict[str, Any]:
        async with exchange(AGENTS, callees=CALLEES.get, environ=ENVIRON) as x:
            outcomes = await asyncio.gather(*(tell(x) for tell in STORIES.values()))
            await x.until(lambda: not x.gateway.calls)
            return dict(zip(STORIES, outcomes, strict=True)) | {
                "counted": x.counted("calls_total"),
                "barge_ins": x.counted("barge_ins_total"),
            }

    return run_quickly(lambda _: all_of_them())


async def called(x: Exchange, to: str, agent: str = "desk", **more: Any) -> dict[str, Any]:
    """Have a call placed and follow it to its end: the API's last word, and the record if there is one."""
    status, placed = await x.api("POST", "/calls", {"to": to, "agent": agent, **more})
    assert status == 202, placed
    seen = [placed["status"]]
    async with asyncio.timeout(25):
        while seen[-1] not in ("completed", "busy", "no-answer", "failed", "canceled"):
            await asyncio.sleep(0.02)
            _, placed = await x.api("GET", f"/calls/{placed['id']}")
            if placed["status"] != seen[-1]:
                seen.append(placed["status"])
    call = x.twilio.calls.get(placed["call_sid"])
    record = await x.record(placed["call_sid"]) if call is not None else None
    return placed | {"seen": seen, "record": record, "truth": call.truth if call else None}


# --- who answers


@story
async def human(x: Exchange) -> Any:
    return await called(x, "+15550300001")


def test_a_call_is_followed_to_its_end(told: dict[str, Any]) -> None:
    outcome = told["human"]
    assert outcome["seen"][-1] == "completed"
    assert [s for s in outcome["seen"] if s in ("ringing", "in-progress")]
    record = outcome["record"]
    assert (record.direction, record.answered_by, record.end_reason) == ("outbound", "human", "caller_hung_up")
    assert (record.caller, record.dialled) == ("+15550200000", "+15550300001")
    assert record.turns[0].heard_ms == record.turns[0].received_ms > 0


@story
async def machine(x: Exchange) -> Any:
    return await called(x, "+15550300002")


@story
async def fax(x: Exchange) -> Any:
    return await called(x, "+15550300004")


@pytest.mark.parametrize(("name", "who"), [("machine", "machine_start"), ("fax", "fax")])
def test_a_machine_is_hung_up_on(told: dict[str, Any], name: str, who: str) -> None:
    record, truth = told[name]["record"], told[name]["truth"]
    assert (record.end_reason, record.answered_by) == ("answered_by_machine", who)
    assert record.turns == [] or record.turns[0].heard_ms < record.turns[0].received_ms  # in mid-word
    assert truth.ended_by == "twiml_hangup"


@story
async def fax_and_a_message(x: Exchange) -> Any:
    return await called(x, "+15550300016", "leaves")


@story
async def at_once(x: Exchange) -> Any:
    """The verdict before the stream, or even before the question what to do with the call."""
    return await asyncio.gather(called(x, "+15550300014"), called(x, "+15550300015", "leaves"))


def test_a_verdict_before_the_stream_is_not_lost(told: dict[str, Any]) -> None:
    machine, voicemail = told["at_once"]
    assert machine["record"].end_reason == "answered_by_machine"
    assert voicemail["record"].end_reason == "agent_hung_up"
    assert voicemail["record"].turns[-1].reply_text == "Saturday for two is no problem."


def test_no_message_is_left_to_a_fax(told: dict[str, Any]) -> None:
    record = told["fax_and_a_message"]["record"]
    assert (record.end_reason, record.answered_by) == ("answered_by_machine", "fax")
    assert "Saturday for two is no problem." not in [t.reply_text for t in record.turns]


@story
async def voicemail(x: Exchange) -> Any:
    numbers = {"beep": "+15550300003", "silence": "+15550300012", "other": "+15550300013"}
    outcomes = await asyncio.gather(*(called(x, number, "leaves") for number in numbers.values()))
    return dict(zip(numbers, outcomes, strict=True))


@pytest.mark.parametrize("end", ["beep", "silence", "other"])
def test_message_is_left_whole_then_call_ends(told: dict[str, Any], end: str) -> None:
    record, truth = told["voicemail"][end]["record"], told["voicemail"][end]["truth"]
    assert (record.end_reason, record.answered_by) == ("agent_hung_up", f"machine_end_{end}")
    greeting, message = record.turns
    assert greeting.interrupted
    assert message.reply_text == "Saturday for two is no problem."
    assert message.heard_ms == message.received_ms > 1500
    assert truth.ended_by == "twiml_hangup"


@story
async def talked_to(x: Exchange) -> Any:
    return await asyncio.gather(called(x, "+15550300005", "talks"), called(x, "+15550300010"))


@pytest.mark.parametrize("name", ["machine", "fax"])
def test_machine_in_mid_sentence_is_no_barge_in(told: dict[str, Any], name: str) -> None:
    record = told[name]["record"]
    assert record.turns[0].interrupted  # its greeting was cut ...
    assert record.barge_ins == []  # ... by the gateway, and by no caller
    assert told["barge_ins"] == {}


def test_agent_goes_on_with_machine_or_unknown(told: dict[str, Any]) -> None:
    for outcome, who in zip(told["talked_to"], ("machine_start", "unknown"), strict=True):
        record = outcome["record"]
        assert (record.end_reason, record.answered_by) == ("caller_hung_up", who)
        assert record.turns[0].heard_ms == record.turns[0].received_ms


@story
async def unreached(x: Exchange) -> Any:
    numbers = ("+15550300006", "+15550300007", "+15550300008", "+15550309999")
    return await asyncio.gather(*(called(x, number) for number in numbers))


def test_calls_that_are_not_answered(told: dict[str, Any]) -> None:
    assert [o["status"] for o in told["unreached"]] == ["busy", "no-answer", "failed", "failed"]
    assert all(o["record"] is None for o in told["unreached"])
    assert "21211" in told["unreached"][-1]["error"]
    assert "+15550309999" not in told["unreached"][-1]["error"]  # numbers are nobody's business


@story
async def taken_back(x: Exchange) -> Any:
    _, placed = await x.api("POST", "/calls", {"to": "+15550300011", "agent": "blind"})
    await x.until(lambda: "ringing" in x.twilio.statuses.values())
    found = x.gateway.switchboard.outbound.find(placed["id"])
    assert found is not None
    await x.until(lambda: found.status == "ringing")
    done = await x.api("POST", f"/calls/{placed['id']}/hang_up")
    return done, x.twilio.statuses[found.call_sid], next(a for a in x.twilio.asked if a.form.get("To") == found.to)


def test_a_ringing_call_can_be_taken_back(told: dict[str, Any]) -> None:
    done, status, asked = told["taken_back"]
    assert done == (200, {"done": True})
    assert status == "canceled"
    assert "MachineDetection" not in asked.form  # this agent asks for none


# --- the API


@story
async def refused(x: Exchange) -> Any:
    good = {"to": "+15550300001", "agent": "desk"}
    return [
        await x.api("POST", "/calls", good, token=""),
        await x.api("POST", "/calls", good, token="wrong"),
        await x.api("POST", "/calls", good, token=CONSOLE_TOKEN),  # who may look may not call
        await x.api("GET", "/calls/nothing", token=""),
        await x.api("POST", "/calls", {**good, "to": "tel:1"}),
        await x.api("POST", "/calls", {**good, "agent": "nobody"}),
        await x.api("POST", "/calls", {**good, "variables": {"a": 1}}),
        await x.api("POST", "/calls", [good]),
        await x.api("POST", "/calls", {**good, "variabels": {}}),
        await x.api("POST", "/calls", {**good, "variables": {"a": "x" * 70_000}}),
        await x.api("POST", "/calls", {**good, "variables": {str(n): "" for n in range(51)}}),
        await x.api("GET", "/calls/nothing"),
        await x.api("POST", "/calls/nothing/hold"),
        await x.api("POST", "/calls/nothing/explode"),
        await x.api("POST", "/calls/nothing/transfer", {"to": "the desk"}),
        await x.api("POST", "/calls/nothing/hold", {"music": "javascript:alert(1)"}),
    ]


def test_the_api_refuses_strangers_and_nonsense(told: dict[str, Any]) -> None:
    statuses = [status for status, _ in told["refused"]]
    assert statuses == [401, 401, 401, 401, 400, 400, 400, 400, 400, 413, 400, 404, 409, 404, 400, 400]
    for status, body in told["refused"]:
        assert status == 409 or body["error"], body  # in the form of the answers, with the cure
    assert "there are desk, talks" in told["refused"][5][1]["error"]
    assert "variabels" in told["refused"][8][1]["error"]


# --- warm transfer


async def warm(x: Exchange, human: str, about: str) -> Any:
    call = x.call("desk", WaitForEnd(25_000))
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    body = {"to": human, "warm": True, "whisper": about}
    assert (await x.api("POST", f"/calls/{call.call_sid}/transfer", body))[0] == 200
    met: list[str] = []

    async def watch() -> None:
        while not running.done():
            met[:] = max(met, x.twilio.met(f"offhook-{call.call_sid}"), key=len)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    truth = await running
    await watching
    legs = [c for c in x.twilio.calls.values() if c.truth.dialled == human]
    for leg in legs:
        await x.until(lambda leg=leg: leg.over)
    record = await x.record(legs[0].call_sid) if legs else None
    return truth, await x.record(call.call_sid), record, met, [leg.truth for leg in legs]


@story
async def warm_agreed(x: Exchange) -> Any:
    return await warm(x, "+15550400001", "plan agrees. Ann wants a table.")


def test_a_warm_transfer_brings_both_together(told: dict[str, Any]) -> None:
    truth, record, briefing, met, [human] = told["warm_agreed"]
    assert record.end_reason == "transferred"
    assert (briefing.agent, briefing.end_reason) == ("desk (briefing)", "agent_hung_up")
    assert [t.name for t in briefing.tool_calls] == ["connect"]
    assert sorted(met) == sorted([truth.call_sid, human.call_sid])
    assert [a.verb for a in truth.announced] == ["dial", "hangup"]  # music until the human is there; then the end
    assert truth.violations == human.violations == []


@story
async def warm_declined(x: Exchange) -> Any:
    return await warm(x, "+15550400002", "plan declines. A complaint.")


@story
async def warm_busy(x: Exchange) -> Any:
    return await warm(x, "+15550400003", "plan agrees.")


@pytest.mark.parametrize("name", ["warm_declined", "warm_busy"])
def test_a_caller_whom_nobody_meets_is_told(told: dict[str, Any], name: str) -> None:
    truth, record, _, met, _ = told[name]
    assert record.end_reason == "transferred"
    assert met == []
    assert [(a.verb, a.text) for a in truth.announced][1:] == [("say", "Nobody is there."), ("hangup", "")]


@story
async def warm_left(x: Exchange) -> Any:
    call = x.call("desk")
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    body = {"to": "+15550400004", "warm": True, "whisper": "plan agrees."}
    await x.api("POST", f"/calls/{call.call_sid}/transfer", body)
    await x.until(lambda: any(c.truth.dialled == "+15550400004" and c.truth.agent for c in x.twilio.calls.values()))
    call.hang_up()
    await running
    (leg,) = (c for c in x.twilio.calls.values() if c.truth.dialled == "+15550400004")
    return await x.record(leg.call_sid), leg


def test_a_caller_who_does_not_wait_ends_the_briefing(told: dict[str, Any]) -> None:
    record, leg = told["warm_left"]
    assert record.agent == "desk (briefing)"
    assert record.end_reason == "agent_hung_up"
    assert "connect" not in [t.name for t in record.tool_calls]
    assert leg.truth.ended_by == "twiml_hangup"


# --- many


async def test_fifty_calls_keep_the_rate_to_their_ends() -> None:
    """Twilio says 429 now and then, too: nobody is called twice for it, and nobody is left out."""
    agents = {"desk": (f"{GREETS}\noutbound: {{detect_machine: false}}", Script((GREETING,)))}
    busy = Callee(answers="busy", ring_s=0.02)
    async with exchange(agents, callees=lambda _: busy, environ={"OFFHOOK_CALLS_PER_S": "20"}) as x:
        numbers = [f"+1555060{n:04d}" for n in range(50)]
        x.twilio.faults.extend([(429, 20429)] * 5)
        ids = []
        for number in numbers:
            status, placed = await x.api("POST", "/calls", {"to": number})
            assert (status, placed["status"]) == (202, "waiting")
            ids.append(placed["id"])
        found = [x.gateway.switchboard.outbound.find(call_id) for call_id in ids]
        await x.until(lambda: all(placed is not None and placed.over for placed in found), 40.0)
        assert {placed.status for placed in found if placed is not None} == {"busy"}
        made = [a for a in x.twilio.asked if a.path == "/Calls.json" and a.status == 201]
        assert sorted(a.form["To"] for a in made) == numbers
        # The rate, less what may be made up for at once and what 429 held back; a slow machine only takes longer.
        assert made[-1].at_s - made[0].at_s >= (50 - 20 * LOOK_S) / 20 - 3 * LOOK_S
        print(f"50 calls at 20 a second took {made[-1].at_s - made[0].at_s:.2f} s")


async def test_no_number_and_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with exchange(AGENTS, callees=CALLEES.get, environ={"OFFHOOK_CALLS_PER_S": "20"}) as x:
        x.twilio.faults.append((503, 0))
        await asyncio.gather(
            called(x, "+15550300006"), called(x, "+15550309999"), warm(x, "+15550400003", "plan agrees."), human(x)
        )
        await x.webhook("/twilio/voice", {"CallSid": "CA" + "7" * 32, "To": "+15550777", "From": "+15550888"})
        metrics = x.gateway.metrics.render().decode()
    said = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("offhook."))
    assert "twilio:" in said  # its refusals are told ...
    assert not re.findall(r"\+?1555\d{3,}", said + metrics)  # ... without the numbers in them
    assert "canary" not in caplog.text + metrics


def test_nothing_ended_for_an_internal_reason(told: dict[str, Any]) -> None:
    assert not [labels for labels in told["counted"] if "internal_error" in labels or "other" in labels]

"""Every path of /twilio/after: simulated calls over real sockets, all at once, each with its own story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from offhook.gateway.conversation.state import Phase
from offhook.gateway.rehearsal.model.script import CallTool, Close, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent, WaitForEnd
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import run_quickly
from tests.carriers.twilio.telephone_rig import GREETING, Exchange, exchange
from tests.rig.sounds import sound

HELLO = Reply("text", (Speak("Hello.", length_ms=600),))
GOODBYE = Speak("It is booked. Goodbye!", length_ms=900)
YES = str(sound("uh_huh"))
GREETS = "greeting: {text: Greet.}\nfallback: {say: Please call again tomorrow.}"
BUSY, HUMAN = "+15550170001", "+15550170002"

AGENTS = {
    "plain": (GREETS, Script((GREETING,))),
    "dropped": (GREETS, Script((GREETING,))),
    "leaves": (
        f"{GREETS}\ntools: [{{builtin: end_call}}]",
        Script((HELLO, Reply("caller", (GOODBYE, CallTool("end_call"))))),
    ),
    "dead": (GREETS, Script(refuse=Close(1008, "models/unknown is not found"))),
    "human behind": (
        "greeting: {text: Greet.}\nfallback: {say: One moment., dial: '+15550170099'}",
        Script(refuse=Close(1008, "no")),
    ),
    "queue behind": (
        "greeting: {text: Greet.}\nfallback: {say: One moment., enqueue: support}",
        Script(refuse=Close(1008, "no")),
    ),
}
Story = Callable[[Exchange], Awaitable[Any]]
# By function name: scenarios of one or more calls, run at the same time in one gateway. Each returns what it recorded.
STORIES: dict[str, Story] = {}


def story(function: Story) -> Story:
    """Register a scenario: its outcome is `told[NAME]`."""
    STORIES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """By scenario name: what it recorded (call records, webhook answers, counters)."""

    async def all_of_them() -> dict[str, Any]:
        async with exchange(AGENTS) as x:
            outcomes = await asyncio.gather(*(tell(x) for tell in STORIES.values()))
            await x.until(lambda: not x.gateway.calls)
            return dict(zip(STORIES, outcomes, strict=True)) | {"counted": x.counted("calls_total")}

    return run_quickly(lambda _: all_of_them())


def verbs(truth: CallTruth) -> list[tuple[str, str]]:
    return [(a.verb, a.text) for a in truth.announced]


# --- the conversation is over


@story
async def hung_up_by_the_agent(x: Exchange) -> Any:
    return await x.placed("leaves", WaitForAgent("end"), Say(YES), WaitForEnd())


def test_an_agent_s_hang_up_is_a_hang_up(told: dict[str, Any]) -> None:
    truth, record = told["hung_up_by_the_agent"]
    assert record.end_reason == "agent_hung_up"
    assert (truth.ended_by, verbs(truth)) == ("twiml_hangup", [("hangup", "")])
    assert truth.violations == []


@story
async def model_unreachable(x: Exchange) -> Any:
    return await asyncio.gather(*(x.placed(a, WaitForEnd(30_000)) for a in ("dead", "human behind", "queue behind")))


def test_unreachable_model_gives_the_fallback(told: dict[str, Any]) -> None:
    (line, record), (human, _), (queue, _) = told["model_unreachable"]
    assert record.end_reason == "model_unreachable"
    assert verbs(line) == [("say", "Please call again tomorrow."), ("hangup", "")]
    assert verbs(human) == [("say", "One moment."), ("dial", "+15550170099")]
    assert verbs(queue) == [("say", "One moment."), ("enqueue", "support")]


# --- transfers


async def transferred(x: Exchange, body: dict[str, Any], carrier: Carrier | None = None) -> Any:
    call = x.call("plain", WaitForEnd(), carrier=carrier or Carrier())
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    status, _ = await x.api("POST", f"/calls/{call.call_sid}/transfer", body)
    assert status == 200
    return await running, await x.record(call.call_sid)


@story
async def transfer(x: Exchange) -> Any:
    return await transferred(x, {"to": HUMAN, "whisper": "Ann wants a table <for> two & a dog."})


def test_transfer_dials_once_after_the_reply(told: dict[str, Any]) -> None:
    truth, record = told["transfer"]
    assert record.end_reason == "transferred"
    assert record.turns[-1].heard_ms == record.turns[-1].received_ms > 0
    dialled = [("dial", HUMAN), ("whisper", "Ann wants a table <for> two & a dog."), ("hangup", "")]
    assert verbs(truth) == dialled
    assert truth.violations == []


@story
async def transfer_to_nobody(x: Exchange) -> Any:
    return await transferred(x, {"to": BUSY}, Carrier(dial_status="busy"))


def test_a_transfer_that_nobody_takes_ends_with_a_word(told: dict[str, Any]) -> None:
    truth, _ = told["transfer_to_nobody"]
    assert verbs(truth) == [("dial", BUSY), ("say", "Please call again tomorrow."), ("hangup", "")]


# --- streams that come back


@story
async def dropped(x: Exchange) -> Any:
    call = x.call("dropped", WaitForAgent("end"), Pause(300), HangUp(), carrier=Carrier(drop_after_s=1.2))
    truth, record = await call.run(), await x.record(call.call_sid)
    return truth, record, sum("plan dropped." in str(s.setup) for s in x.model.sessions)


def test_reply_continues_on_a_replaced_stream(told: dict[str, Any]) -> None:
    truth, record, sessions = told["dropped"]
    assert sessions == 1  # the conversation went on in the same one
    assert record.end_reason == "caller_hung_up"
    assert len(record.streams) == len(truth.streams) == 2
    tokens = {f.answer.partition('value="')[2].partition('"')[0] for f in truth.fetched if "<Stream" in f.answer}
    assert len(tokens) == 2  # each stream has its own
    assert truth.violations == []
    gap_s = truth.streams[1].started_s - truth.streams[0].closed_s
    print(f"socket lost -> next stream: {1000 * gap_s:.0f} ms")
    assert gap_s < 1.0
    # Where the second stream goes on, measured in the same reply as another call heard it whole.
    whole, _ = told["transfer"]
    closed_at = (truth.streams[0].closed_s - truth.began_s) * 8000
    *_, first = (p for p in truth.played if p.place < closed_at)
    back = next(p for p in truth.played if p.place > closed_at)
    cut = first.place + first.samples
    broke_off = whole.right.find(truth.right[cut - 800 : cut]) + 800
    went_on = whole.right.find(truth.right[back.place + 160 : back.place + 960]) - 160  # behind the fade
    assert broke_off > 800
    assert went_on > 0
    print(f"at the seam: {(went_on - broke_off) / 8:+.0f} ms (+ not heard, - heard twice)")
    assert abs(went_on - broke_off) <= 400
    assert record.turns[0].heard_ms == record.turns[0].received_ms


@story
async def unheard_of(x: Exchange) -> Any:
    form = {"CallSid": "CA" + "9" * 32, "AccountSid": x.twilio.account_sid, "To": x.numbers["plain"]}
    live = await x.webhook("/twilio/after", {**form, "CallStatus": "in-progress"})
    return live, await x.webhook("/twilio/after", {**form, "CallStatus": "completed"})


def test_a_call_that_nobody_knows(told: dict[str, Any]) -> None:
    live, over = told["unheard_of"]
    assert live[0] == over[0] == 200
    assert "<Say>Please call again tomorrow.</Say><Hangup />" in live[1]
    assert "<Response><Hangup /></Response>" in over[1]


@story
async def asked_again(x: Exchange) -> Any:
    """The stream's first sign of death is Twilio's question, asked twice; then the same after the end."""
    call = x.call("plain", WaitForAgent("end"), Pause(200), HangUp())
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    form = {"CallSid": call.call_sid, "AccountSid": x.twilio.account_sid, "To": "", "CallStatus": "in-progress"}
    first = await x.webhook("/twilio/after", form)
    second = await x.webhook("/twilio/after", form)
    truth = await running
    record = await x.record(call.call_sid)
    ended = [await x.webhook("/twilio/after", form) for _ in range(2)]
    return first, second, ended, truth, record


def test_the_same_question_gets_the_same_answer(told: dict[str, Any]) -> None:
    first, second, ended, truth, record = told["asked_again"]
    assert first == second
    assert "<Stream" in first[1]
    assert ended[0] == ended[1]
    assert "<Hangup" in ended[0][1]
    assert record.end_reason == "caller_hung_up"
    # We closed the stream on Twilio's word that it was over; it asked by itself, too, and got the call back.
    assert len(truth.streams) == 2


# --- away on purpose: hold, keys


@story
async def on_hold(x: Exchange) -> Any:
    call = x.call("plain")
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    held = await x.api("POST", f"/calls/{call.call_sid}/hold", {"say": "One moment, please."})
    again = await x.api("POST", f"/calls/{call.call_sid}/hold", {})
    await x.until(lambda: any(a.verb == "play" for a in call.truth.announced))
    resumed = await x.api("POST", f"/calls/{call.call_sid}/resume")
    await x.until(lambda: len(call.truth.streams) == 2)
    twice = await x.api("POST", f"/calls/{call.call_sid}/resume")
    await x.until(lambda: x.gateway.calls[call.call_sid].phase is Phase.LISTENING)  # all was said
    call.hang_up()
    truth = await running
    return held, again, resumed, twice, truth, await x.record(call.call_sid)


def test_hold_and_resume(told: dict[str, Any]) -> None:
    held, again, resumed, twice, truth, record = told["on_hold"]
    assert [status for status, _ in (held, again, resumed, twice)] == [200, 409, 200, 409]
    assert [verb for verb, _ in verbs(truth)] == ["say", "play"]
    assert truth.streams[0].closed_by == "carrier"  # `stop`: and yet not the caller's hang-up
    assert record.end_reason == "caller_hung_up"
    assert len(record.streams) == 2
    assert record.turns[0].heard_ms == record.turns[0].received_ms


@story
async def keys(x: Exchange) -> Any:
    call = x.call("plain", WaitForAgent("end"), Pause(500), HangUp())
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.agent)
    pressed = await x.api("POST", f"/calls/{call.call_sid}/press", {"digits": "12w#</Play>"})
    return pressed, await running, await x.record(call.call_sid)


def test_keys_are_pressed_and_the_stream_comes_back(told: dict[str, Any]) -> None:
    pressed, truth, record = told["keys"]
    assert pressed[0] == 200
    assert verbs(truth) == [("play", "12w#")]
    assert len(record.streams) == 2
    assert record.end_reason == "caller_hung_up"


def test_nothing_ended_for_an_internal_reason(told: dict[str, Any]) -> None:
    assert not [labels for labels in told["counted"] if "internal_error" in labels or "other" in labels]

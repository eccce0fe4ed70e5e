"""The seams are true: a carrier with Plivo's words carries calls, and nothing but itself was written for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from offhook.gateway import site
from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.record import CallRecord
from offhook.media import mulaw
from offhook.media.resample import resample
from offhook.media.wav import read_wav
from tests.carriers.second_carrier import PlivoPhone, PlivoWords
from tests.rig.gateway import numbered_agents, serving
from tests.rig.sounds import sound

LONG = Reply("text", (Speak("Thank you for calling.", length_ms=6_000),))
BOOKED = Reply("caller", (Speak("It is booked. Goodbye!", length_ms=900), CallTool("end_call")))
AGENT = "greeting: {text: Greet.}\nfallback: {say: Call again.}\ntools: [{builtin: end_call}]"


@asynccontextmanager
async def calling(script: Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Gateway, PlivoPhone]]:
    """A gateway whose carrier is the second one, and a phone that calls it."""
    monkeypatch.setattr(site, "Twilio", PlivoWords)
    numbers, agents = numbered_agents({"desk": AGENT})
    async with (
        ModelServer(script) as model,
        aiohttp.ClientSession() as http,
        serving(agents, {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
    ):
        yield gateway, PlivoPhone(http, url, "P1", numbers["desk"])


def spoken(part: str) -> bytes:
    samples, rate_hz = read_wav(sound(part))
    return mulaw.encode(resample(samples, rate_hz, 8_000))


async def until_heard(phone: PlivoPhone, seconds: float) -> None:
    async with asyncio.timeout(20):
        while phone.heard_s < seconds:
            await asyncio.sleep(0.01)


async def record_of(gateway: Gateway, call_id: str) -> CallRecord:
    async with asyncio.timeout(20):
        while (record := await gateway.records.get(call_id)) is None:
            await asyncio.sleep(0.01)
    return record


async def test_barge_in_tool_and_hang_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(Script((LONG, BOOKED)), monkeypatch) as (gateway, phone):
        answer = await phone.post("answer")
        streaming = asyncio.create_task(phone.stream(answer["stream"]))
        await until_heard(phone, 1.0)
        phone.speech += spoken("hello_i_would")
        async with asyncio.timeout(30):
            await streaming  # the agent hangs up: the gateway closes the stream
        assert await phone.post("after") == {"hang_up": True}
        record = await record_of(gateway, "P1")
    assert record.end_reason == "agent_hung_up"
    assert [tool.name for tool in record.tool_calls] == ["end_call"]
    greeting, goodbye = record.turns
    assert greeting.interrupted
    assert 1_000 < greeting.heard_ms < 4_000
    assert goodbye.heard_ms == goodbye.received_ms
    assert record.barge_ins[0].clear_sent_ms is not None
    assert "clearAudio" in phone.events
    assert record.errors == []


async def test_a_lost_stream_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(Script((LONG,)), monkeypatch) as (gateway, phone):
        answer = await phone.post("answer")
        streaming = asyncio.create_task(phone.stream(answer["stream"]))
        await until_heard(phone, 1.0)
        await phone.drop()
        await streaming
        answer = await phone.post("after")
        streaming = asyncio.create_task(phone.stream(answer["stream"], 2))
        await until_heard(phone, 6.0)
        await phone.post("hangup")
        await streaming
        record = await record_of(gateway, "P1")
    assert record.streams == ["P1-1", "P1-2"]
    assert record.end_reason == "caller_hung_up"
    assert record.turns[0].heard_ms == pytest.approx(6_000, abs=100)
